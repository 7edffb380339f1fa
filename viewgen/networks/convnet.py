"""A small network of strided convolutions, whose features are means over space.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    appendix B.4 (8, 16, 32 and 64 filters on 64-px images), https://arxiv.org/abs/2005.10243
"""

from collections.abc import Callable

from torch import Tensor, nn

from viewgen.networks.layout import Conv2d

__all__ = ["ConvNet"]

WIDTHS = (1, 2, 4, 8)


class ConvNet(nn.Sequential):
    """Backbone of four convolutions, each of which halves the side, rounded up.

    Args:
        in_channels: C.
        width: filters of the first of four layers; each has twice as many as the one before.
        norm: constructor of the normalisation of so many channels.

    Attributes:
        channels: channels behind each convolution.
    """

    def __init__(self, in_channels: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        channels = tuple(width * factor for factor in WIDTHS)
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels, strict=False):
            layers += [Conv2d(before, after, 3, stride=2, padding=1, bias=False), norm(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.channels = channels

    def maps(self, images: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to the last map, `(B, F, h, w)`, whose means are the features."""
        for layer in list(self)[:-2]:
            images = layer(images)
        return images
