"""Initial values of weights, which a network on the meta device does without.

Shapes of a stored network are found by building it on the meta device. There the random functions and the
arithmetic of torch import its compiler, which takes as long as torch itself.
"""

import torch
from torch import Tensor, nn

__all__ = ["fill_normal", "standard_normal"]


def standard_normal(*shape: int, divisor: float = 1.0) -> Tensor:
    """Return standard normal values divided by `divisor`; without values on the meta device."""
    if torch.get_default_device().type == "meta":
        return torch.empty(shape)
    values = torch.randn(shape)
    return values if divisor == 1.0 else values / divisor


def fill_normal(weight: Tensor, std: float) -> None:
    """Fill a weight with normal values of mean 0 and deviation `std`; do nothing on the meta device."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)
