"""L-BFGS for the slots of `viewgen.optimise.slots`, with a preconditioner.

Every image has its own memory of steps and changes of the gradient. There is no line search, which would
evaluate the images of a batch at different numbers of points: a step goes the full way, as far as the slot's
radius allows; one that raises the loss is taken back, and the radius shrinks.

References:
    On the Limited Memory BFGS Method for Large Scale Optimization, Liu and Nocedal, 1989,
    https://doi.org/10.1007/BF01589116

Shape legend: A active slots, … a code's own dimensions, D their product, m remembered steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.optimise.slots import Evaluation, Tensors, expanded

__all__ = ["LBFGS"]

# A step is remembered if its curvature sᵀy is at least this share of yᵀHy, H the preconditioner.
LEAST_CURVATURE = 1e-6
GROWTH = 2.0
SHRINKAGE = 0.35


@dataclass(frozen=True, kw_only=True, slots=True)
class LBFGS:
    """L-BFGS on an image's loss, as a `viewgen.optimise.slots.UpdateRule`, for one code per image.

    Attributes:
        precondition: multiplies gradients `(A, D)` by H, a symmetric positive definite matrix near the
            inverse Hessian, the same for all images.
        memory: m, number of steps from which an image's own curvature is estimated.
        first_step: length of the first step, as a share of the preconditioned gradient's.

    Raises:
        UsageError: a size is not positive.
    """

    precondition: Callable[[Tensor], Tensor]
    memory: int = 10
    first_step: float = 0.1
    needs_gradients: bool = True

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise UsageError(f"memory is {self.memory}; expected at least 1")
        if not self.first_step > 0:
            raise UsageError(f"first_step is {self.first_step}; expected a positive number")

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return an empty memory, and the codes as the place from which the first step goes."""
        flat = codes.flatten(1)
        num_slots, size = flat.shape
        vectors = ("place_gradient", "place_preconditioned")
        memories = ("steps", "changes", "preconditioned")
        return {
            # the best codes so far, from which the last step went
            "place": flat.clone(),
            "place_loss": codes.new_full((num_slots,), torch.inf),
            "radius": codes.new_zeros(num_slots),
            "scale": codes.new_ones(num_slots),
            **{name: torch.zeros_like(flat) for name in vectors},
            **{name: codes.new_zeros(num_slots, self.memory, size) for name in memories},
        }

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return losses, `(A, 1)`, their gradients, and those times H, `(A, D)` both."""
        (gradient,) = torch.autograd.grad(evaluation.loss.sum(), codes)
        gradient = gradient.flatten(1)
        # here, where a group has one size: a product of another size rounds otherwise
        preconditioned = self.precondition(gradient)
        loss = evaluation.loss.detach()[:, None]
        return {"loss": loss, "gradient": gradient, "preconditioned": preconditioned}

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update, from here or, if the loss has risen, from the place before."""
        here, loss, first = codes.flatten(1), derivatives["loss"][:, 0], steps == 0
        step = here - state["place"]
        self._remember(step, derivatives, first, state)
        length = _dot(step, step).sqrt()
        fallen = first | (loss < state["place_loss"])
        radius = torch.where(fallen, torch.maximum(state["radius"], GROWTH * length), SHRINKAGE * length)
        scaled = derivatives["preconditioned"]
        state["radius"] = torch.where(first, self.first_step * _dot(scaled, scaled).sqrt(), radius)
        state["place_loss"] = torch.where(fallen, loss, state["place_loss"])
        state["place"] = torch.where(fallen[:, None], here, state["place"])
        for name in ("gradient", "preconditioned"):
            before = state[f"place_{name}"]
            state[f"place_{name}"] = torch.where(fallen[:, None], derivatives[name], before)
        step = -self._newton_direction(state)
        length = _dot(step, step).sqrt().clamp_min(1e-30)
        moved: Tensor = state["place"] + (state["radius"] / length).clamp_max(1)[:, None] * step
        return moved.view_as(codes)

    def _remember(self, step: Tensor, derivatives: Tensors, first: Tensor, state: Tensors) -> None:
        """Add the last step and its change of the gradient where the loss is convex along the step."""
        change = derivatives["gradient"] - state["place_gradient"]
        preconditioned = derivatives["preconditioned"] - state["place_preconditioned"]
        curvature, expected = _dot(step, change), _dot(change, preconditioned)
        convex = ~first & (expected > 0) & (curvature > LEAST_CURVATURE * expected)
        ratio = curvature / torch.where(convex, expected, torch.ones_like(expected))
        state["scale"] = torch.where(convex, ratio, state["scale"])
        for name, values in (("steps", step), ("changes", change), ("preconditioned", preconditioned)):
            kept = state[name]
            state[name] = torch.where(
                convex[:, None, None], torch.cat([kept[:, 1:], values[:, None]], dim=1), kept
            )

    def _newton_direction(self, state: Tensors) -> Tensor:
        """Return the inverse Hessian that the memory implies times the gradient, `(A, D)`, in two loops.

        H, scaled by the last step's curvature, stands where the usual form has a multiple of the identity.
        Its products are known, so that it is not multiplied by again.
        """
        steps, changes, preconditioned = state["steps"], state["changes"], state["preconditioned"]
        curvature = _dot(steps, changes)
        # an empty place of the memory is zero
        inverse = torch.where(curvature > 0, 1 / curvature, torch.zeros_like(curvature))
        rest, found = state["place_gradient"], state["place_preconditioned"]
        shares = torch.zeros_like(inverse)
        for past in reversed(range(self.memory)):
            shares[:, past] = inverse[:, past] * _dot(steps[:, past], rest)
            rest = rest - shares[:, past, None] * changes[:, past]
            found = found - shares[:, past, None] * preconditioned[:, past]
        found = expanded(state["scale"], found) * found
        for past in range(self.memory):
            share = inverse[:, past] * _dot(changes[:, past], found)
            found = found + (shares[:, past] - share)[:, None] * steps[:, past]
        return found


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner products over the last axis, summed in float64.

    So the order of the sum, which may depend on the number of slots, is seldom seen in a float32.
    """
    return (first * second).sum(dim=-1, dtype=torch.float64).to(first.dtype)
