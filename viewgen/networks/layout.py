"""Memory layout of images and convolution weights, and the one convolution that is not left to the library.

Every choice of a memory format is made here. `channels_last` lays a network's weights out for speed, and a
network brings its input into its own layout by `laid_out_for`, so that its results do not depend on the
layout that a caller happens to have: other layouts are other kernels, which round differently.

A 1×1 convolution with a stride has no safe kernel for few channels that lie last: oneDNN's gradient of the
weight writes past its workspace where there are fewer input channels than a block holds (8 with AVX2, 16 with
AVX-512), which gives wrong numbers, never returns, or damages the heap. `conv2d` takes the pixels that such a
convolution reads first and convolves them with stride 1, which is the same sum. `benchmarks/convolutions.py`
looks for further unsafe shapes.

References:
    1x1 convolution backward_weights writes past the rtus workspace (nhwc, IC < ic_block), oneDNN issue 6035,
    https://github.com/uxlfoundation/oneDNN/issues/6035
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MEMORY_FORMAT", "Conv2d", "channels_last", "conv2d", "laid_out_for", "replace_strided"]

Network = TypeVar("Network", bound=nn.Module)

# The layout in which convolutions are fastest, on processors and on GPUs.
MEMORY_FORMAT = torch.channels_last
# Input channels that one block of oneDNN's kernels holds: 8 floats in AVX2's registers, 16 in AVX-512's.
BLOCK_CHANNELS = 16


def channels_last(network: Network) -> Network:
    """Lay the weights of a network out channels last, in place, and return it."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=MEMORY_FORMAT)
    return network


def laid_out_for(network: nn.Module, images: Tensor) -> Tensor:
    """Return images `(B, C, H, W)` in the layout of the network's convolution weights."""
    for parameter in network.parameters():
        if parameter.ndim != 4:
            continue
        # the weight of a 1×1 convolution, or of one input channel, lies both ways and tells nothing
        last, first = parameter.is_contiguous(memory_format=MEMORY_FORMAT), parameter.is_contiguous()
        if last != first:
            return images.contiguous(memory_format=MEMORY_FORMAT if last else torch.contiguous_format)
    return images.contiguous()


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0
) -> Tensor:
    """Convolve `x`, `(B, C, H, W)`, with `weight`, `(O, C, k, k)`: as `torch.nn.functional.conv2d` should."""
    pointwise = weight.shape[2:] == (1, 1) and padding == 0
    if pointwise and stride > 1 and x.device.type == "cpu" and x.shape[1] < BLOCK_CHANNELS:
        return F.conv2d(x[:, :, ::stride, ::stride], weight, bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of one group with a square stride and zero padding, by `conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, O, H', W')`."""
        return conv2d(x, self.weight, self.bias, stride=self.stride[0], padding=int(self.padding[0]))


def replace_strided(network: nn.Module) -> None:
    """Give every strided 1×1 convolution of a foreign network the safe forward pass, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1):
            # the same parameters under the same names, with another forward pass
            module.__class__ = Conv2d
