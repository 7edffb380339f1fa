"""The inverter e: image → W⁺ (in-domain GAN inversion, Zhu et al. 2020; eq. 4 of the paper).

A residual network that predicts the offset of every layer's latent vector from the generator's mean latent:
for a class-conditional generator, from the mean latent of the image's class, so that the label conditions W⁺.
No truncation is applied to its output (ψ = 1).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from viewgen.errors import DataError, ModelError
from viewgen.networks.layout import laid_out_for
from viewgen.networks.stylegan2 import Generator, num_style_layers

__all__ = ["Inverter", "InverterConfig", "class_labels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InverterConfig:
    """Shape of an inverter.

    Attributes:
        image_size: side of the image in pixels.
        channels: feature channels at 4, 8, … `image_size` px (the generator's order).
        hidden_dim: width of the layer between the 4×4 features and the latent codes.
        style_dim: width of one latent vector.
        num_classes: classes of a class-conditional generator, otherwise 0.
    """

    image_size: int
    channels: tuple[int, ...]
    hidden_dim: int = 256
    style_dim: int = 512
    num_classes: int = 0

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
        class_latents: of a class-conditional generator, the mean latent of every class,
            `(num_classes, style_dim)`; part of the state dict.
    """

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
        self.trunk = nn.Sequential(*blocks)
        self.hidden = nn.Linear(channels[-1] * 16, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, self.num_layers * config.style_dim)
        # the first predictions lie near the mean latent, where every generator gives an image
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("latent_avg", torch.zeros(config.style_dim))
        if config.num_classes:
            self.register_buffer("class_latents", torch.zeros(config.num_classes, config.style_dim))

    def take_latents(self, generator: Generator) -> None:
        """Take the mean latents of the generator that the codes are for.

        Raises:
            ModelError: it has another code width, or other classes.
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

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images to codes.

        Args:
            images: model images, `(B, 3, size, size)`.
            labels: for a class-conditional generator, class indices `(B,)`, int64; −1 for an image without
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


def class_labels(labels: Tensor, num_classes: int) -> Tensor | None:
    """Return the labels that condition a generator's codes, or None for a generator without classes.

    Args:
        labels: of the images, `(B, *label_shape)`, int64; −1 where an image has none.
        num_classes: of the generator.

    Raises:
        DataError: a label is none of the generator's classes.
    """
    if not num_classes:
        return None
    if labels.ndim != 1:
        raise DataError(
            f"the generator is conditional on {num_classes} classes; the labels of these images have shape "
            f"{tuple(labels.shape[1:])}, expected one class each"
        )
    if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(
            f"the generator is conditional on {num_classes} classes; these images have labels "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return labels
