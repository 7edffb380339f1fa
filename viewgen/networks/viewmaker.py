"""Viewmaker: a network that makes bounded changes to an image.

An image-to-image network with a noise input proposes a change, which is scaled to a fixed mean size and
added. Training it to raise the loss of a contrastive encoder gives hard views.

References:
    Viewmaker Networks: Learning Views for Unsupervised Representation Learning, Tamkin, Wu and Goodman, 2021,
    https://arxiv.org/abs/2010.07432

Shape legend: B images, H, W space.
"""

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.settings import Settings, setting

__all__ = ["Viewmaker", "ViewmakerConfig", "num_noise_channels"]

NUM_BLOCKS = 3


class ViewmakerConfig(Settings):
    """Shape and strength of a Viewmaker."""

    title: ClassVar[str] = "the Viewmaker's shape"

    budget: float = setting(0.05, "mean absolute change of a pixel, as a share of its range", gt=0, le=1)
    width: int = setting(
        32,
        "channels after the stem's first convolution; later layers have two and four times as many",
        ge=1,
    )


def num_noise_channels() -> int:
    """Noise channels of a view: one before the stem and one before each block."""
    return 1 + NUM_BLOCKS


class _Convolution(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, padding_mode="reflect"),
            nn.InstanceNorm2d(channels_out, affine=True),
        )


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels, 3)
        self.second = _Convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.second(F.relu(self.first(x))))


class Viewmaker(nn.Module):
    """Image and noise → view.

    Attributes:
        config: shape and strength.
    """

    def __init__(self, config: ViewmakerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.ModuleList(
            [
                _Convolution(3 + 1, width, 9),
                _Convolution(width, 2 * width, 3, stride=2),
                _Convolution(2 * width, 4 * width, 3, stride=2),
            ]
        )
        # each block gets a further channel of noise, and hands it on
        self.blocks = nn.ModuleList(_Block(4 * width + 1 + index) for index in range(NUM_BLOCKS))
        self.up = nn.ModuleList(
            [_Convolution(4 * width + NUM_BLOCKS, 2 * width, 3), _Convolution(2 * width, width, 3)]
        )
        self.last = nn.Conv2d(width, 3, 9, padding=4, padding_mode="reflect")

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Make a view of each image.

        Args:
            images: model images `(B, 3, H, W)` in [−1, 1].
            noise: uniform numbers in [0, 1), `(B, num_noise_channels(), H, W)`.

        Returns:
            views `(B, 3, H, W)` in [−1, 1].
        """
        x = torch.cat([images, noise[:, :1]], dim=1)
        sizes = []
        for layer in self.stem:
            sizes.append(x.shape[2:])
            x = F.relu(layer(x))
        height, width = x.shape[2:]
        for index, block in enumerate(self.blocks):
            x = block(torch.cat([x, noise[:, index + 1 : index + 2, :height, :width]], dim=1))
        for layer, size in zip(self.up, (sizes[2], sizes[1]), strict=True):
            x = F.relu(layer(F.interpolate(x, size=size, mode="nearest")))
        change = torch.tanh(self.last(x))
        mean = change.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8)
        # a share of the range 0 … 1 is twice as much in model units
        return (images + 2 * self.config.budget * change / mean).clamp(-1, 1)
