"""The inverter e: image → W⁺ (in-domain GAN inversion, Zhu et al. 2020; eq. 4 of the paper).

A residual network that predicts the offset of every layer's latent vector from the generator's mean latent.
No truncation is applied to its output (ψ = 1).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.stylegan2 import num_style_layers

__all__ = ["Inverter", "InverterConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InverterConfig:
    """Shape of an inverter.

    Attributes:
        image_size: side of the image in pixels.
        channels: feature channels at 4, 8, … `image_size` px (the generator's order).
        hidden_dim: width of the layer between the 4×4 features and the latent codes.
        style_dim: width of one latent vector.
    """

    image_size: int
    channels: tuple[int, ...]
    hidden_dim: int = 256
    style_dim: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.image_size != 4 * 2 ** (len(self.channels) - 1):
            raise ModelError(
                f"channels has {len(self.channels)} entries, one for each of 4, 8, … px; that is "
                f"{4 * 2 ** (len(self.channels) - 1)} px, but image_size is {self.image_size}"
            )


class DownBlock(nn.Module):
    """Residual block that halves the sides."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, O, H/2, W/2)`."""
        return torch.relu(self.branch(x) + self.skip(x))


class Inverter(nn.Module):
    """e: image → W⁺.

    Attributes:
        config: the network's shape.
        latent_avg: mean latent of the generator it belongs to, `(style_dim,)`; part of the state dict.
    """

    latent_avg: Tensor

    def __init__(self, config: InverterConfig) -> None:
        super().__init__()
        self.config = config
        self.num_layers = num_style_layers(config.image_size)
        channels = config.channels[::-1]
        blocks: list[nn.Module] = [
            nn.Conv2d(3, channels[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        blocks += [DownBlock(wide, narrow) for wide, narrow in pairwise(channels)]
        self.trunk = nn.Sequential(*blocks)
        self.hidden = nn.Linear(channels[-1] * 16, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, self.num_layers * config.style_dim)
        # the first predictions lie near the mean latent, where every generator gives an image
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("latent_avg", torch.zeros(config.style_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Map model images `(B, 3, size, size)` to codes `(B, L, style_dim)`."""
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ModelError(
                f"images have shape {tuple(images.shape)}; this inverter takes (B, 3, {size}, {size})"
            )
        features = self.trunk(images).flatten(1)
        offset = self.head(nn.functional.leaky_relu(self.hidden(features), 0.2))
        codes: Tensor = self.latent_avg + offset.unflatten(1, (self.num_layers, self.config.style_dim))
        return codes
