"""StyleGAN2 generator: mapping network Z → W and synthesis network W⁺ → image.

The state dict has the layout of the public PyTorch networks (``style.{1..n}``, ``input.input``, ``conv1.*``,
``to_rgb1.*``, ``convs.*``, ``to_rgbs.*``, ``noises.*``), so that it loads both ways with ``strict=True``. The
mean latent is kept beside it (`Generator.latent_avg`), as those checkpoints do.

References:
    Analyzing and Improving the Image Quality of StyleGAN, Karras, Laine, Aittala, Hellsten, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/1912.04958
"""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.networks.config import NetworkConfig
from viewgen.networks.initial import standard_normal
from viewgen.networks.layout import MEMORY_FORMAT
from viewgen.networks.stylegan2.layers import (
    EqualLinear,
    FusedLeakyReLU,
    ModulatedConv2d,
    NoiseInjection,
    PixelNorm,
    Upsample,
    normalize_second_moment,
)
from viewgen.settings import setting

__all__ = ["Generator", "GeneratorConfig", "check_levels", "num_style_layers", "public_channels"]

Noise = Literal["fixed", "random"]
MOST_CHANNELS = 16384


def num_style_layers(image_size: int) -> int:
    """Return L = 2·log2(size) − 2, the number of W⁺ vectors of one image (8 at 32 px, 10 at 64 px)."""
    return 2 * int(math.log2(image_size)) - 2


def public_channels(image_size: int, multiplier: int) -> tuple[int, ...]:
    """Return the public networks' channels at 4, 8, … `image_size` px: 512 to 32 px, then 16384·m / size."""
    sizes = [2**k for k in range(2, int(math.log2(image_size)) + 1)]
    return tuple(512 if size <= 32 else 16384 * multiplier // size for size in sizes)


class GeneratorConfig(NetworkConfig):
    """Shape of a generator."""

    title: ClassVar[str] = "the generator's shape"

    image_size: int = setting(..., "side of the image in pixels, a power of two of at least 8", le=4096)
    channels: tuple[int, ...] = setting(..., "feature channels at 4, 8, … image_size px", max_length=11)
    num_mapping_layers: int = setting(8, "fully connected layers of the mapping network", ge=1, le=64)
    style_dim: int = setting(512, "width of Z and W", ge=1, le=16384)
    num_classes: int = setting(0, "classes of a class-conditional network, otherwise 0", ge=0, le=10**6)
    activation_clamp: float | None = setting(
        None, "bound on activations (256 in the official half-precision networks), or none"
    )

    @model_validator(mode="after")
    def _levels(self) -> Self:
        check_levels(self.image_size, self.channels)
        return self


def check_levels(image_size: int, channels: tuple[int, ...]) -> None:
    """Check that the channels are one positive number for each of 4, 8, … `image_size` px.

    Raises:
        ModelError: they are not, or the size is no power of two from 8 on.
    """
    log_size = math.log2(image_size) if image_size > 0 else 0
    if log_size != int(log_size) or log_size < 3:
        raise ModelError(f"image_size is {image_size}; StyleGAN2 takes a power of two from 8 on")
    if len(channels) != int(log_size) - 1:
        raise ModelError(
            f"channels has {len(channels)} entries; {image_size} px needs {int(log_size) - 1}, "
            f"one for each of 4, 8, … {image_size} px"
        )
    if not 1 <= min(channels) <= max(channels) <= MOST_CHANNELS:
        raise ModelError(f"every entry of channels must be at least 1 and at most {MOST_CHANNELS}")


class ConstantInput(nn.Module):
    """The learnt 4×4 input."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(standard_normal(1, num_channels, 4, 4))

    def forward(self, batch_size: int) -> Tensor:
        """Return `(batch_size, C, 4, 4)`, channels last: the faster layout, which later layers keep."""
        return self.input.expand(batch_size, -1, -1, -1).contiguous(memory_format=MEMORY_FORMAT)


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, noise, bias, activation."""

    def __init__(
        self, in_channels: int, out_channels: int, config: GeneratorConfig, *, upsample: bool = False
    ):
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, config.style_dim, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(out_channels, config.activation_clamp)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Map `(B, C, H, W)` under `style`, `(B, D)`, to `(B, O, H', W')`."""
        y: Tensor = self.activate(self.noise(self.conv(x, style), noise))
        return y


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to colour, added to the upsampled image so far."""

    def __init__(self, in_channels: int, config: GeneratorConfig, *, upsample: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = ModulatedConv2d(in_channels, 3, 1, config.style_dim, demodulate=False)
        self.clamp = config.activation_clamp
        if upsample:
            self.upsample = Upsample()

    def forward(self, x: Tensor, style: Tensor, image: Tensor | None = None) -> Tensor:
        """Map `(B, C, H, W)` and the image so far, `(B, 3, H/2, W/2)`, to `(B, 3, H, W)`."""
        rgb: Tensor = self.conv(x, style) + self.bias
        if self.clamp is not None:
            rgb = rgb.clamp(-self.clamp, self.clamp)
        return rgb if image is None else rgb + self.upsample(image)


class Generator(nn.Module):
    """g: W⁺ → image, with its mapping network Z → W.

    Attributes:
        config: the network's shape.
        num_layers: L, latent vectors per image.
        latent_avg: mean of W, `(style_dim,)`; the centre of truncation. Not part of the state dict.
    """

    compiled: ClassVar[Mapping[str, str]] = {"decode": "generator"}
    channels = 3
    latent_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.num_layers = num_style_layers(config.image_size)
        dim = config.style_dim
        mapping: list[nn.Module] = [PixelNorm()]
        for index in range(config.num_mapping_layers):
            width = 2 * dim if config.num_classes and index == 0 else dim
            mapping.append(EqualLinear(width, dim, learning_rate_multiplier=0.01, activate=True))
        self.style = nn.Sequential(*mapping)
        if config.num_classes:
            self.embed = EqualLinear(config.num_classes, dim)

        first = config.channels[0]
        self.input = ConstantInput(first)
        self.conv1 = StyledConv(first, first, config)
        self.to_rgb1 = ToRGB(first, config, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for narrow, wide in pairwise(config.channels):
            self.convs.append(StyledConv(narrow, wide, config, upsample=True))
            self.convs.append(StyledConv(wide, wide, config))
            self.to_rgbs.append(ToRGB(wide, config))
        self.noises = nn.Module()
        for index in range(self.num_layers - 1):
            side = 2 ** ((index + 5) // 2)
            self.noises.register_buffer(f"noise_{index}", standard_normal(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(dim), persistent=False)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of W⁺, `(L, style_dim)`."""
        return self.num_layers, self.config.style_dim

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.config.image_size

    @property
    def num_classes(self) -> int:
        """Classes of a class-conditional network, otherwise 0."""
        return self.config.num_classes

    @property
    def noise_dim(self) -> int:
        """Width of Z."""
        return self.config.style_dim

    @property
    def code_scale(self) -> Tensor:
        """Ones: σ and the steps of a search are published in the units of W itself."""
        return self.input.input.new_ones(self.code_shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Map W⁺ codes `(B, L, style_dim)` to images `(B, 3, size, size)` with the stored noise."""
        return self.synthesis(codes)

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean latent for each image, `(B, L, style_dim)`; an inverter's codes are closer."""
        return self.broadcast(self.latent_avg.expand(len(images), -1))

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map z, `(B, style_dim)`, to images `(B, 3, size, size)`, without truncation."""
        images: Tensor = self(noise, labels)
        return images

    def in_bfloat16(self) -> Self:
        """Return a copy whose convolutions, and the activations between them, are bfloat16."""
        low = copy.deepcopy(self)
        for module in low.modules():
            if isinstance(module, ModulatedConv2d):
                # the gain goes into the weight before that is rounded
                weight = (module.weight * module.gain).to(torch.bfloat16)
                module.weight, module.gain = nn.Parameter(weight), 1.0
            elif isinstance(module, FusedLeakyReLU):
                module.bias = nn.Parameter(module.bias.to(torch.bfloat16))
        return low.requires_grad_(False)

    def mapping(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map z, `(B, style_dim)`, to w, `(B, style_dim)`.

        Args:
            z: standard normal codes.
            labels: class indices `(B,)` or weights `(B, num_classes)` of a class-conditional network.

        Raises:
            ModelError: labels are missing for a class-conditional network, or given to another.
        """
        if self.config.num_classes == 0:
            if labels is not None:
                raise ModelError("labels were given to a generator without classes")
            w: Tensor = self.style(z)
            return w
        if labels is None:
            raise ModelError(
                f"this generator is conditional on {self.config.num_classes} classes: pass labels"
            )
        if not labels.is_floating_point():
            labels = nn.functional.one_hot(labels, self.config.num_classes).to(z.dtype)
        condition = normalize_second_moment(self.embed(labels))
        w = torch.cat([normalize_second_moment(z), condition], dim=1)
        for layer in list(self.style)[1:]:
            w = layer(w)
        return w

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """Move codes `(..., style_dim)` towards the mean latent: w̄ + ψ·(w − w̄).

        The centre is the mean over all classes, as in the official class-conditional networks.
        """
        return torch.lerp(self.latent_avg.to(w.dtype), w, psi)

    def broadcast(self, w: Tensor) -> Tensor:
        """Repeat w, `(B, style_dim)`, for every layer: `(B, L, style_dim)`."""
        return w[:, None].expand(-1, self.num_layers, -1)

    def synthesis(self, w_plus: Tensor, noise: Noise | Sequence[Tensor] = "fixed") -> Tensor:
        """Map latent codes to images.

        Args:
            w_plus: latent codes, `(B, L, style_dim)`.
            noise: the stored buffers (``"fixed"``), fresh draws (``"random"``), or L − 1 tensors
                `(1 or B, 1, side, side)`.

        Returns:
            images `(B, 3, size, size)`, nominally in [−1, 1], not clamped.
        """
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.num_layers, self.config.style_dim):
            raise ModelError(
                f"w_plus has shape {tuple(w_plus.shape)}; this {self.config.image_size}-px generator takes "
                f"(batch, {self.num_layers}, {self.config.style_dim})"
            )
        noises = self._noise(noise, w_plus.dtype)
        x = self.conv1(self.input(w_plus.shape[0]).to(w_plus.dtype), w_plus[:, 0], noises[0])
        image: Tensor = self.to_rgb1(x, w_plus[:, 1])
        for block, to_rgb in enumerate(self.to_rgbs):
            layer = 2 * block + 1
            x = self.convs[2 * block](x, w_plus[:, layer], noises[layer])
            x = self.convs[2 * block + 1](x, w_plus[:, layer + 1], noises[layer + 1])
            image = to_rgb(x, w_plus[:, layer + 2], image)
        return image

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        psi: float = 1.0,
        noise: Noise | Sequence[Tensor] = "fixed",
    ) -> Tensor:
        """Map z, `(B, style_dim)`, to images `(B, 3, size, size)` under truncation ψ."""
        w = self.mapping(z, labels)
        if psi != 1:
            w = self.truncate(w, psi)
        return self.synthesis(self.broadcast(w), noise)

    @torch.no_grad()
    def mean_latent(self, num_samples: int = 10_000, seed: int = 0) -> Tensor:
        """Return the mean w over `num_samples` seeded draws of z (and of the classes), `(style_dim,)`."""
        random = torch.Generator().manual_seed(seed)
        reference = self.input.input
        total = torch.zeros(self.config.style_dim, dtype=torch.float64)
        for start in range(0, num_samples, 1000):
            count = min(1000, num_samples - start)
            z = torch.randn(count, self.config.style_dim, generator=random).to(reference)
            labels = None
            if self.config.num_classes:
                labels = torch.randint(self.config.num_classes, (count,), generator=random).to(
                    reference.device
                )
            total += self.mapping(z, labels).double().sum(dim=0).cpu()
        return (total / num_samples).to(reference)

    @torch.no_grad()
    def class_latents(self, num_samples: int = 2_000, seed: int = 0) -> Tensor:
        """Return the mean w of every class over the same seeded draws of z, `(num_classes, style_dim)`.

        Raises:
            ModelError: the generator has no classes.
        """
        if not self.config.num_classes:
            raise ModelError("this generator has no classes, and so no mean latents of them")
        reference = self.input.input
        random = torch.Generator().manual_seed(seed)
        total = torch.zeros(self.config.num_classes, self.config.style_dim, dtype=torch.float64)
        for start in range(0, num_samples, 1000):
            count = min(1000, num_samples - start)
            z = torch.randn(count, self.config.style_dim, generator=random).to(reference)
            for label in range(self.config.num_classes):
                labels = torch.full((count,), label, device=reference.device)
                total[label] += self.mapping(z, labels).double().sum(dim=0).cpu()
        return (total / num_samples).to(reference)

    def _noise(self, noise: Noise | Sequence[Tensor], dtype: torch.dtype) -> list[Tensor | None]:
        count = self.num_layers - 1
        if isinstance(noise, str):
            if noise == "random":
                return [None] * count
            if noise != "fixed":
                raise ModelError(f"noise is {noise!r}; expected 'fixed', 'random' or {count} tensors")
            return [self.noises.get_buffer(f"noise_{index}").to(dtype) for index in range(count)]
        if len(noise) != count:
            raise ModelError(f"{len(noise)} noise tensors were given; this generator takes {count}")
        return list(noise)
