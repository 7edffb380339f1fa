"""Layers of StyleGAN2 (Karras et al., 2020), without compiled extensions.

Parameter names and shapes are those of the public PyTorch networks, so their checkpoints load unchanged.
A modulated convolution is a scaling of the activations around one convolution whose weight is shared by the
whole batch: conv(x·s; W)·d with d = rsqrt(s² Σ W² + 1e-8). That equals scaling the weight per sample
(StyleGAN2, eq. 1–3), needs no grouped convolution, and lets frozen weights skip their gradients.

References:
    Analyzing and Improving the Image Quality of StyleGAN, Karras, Laine, Aittala, Hellsten, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/1912.04958

Shape legend: B batch, C channels, O output channels, H, W space, D style dimension.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.networks.initial import standard_normal
from viewgen.networks.layout import conv2d

__all__ = [
    "Blur",
    "EqualConv2d",
    "EqualLinear",
    "FusedLeakyReLU",
    "ModulatedConv2d",
    "NoiseInjection",
    "PixelNorm",
    "Upsample",
    "normalize_second_moment",
    "scaled_leaky_relu",
]

RESAMPLE_TAPS = (1.0, 3.0, 3.0, 1.0)


def resample_kernel(gain: float = 1.0) -> Tensor:
    """Return the separable 4×4 binomial low-pass filter, summing to `gain`."""
    total = sum(RESAMPLE_TAPS) ** 2
    return torch.tensor([[gain * row * column / total for column in RESAMPLE_TAPS] for row in RESAMPLE_TAPS])


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row of `x`, `(B, D)`, to unit mean square."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def scaled_leaky_relu(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU of slope 0.2 times √2, which keeps the second moment; optionally clamped to ±`clamp`."""
    x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x if clamp is None else x.clamp(-clamp, clamp)


class PixelNorm(nn.Module):
    """Normalisation of a latent code to unit mean square."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, D)` to `(B, D)`."""
        return normalize_second_moment(x)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: weights are stored at unit variance and scaled when used.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias_init: initial bias.
        learning_rate_multiplier: relative learning rate (0.01 in the mapping network).
        activate: apply the scaled leaky ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        learning_rate_multiplier: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            standard_normal(out_features, in_features, divisor=learning_rate_multiplier)
        )
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / learning_rate_multiplier))
        self.weight_gain = learning_rate_multiplier / math.sqrt(in_features)
        self.bias_gain = learning_rate_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_features)` to `(B, out_features)`."""
        y = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return scaled_leaky_relu(y) if self.activate else y


class EqualConv2d(nn.Module):
    """Bias-free convolution with equalised learning rate."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ):
        super().__init__()
        self.weight = nn.Parameter(standard_normal(out_channels, in_channels, kernel_size, kernel_size))
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, O, H', W')`."""
        return conv2d(x, self.weight * self.gain, stride=self.stride, padding=self.padding)


class FusedLeakyReLU(nn.Module):
    """Per-channel bias followed by the scaled leaky ReLU."""

    def __init__(self, num_channels: int, clamp: float | None = None) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, H, W)`."""
        return scaled_leaky_relu(x + self.bias[:, None, None], self.clamp)


class NoiseInjection(nn.Module):
    """Adds one noise image, scaled by one learnt strength, to every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Add `noise`, `(1 or B, 1, H, W)`, to `x`, `(B, C, H, W)`; None draws it anew."""
        if noise is None:
            noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        return x + (self.weight * noise).to(x.dtype)


class Blur(nn.Module):
    """Low-pass filter, applied to every channel alike (a depthwise convolution)."""

    kernel: Tensor

    def __init__(self, padding: tuple[int, int], gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", resample_kernel(gain))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Filter `(B, C, H, W)`, padded by `padding` at the start and end of both axes."""
        before, after = self.padding
        num_channels = x.shape[1]
        weight = self.kernel.to(x.dtype).expand(num_channels, 1, 4, 4)
        if before == after:
            return F.conv2d(x, weight, padding=before, groups=num_channels)
        return F.conv2d(F.pad(x, (before, after, before, after)), weight, groups=num_channels)


class Upsample(nn.Module):
    """Doubling of an image's sides: zero insertion followed by the low-pass filter."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", resample_kernel(gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, 2H, 2W)`."""
        num_channels = x.shape[1]
        weight = self.kernel.to(x.dtype).expand(num_channels, 1, 4, 4)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=num_channels)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by each sample's style (StyleGAN2, §2.2).

    Args:
        in_channels: number of input channels C.
        out_channels: number of output channels O.
        kernel_size: side of the kernel.
        style_dim: width D of the latent code.
        demodulate: rescale the output channels to unit expected variance.
        upsample: double the sides (transposed convolution, then blur).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(standard_normal(1, out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.upsample = upsample
        self.padding = kernel_size // 2
        if upsample:
            self.blur = Blur((1, 1), gain=4.0)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Convolve `x`, `(B, C, H, W)`, under `style`, `(B, D)`, to `(B, O, H, W)` or `(B, O, 2H, 2W)`.

        The result has the weight's type; scales are computed in the style's type.
        """
        scale_BC = self.modulation(style)
        weight = self.weight[0] * self.gain
        x = x.to(weight.dtype) * scale_BC[:, :, None, None].to(weight.dtype)
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = self.blur(x)
        else:
            x = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            energy_OC = weight.to(scale_BC.dtype).square().sum(dim=(2, 3))
            demodulation_BO = torch.rsqrt(F.linear(scale_BC.square(), energy_OC) + 1e-8)
            x = x * demodulation_BO[:, :, None, None].to(x.dtype)
        return x
