"""StyleGAN2's synthesis as published code writes it: weights modulated per sample, in a grouped convolution.

Weights are those of a viewgen generator. Everything else is written independently of it: per-sample weights,
`conv2d` with one group per sample, one-channel blurs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlainSynthesis"]


def upfirdn(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Insert zeros, pad and filter `(B, C, H, W)`, one channel at a time."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, 1, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(batch * channels, 1, height * up, width * up)
    x = F.pad(x, (padding[0], padding[1], padding[0], padding[1]))
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])
    return x.reshape(batch, channels, x.shape[2], x.shape[3])


class PlainSynthesis(nn.Module):
    """g: W⁺ → image, its state a copy of a viewgen generator's.

    Args:
        state: the generator's state dict.
        image_size: side of the images in pixels.
    """

    def __init__(self, state: dict[str, Tensor], image_size: int) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "/") for name in state}
        for name, value in state.items():
            if "noise_" in name or "kernel" in name:
                self.register_buffer(self.names[name], value.clone())
            else:
                self.register_parameter(self.names[name], nn.Parameter(value.clone()))
        self.num_blocks = int(math.log2(image_size)) - 2

    def get(self, name: str) -> Tensor:
        value: Tensor = getattr(self, self.names[name])
        return value

    def modulated(self, prefix: str, x: Tensor, style: Tensor, *, demodulate: bool, upsample: bool) -> Tensor:
        weight = self.get(f"{prefix}.weight")
        affine = self.get(f"{prefix}.modulation.weight")
        scale = F.linear(style, affine / math.sqrt(affine.shape[1]), self.get(f"{prefix}.modulation.bias"))
        _, num_out, num_in, size, _ = weight.shape
        batch = len(x)
        weight = weight / math.sqrt(num_in * size**2) * scale[:, None, :, None, None]
        if demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        height, width = x.shape[2:]
        x = x.reshape(1, batch * num_in, height, width)
        if upsample:
            weight = weight.transpose(1, 2).reshape(batch * num_in, num_out, size, size)
            x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
            x = x.reshape(batch, num_out, x.shape[2], x.shape[3])
            return upfirdn(x, self.get(f"{prefix}.blur.kernel"), 1, (1, 1))
        weight = weight.reshape(batch * num_out, num_in, size, size)
        x = F.conv2d(x, weight, padding=size // 2, groups=batch)
        return x.reshape(batch, num_out, height, width)

    def styled(self, prefix: str, x: Tensor, style: Tensor, noise: Tensor, *, upsample: bool) -> Tensor:
        x = self.modulated(f"{prefix}.conv", x, style, demodulate=True, upsample=upsample)
        x = x + self.get(f"{prefix}.noise.weight") * noise
        x = x + self.get(f"{prefix}.activate.bias").view(1, -1, 1, 1)
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    def rgb(self, prefix: str, x: Tensor, style: Tensor, image: Tensor | None) -> Tensor:
        x = self.modulated(f"{prefix}.conv", x, style, demodulate=False, upsample=False)
        x = x + self.get(f"{prefix}.bias")
        if image is None:
            return x
        return x + upfirdn(image, self.get(f"{prefix}.upsample.kernel"), 2, (2, 1))

    def forward(self, w_plus: Tensor) -> Tensor:
        """Map codes `(B, L, 512)` to images `(B, 3, H, W)`, with the generator's fixed noise."""
        x = self.get("input.input").repeat(len(w_plus), 1, 1, 1)
        x = self.styled("conv1", x, w_plus[:, 0], self.get("noises.noise_0"), upsample=False)
        image = self.rgb("to_rgb1", x, w_plus[:, 1], None)
        for block in range(self.num_blocks):
            first, second = 2 * block, 2 * block + 1
            for index in (first, second):
                noise = self.get(f"noises.noise_{index + 1}")
                x = self.styled(f"convs.{index}", x, w_plus[:, index + 1], noise, upsample=index == first)
            image = self.rgb(f"to_rgbs.{block}", x, w_plus[:, second + 2], image)
        return image
