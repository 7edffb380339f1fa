"""A small network of strided convolutions, whose features are means over space.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    appendix B.4 (8, 16, 32 and 64 filters on 64-px images), https://arxiv.org/abs/2005.10243
"""

from collections.abc import Callable

from torch import nn

from viewgen.networks.layout import Conv2d

__all__ = ["NUM_LAYERS", "convnet"]

NUM_LAYERS = 4


def convnet(in_channels: int, width: int, norm: Callable[[int], nn.Module]) -> tuple[nn.Sequential, int]:
    """Return the network, images `(B, C, H, W)` → features `(B, F)`, and F, eight times the width.

    Args:
        in_channels: C.
        width: filters of the first of four layers; each has twice as many as the one before.
        norm: normalisation of a number of channels.
    """
    layers: list[nn.Module] = []
    before = in_channels
    for number in range(NUM_LAYERS):
        filters = width * 2**number
        layers += [Conv2d(before, filters, 3, stride=2, padding=1, bias=False), norm(filters), nn.ReLU()]
        before = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), before
