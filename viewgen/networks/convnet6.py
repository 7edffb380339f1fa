"""A small backbone: six convolutions, each with a normalisation and a rectifier.

Each convolution has a 4×4 kernel and halves the side, so that an image of 64 px becomes one pixel. Of smaller
images the first convolutions are 3×3 and keep the side. Widths are w·(1, 2, 4, 8, 8, 8).

Shape legend: B images, C channels, H = W side, F = 8·w features.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020 (six layers; their widths are not
    printed), https://arxiv.org/abs/2012.09962
"""

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["ConvNet6"]

WIDTHS = (1, 2, 4, 8, 8, 8)


class ConvNet6(nn.Module):
    """Backbone of six convolutions.

    Args:
        in_channels: C.
        width: w, channels of the first convolution.
        side: H = W of the images that it is built for, in pixels.
        norm: constructor of the normalisation of so many channels.

    Attributes:
        channels: channels behind each convolution.
        strides: stride of each convolution.
    """

    def __init__(
        self, in_channels: int, width: int, side: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.channels = tuple(width * factor for factor in WIDTHS)
        halvings = min(len(WIDTHS), side.bit_length() - 1)
        self.strides = (1,) * (len(WIDTHS) - halvings) + (2,) * halvings
        layers: list[nn.Module] = []
        for before, after, stride in zip(
            (in_channels, *self.channels), self.channels, self.strides, strict=False
        ):
            kernel = 4 if stride == 2 else 3
            layers += [nn.Conv2d(before, after, kernel, stride, 1, bias=False), norm(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def maps(self, images: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to the last map, `(B, F, h, w)`; one pixel for 2ᵏ ≤ 64 px."""
        maps: Tensor = self.layers(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to features `(B, F)`, the mean of the last map."""
        return self.maps(images).mean(dim=(2, 3))
