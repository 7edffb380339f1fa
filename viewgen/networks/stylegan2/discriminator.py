"""StyleGAN2 discriminator, in the layout of the public PyTorch networks.

Two architectures: ``"residual"`` (StyleGAN2's default) and ``"plain"`` (no skips, the official ``cifar``
configuration's ``orig``). A class-conditional network scores an image by the projection of its features on
an embedding of the class.

References:
    Analyzing and Improving the Image Quality of StyleGAN, Karras, Laine, Aittala, Hellsten, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/1912.04958
    cGANs with Projection Discriminator, Miyato and Koyama, 2018, https://arxiv.org/abs/1802.05637
"""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.networks.config import NetworkConfig
from viewgen.networks.layout import laid_out_for
from viewgen.networks.stylegan2.generator import check_levels
from viewgen.networks.stylegan2.layers import (
    Blur,
    EqualConv2d,
    EqualLinear,
    FusedLeakyReLU,
    normalize_second_moment,
)
from viewgen.settings import setting

__all__ = ["Discriminator", "DiscriminatorConfig", "minibatch_stddev"]


class DiscriminatorConfig(NetworkConfig):
    """Shape of a discriminator."""

    title: ClassVar[str] = "the discriminator's shape"

    image_size: int = setting(..., "side of the image in pixels, a power of two of at least 8", le=4096)
    channels: tuple[int, ...] = setting(
        ..., "feature channels at 4, 8, … image_size px (the generator's order)", max_length=11
    )
    architecture: Literal["residual", "plain"] = setting("residual", "with skips, or without")
    num_classes: int = setting(0, "classes of a class-conditional network, otherwise 0", ge=0, le=10**6)
    num_mapping_layers: int = setting(8, "layers of the class mapping", ge=0, le=64)
    activation_clamp: float | None = setting(None, "bound on activations, or none")
    stddev_group: int = setting(
        4, "samples whose features' deviation is taken together", ge=1, le=10**6, since=2
    )

    @model_validator(mode="after")
    def _levels(self) -> Self:
        check_levels(self.image_size, self.channels)
        return self


def minibatch_stddev(x: Tensor, group_size: int = 4) -> Tensor:
    """Append one channel: the standard deviation of the features within groups of samples.

    Sample i belongs to group i mod ⌈B/size⌉. For multiples of the size these are the public networks' groups;
    any batch size is accepted.

    Args:
        x: features, `(B, C, H, W)`.
        group_size: maximum number of samples per group.

    Returns:
        `(B, C + 1, H, W)`.
    """
    batch_size = x.shape[0]
    num_groups = math.ceil(batch_size / group_size)
    group_B = torch.arange(batch_size, device=x.device) % num_groups
    member_GB = (group_B == torch.arange(num_groups, device=x.device)[:, None]).to(x.dtype)
    member_GB = member_GB / member_GB.sum(dim=1, keepdim=True)
    flat = x.flatten(1)
    deviation = flat - (member_GB @ flat)[group_B]
    variance_GF = member_GB @ deviation.square()
    stddev_G = (variance_GF + 1e-8).sqrt().mean(dim=1)
    return torch.cat([x, stddev_G[group_B, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class ConvLayer(nn.Sequential):
    """[blur,] equalised convolution [, bias and activation]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        downsample: bool = False,
        activate: bool = True,
        clamp: float | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        if downsample:
            total = 2 + (kernel_size - 1)
            layers.append(Blur(((total + 1) // 2, total // 2)))
            layers.append(EqualConv2d(in_channels, out_channels, kernel_size, stride=2))
        else:
            layers.append(EqualConv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2))
        if activate:
            layers.append(FusedLeakyReLU(out_channels, clamp))
        super().__init__(*layers)


class DownBlock(nn.Module):
    """Two convolutions, the second halving the sides; with a skip in the residual architecture."""

    def __init__(self, in_channels: int, out_channels: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        clamp = config.activation_clamp
        self.conv1 = ConvLayer(in_channels, in_channels, 3, clamp=clamp)
        self.conv2 = ConvLayer(in_channels, out_channels, 3, downsample=True, clamp=clamp)
        if config.architecture == "residual":
            self.skip = ConvLayer(in_channels, out_channels, 1, downsample=True, activate=False)
        self.residual = config.architecture == "residual"

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, O, H/2, W/2)`."""
        y: Tensor = self.conv2(self.conv1(x))
        return (y + self.skip(x)) / math.sqrt(2) if self.residual else y


class Discriminator(nn.Module):
    """d̃: image → logit (the output before any activation)."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        layers: list[nn.Module] = [ConvLayer(3, channels[-1], 1, clamp=config.activation_clamp)]
        for level in range(len(channels) - 1, 0, -1):
            layers.append(DownBlock(channels[level], channels[level - 1], config))
        self.convs = nn.Sequential(*layers)
        width = channels[0]
        self.final_conv = ConvLayer(width + 1, width, 3, clamp=config.activation_clamp)
        num_outputs = width if config.num_classes else 1
        self.final_linear = nn.Sequential(
            EqualLinear(width * 4 * 4, width, activate=True), EqualLinear(width, num_outputs)
        )
        if config.num_classes:
            self.embed = EqualLinear(config.num_classes, width)
            self.style = nn.Sequential(
                *(
                    EqualLinear(width, width, learning_rate_multiplier=0.01, activate=True)
                    for _ in range(config.num_mapping_layers)
                )
            )

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the activations after every block of `image`, `(B, 3, H, W)`, finest first."""
        activations = []
        x = laid_out_for(self, image)
        for block in self.convs:
            x = block(x)
            activations.append(x)
        return activations

    def forward(self, image: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score `image`, `(B, 3, size, size)`, by one logit each, `(B, 1)`."""
        size = self.config.image_size
        if image.ndim != 4 or image.shape[1:] != (3, size, size):
            raise ModelError(
                f"images have shape {tuple(image.shape)}; this discriminator takes (B, 3, {size}, {size})"
            )
        x: Tensor = self.convs(laid_out_for(self, image))
        x = self.final_linear(self.final_conv(minibatch_stddev(x, self.config.stddev_group)).flatten(1))
        if not self.config.num_classes:
            return x
        if labels is None:
            raise ModelError(
                f"this discriminator is conditional on {self.config.num_classes} classes: pass labels"
            )
        if not labels.is_floating_point():
            labels = nn.functional.one_hot(labels, self.config.num_classes).to(x.dtype)
        condition: Tensor = self.style(normalize_second_moment(self.embed(labels)))
        return (x * condition).sum(dim=1, keepdim=True) / math.sqrt(condition.shape[1])
