"""Adam for the slots of `viewgen.optimise.slots`: one step counter per slot, moments addressed by it.

References:
    Adam: A Method for Stochastic Optimization, Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.optimise.slots import Evaluation, Tensors, expanded

__all__ = ["Adam"]

ADAM_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam:
    """Adam on an image's loss, as a `viewgen.optimise.slots.UpdateRule`.

    Attributes:
        learning_rate: step size.
        betas: decay of the two moments.
        decay_steps: number of updates after which the learning rate of an image has halved: after t updates
            it is learning_rate / (1 + t / decay_steps). None keeps it constant.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    decay_steps: float | None = None
    needs_gradients: bool = True

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UsageError(f"learning_rate is {self.learning_rate}; expected a positive number")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas is {self.betas}; expected two numbers in [0, 1)")
        if self.decay_steps is not None and not self.decay_steps > 0:
            raise UsageError(f"decay_steps is {self.decay_steps}; expected a positive number")

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return the two moments, initially zero."""
        return {"mean": torch.zeros_like(codes), "square": torch.zeros_like(codes)}

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return the gradient of the losses."""
        (gradient,) = torch.autograd.grad(evaluation.loss.sum(), codes)
        return {"gradient": gradient}

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update."""
        gradient = derivatives["gradient"]
        beta1, beta2 = self.betas
        mean, square = state["mean"], state["square"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        count = expanded((steps + 1).to(gradient.dtype), codes)
        # 1 - βᵗ by expm1: written out it would lose half of float32's digits in the first steps
        correction1 = -torch.expm1(count * math.log(beta1)) if beta1 else torch.ones_like(count)
        correction2 = (-torch.expm1(count * math.log(beta2))).sqrt() if beta2 else torch.ones_like(count)
        decay = 1.0 if self.decay_steps is None else 1 / (1 + (count - 1) / self.decay_steps)
        rate = self.learning_rate * decay * correction2 / correction1
        # epsilon is scaled as in the usual form, mean / (sqrt(square / (1 - β₂ᵗ)) + ε)
        epsilon = ADAM_EPSILON * correction2
        moved: Tensor = codes - rate * mean / (square.sqrt() + epsilon)
        return moved
