"""Memory layout of images and convolution weights, and a safe replacement for strided 1×1 convolutions.

Every choice of a memory format is made here. `channels_last` sets the layout of a network's weights for
speed, and a network converts its input to the same layout with `laid_out_for`. Its results then do not depend
on the caller's layout: other layouts use other kernels, which round differently.

A strided 1×1 convolution has no safe kernel for few channels in channels-last layout: oneDNN's weight
gradient writes past its workspace if there are fewer input channels than a block holds (8 with AVX2, 16 with
AVX-512), which gives wrong numbers, never returns, or corrupts the heap. `conv2d` first selects the pixels
that such a convolution reads and convolves them with stride 1, which is the same sum.
`benchmarks/convolutions.py` searches for further unsafe shapes.

References:
    1x1 convolution backward_weights writes past the rtus workspace (nhwc, IC < ic_block), oneDNN issue 6035,
    https://github.com/uxlfoundation/oneDNN/issues/6035
"""

from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = [
    "MEMORY_FORMAT",
    "Conv2d",
    "channels_last",
    "conv2d",
    "fold_batch_norms",
    "laid_out_for",
    "replace_strided",
]

Network = TypeVar("Network", bound=nn.Module)

# The layout in which convolutions are fastest, on processors and on GPUs.
MEMORY_FORMAT = torch.channels_last
# Input channels that one block of oneDNN's kernels holds: 8 floats in AVX2's registers, 16 in AVX-512's.
BLOCK_CHANNELS = 16


def channels_last(network: Network) -> Network:
    """Convert the weights of a network to channels-last layout, in place, and return the network."""
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
    """Convolve `x`, `(B, C, H, W)`, with `weight`, `(O, C, k, k)`; safe `torch.nn.functional.conv2d`."""
    pointwise = weight.shape[2:] == (1, 1) and padding == 0
    if pointwise and stride > 1 and x.device.type == "cpu" and x.shape[1] < BLOCK_CHANNELS:
        return F.conv2d(x[:, :, ::stride, ::stride], weight, bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with one group, a square stride and zero padding, computed by `conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, O, H', W')`."""
        return conv2d(x, self.weight, self.bias, stride=self.stride[0], padding=int(self.padding[0]))


def replace_strided(network: nn.Module) -> None:
    """Make the forward pass of every strided 1×1 convolution of a third-party network safe, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1):
            # the same parameters under the same names, with another forward pass
            module.__class__ = Conv2d


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch normalisation that directly follows a convolution into it, for inference.

    A search evaluates the networks thousands of times per image, and each normalisation is a pass over
    memory.
    """
    for module in network.modules():
        children = list(module.named_children())
        for (name, first), (next_name, second) in pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())
