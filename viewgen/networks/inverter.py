"""The inverter e: image → W⁺, by in-domain GAN inversion.

A residual network that predicts the offset of every layer's latent vector from the generator's mean latent.
For a class-conditional generator the offset is relative to the mean latent of the image's class, so the label
conditions W⁺. No truncation is applied to the output (ψ = 1).

References:
    In-Domain GAN Inversion for Real Image Editing, Zhu, Shen, Zhao and Zhou, 2020,
    https://arxiv.org/abs/2004.00049
"""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.networks.config import NetworkConfig
from viewgen.networks.initial import fill_normal
from viewgen.networks.layout import laid_out_for
from viewgen.networks.precision import Bfloat16
from viewgen.networks.stylegan2 import Generator, num_style_layers
from viewgen.networks.stylegan2.generator import MOST_CHANNELS
from viewgen.settings import setting

__all__ = ["Inverter", "InverterConfig"]


class InverterConfig(NetworkConfig):
    """Shape of an inverter."""

    title: ClassVar[str] = "the inverter's shape"

    image_size: int = setting(..., "side of the image in pixels", ge=1, le=4096)
    channels: tuple[int, ...] = setting(
        ..., "feature channels at 4, 8, … image_size px (the generator's order)", min_length=1, max_length=11
    )
    hidden_dim: int = setting(
        256, "width of the layer between the 4×4 features and the codes", ge=1, le=2**16
    )
    style_dim: int = setting(512, "width of one latent vector", ge=1, le=16384)
    num_classes: int = setting(
        0, "classes of a class-conditional generator, otherwise 0", ge=0, le=10**6, since=2
    )

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not 1 <= min(self.channels) <= max(self.channels) <= MOST_CHANNELS:
            raise ModelError(f"every entry of channels must be at least 1 and at most {MOST_CHANNELS}")
        if self.image_size != 4 * 2 ** (len(self.channels) - 1):
            raise ModelError(
                f"channels has {len(self.channels)} entries, one for each of 4, 8, … px; that is "
                f"{4 * 2 ** (len(self.channels) - 1)} px, but image_size is {self.image_size}"
            )
        return self


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
        latent_avg: mean latent of its generator, `(style_dim,)`; part of the state dict.
        class_latents: mean latent of every class of a class-conditional generator,
            `(num_classes, style_dim)`; part of the state dict.
    """

    compiled: ClassVar[Mapping[str, str]] = {"forward": "inverter"}
    latent_avg: Tensor
    class_latents: Tensor

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
        self.trunk: nn.Module = nn.Sequential(*blocks)
        self.hidden = nn.Linear(channels[-1] * 16, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, self.num_layers * config.style_dim)
        # the first predictions lie near the mean latent, where every generator gives an image
        fill_normal(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("latent_avg", torch.zeros(config.style_dim))
        if config.num_classes:
            self.register_buffer("class_latents", torch.zeros(config.num_classes, config.style_dim))

    def take_latents(self, generator: Generator) -> None:
        """Copy the mean latents of the codes' generator.

        Raises:
            ModelError: the generator has another code width, or other classes.
        """
        mine, its = self.config, generator.config
        if (mine.style_dim, mine.num_classes) != (its.style_dim, its.num_classes):
            raise ModelError(
                f"the inverter predicts codes of width {mine.style_dim} for {mine.num_classes} classes, the "
                f"generator takes width {its.style_dim} and {its.num_classes} classes"
            )
        self.latent_avg.copy_(generator.latent_avg)
        if mine.num_classes:
            self.class_latents.copy_(generator.class_latents())

    def in_bfloat16(self) -> Self:
        """Return a copy that convolves in bfloat16."""
        low = copy.deepcopy(self)
        low.trunk = Bfloat16(low.trunk)
        return low.requires_grad_(False)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images to codes.

        Args:
            images: model images, `(B, 3, size, size)`.
            labels: class indices for a class-conditional generator, `(B,)`, int64; −1 for an image without
                a label, whose centre is the mean over all classes.

        Returns:
            codes `(B, L, style_dim)`.

        Raises:
            ModelError: images of another shape; labels are missing for a class-conditional generator.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ModelError(
                f"images have shape {tuple(images.shape)}; this inverter takes (B, 3, {size}, {size})"
            )
        features = self.trunk(laid_out_for(self, images)).flatten(1)
        offset = self.head(nn.functional.leaky_relu(self.hidden(features), 0.2))
        if self.config.num_classes:
            if labels is None:
                raise ModelError(
                    f"this inverter is for a generator of {self.config.num_classes} classes: pass labels"
                )
            centres = torch.cat([self.class_latents, self.latent_avg[None]])  # −1 is the last
            centre = centres[labels][:, None]
        else:
            centre = self.latent_avg
        codes: Tensor = centre + offset.unflatten(1, (self.num_layers, self.config.style_dim))
        return codes
