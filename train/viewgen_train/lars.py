"""LARS: momentum SGD whose learning rate is adapted to each layer.

The step of a layer's weights w with gradient g is scaled by η·‖w‖ / (‖g‖ + λ·‖w‖), with trust coefficient η
and weight decay λ. Group option ``adapt=False`` turns the scale off, for biases and normalisations, which
BYOL and Barlow Twins also exempt from weight decay. torch has none; lightly's, which the tests compare it
with, is not installed with this package, and does not bound the scale as solo-learn's recipes do.

References:
    Large Batch Training of Convolutional Networks, You et al., 2017, https://arxiv.org/abs/1708.03888
    Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, Grill et al., 2020, section 3.3,
    https://arxiv.org/abs/2006.07733
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

__all__ = ["LARS"]

# keeps the scale finite
EPSILON = 1e-8


class LARS(Optimizer):
    """Layer-wise adaptive SGD with momentum.

    Args:
        groups: parameter groups; ``adapt`` (True by default) scales the steps of a group's tensors.
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay λ.
        trust_coefficient: η.
        clip: True to limit the product of scale and learning rate to the learning rate.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        clip: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "clip": clip,
            "adapt": True,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        change = gradient.add(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            change *= _scale(parameter, gradient, group)
        if group["momentum"]:
            state = self.state[parameter]
            if "momentum_buffer" in state:
                change = state["momentum_buffer"].mul_(group["momentum"]).add_(change)
            else:
                state["momentum_buffer"] = change.clone()
        parameter.add_(change, alpha=-group["lr"])


def _scale(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the scale of a layer's step, a scalar on its device; 1 if weights or gradient are 0."""
    length, slope = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(gradient)
    scale = group["trust_coefficient"] * length / (slope + group["weight_decay"] * length + EPSILON)
    if group["clip"]:
        # a warm-up begins with a rate above 0
        scale = (scale / group["lr"]).clamp(max=1.0)
    return torch.where((length > 0) & (slope > 0), scale, torch.ones_like(scale))
