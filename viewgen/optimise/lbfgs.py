"""L-BFGS for the slots of `viewgen.optimise.slots`, in coordinates in which the loss is about equally curved.

Every image has its own memory of steps and changes of the gradient. There is no line search, which would
evaluate the images of a batch at different numbers of points: a step goes the full way, as far as the slot's
radius allows; one that raises the loss is taken back, and the radius shrinks.

References:
    On the Limited Memory BFGS Method for Large Scale Optimization, Liu and Nocedal, 1989,
    https://doi.org/10.1007/BF01589116

Shape legend: A active slots, … a code's own dimensions, D their product, K coordinates, m remembered steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.optimise.slots import Evaluation, Tensors, equal_parts, expanded

__all__ = ["LBFGS"]

# A pair of step and change of the gradient along which the loss is less curved than this is not remembered.
LEAST_CURVATURE = 1e-6
GROWTH = 2.0
SHRINKAGE = 0.35


@dataclass(frozen=True, kw_only=True, slots=True)
class LBFGS:
    """L-BFGS on an image's loss, as a `viewgen.optimise.slots.UpdateRule`, for one code per image.

    Attributes:
        directions: the coordinates' directions in the space of codes, `(D, K)`; a code moves in their span
            only. Scaled such that the loss has about the curvature 1 along each.
        memory: m, number of steps from which the curvature is estimated.
        batch_size: steps that are mapped to codes together, exactly, because a matrix product of another size
            rounds otherwise; None maps all at once.
        first_step: length of the first step, as a share of the gradient's; 1 would be Newton's step if the
            curvature were 1 and constant.

    Raises:
        UsageError: a size is not positive, or `directions` is no matrix.
    """

    directions: Tensor
    memory: int
    batch_size: int | None = None
    first_step: float = 0.1
    needs_gradients: bool = True

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or not self.directions.numel():
            raise UsageError(f"directions has shape {tuple(self.directions.shape)}; expected (D, K)")
        for name in ("memory", "batch_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise UsageError(f"{name} is {size}; expected at least 1")
        if not self.first_step > 0:
            raise UsageError(f"first_step is {self.first_step}; expected a positive number")

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return an empty memory, and the codes as the place from which the first step goes."""
        num_slots, num_coordinates = len(codes), self.directions.shape[1]
        return {
            "place": codes.clone(),
            "place_loss": codes.new_full((num_slots,), torch.inf),
            "place_gradient": codes.new_zeros(num_slots, num_coordinates),
            "step": codes.new_zeros(num_slots, num_coordinates),
            "radius": codes.new_zeros(num_slots),
            "scale": codes.new_ones(num_slots),
            "steps": codes.new_zeros(num_slots, self.memory, num_coordinates),
            "changes": codes.new_zeros(num_slots, self.memory, num_coordinates),
        }

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return the losses, `(A, 1)`, and their gradient in the coordinates, `(A, K)`."""
        (gradient,) = torch.autograd.grad(evaluation.loss.sum(), codes)
        return {"loss": evaluation.loss.detach()[:, None], "gradient": gradient.flatten(1) @ self.directions}

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update, from here or, if the loss has risen, from the place before."""
        gradient, loss = derivatives["gradient"], derivatives["loss"][:, 0]
        first = steps == 0
        self._remember(gradient, first, state)
        length = state["step"].norm(dim=1)
        fallen = first | (loss < state["place_loss"])
        state["radius"] = torch.where(
            fallen, torch.maximum(state["radius"], GROWTH * length), SHRINKAGE * length
        )
        state["radius"] = torch.where(first, self.first_step * gradient.norm(dim=1), state["radius"])
        state["place"] = torch.where(expanded(fallen, codes), codes, state["place"])
        state["place_loss"] = torch.where(fallen, loss, state["place_loss"])
        state["place_gradient"] = torch.where(fallen[:, None], gradient, state["place_gradient"])
        step = -self._newton_direction(state)
        step *= (state["radius"] / step.norm(dim=1).clamp_min(1e-30)).clamp_max(1)[:, None]
        state["step"] = step
        parts = equal_parts(step, self.batch_size or max(1, len(step)))
        moves = torch.cat([(part @ self.directions.T)[:kept] for part, kept in parts])
        moved: Tensor = state["place"] + moves.view_as(codes)
        return moved

    def _remember(self, gradient: Tensor, first: Tensor, state: Tensors) -> None:
        """Add the last step and its change of the gradient where the loss is convex along the step."""
        step, change = state["step"], gradient - state["place_gradient"]
        curvature, square = (step * change).sum(dim=1), change.square().sum(dim=1)
        convex = ~first & (curvature > LEAST_CURVATURE * square)
        state["scale"] = torch.where(convex, curvature / square.clamp_min(1e-30), state["scale"])
        for name, values in (("steps", step), ("changes", change)):
            added = torch.where(convex[:, None], values, torch.zeros_like(values))
            state[name] = torch.cat([state[name][:, 1:], added[:, None]], dim=1)

    def _newton_direction(self, state: Tensors) -> Tensor:
        """Return the inverse Hessian that the memory implies times the gradient, `(A, K)`, in two loops."""
        steps, changes = state["steps"], state["changes"]
        curvature = (steps * changes).sum(dim=2)
        inverse = torch.where(curvature > 0, 1 / curvature, torch.zeros_like(curvature))
        found = state["place_gradient"]
        shares = torch.zeros_like(inverse)
        for past in reversed(range(self.memory)):
            shares[:, past] = inverse[:, past] * (steps[:, past] * found).sum(dim=1)
            found = found - shares[:, past, None] * changes[:, past]
        found = found * state["scale"][:, None]
        for past in range(self.memory):
            share = inverse[:, past] * (changes[:, past] * found).sum(dim=1)
            found = found + (shares[:, past] - share)[:, None] * steps[:, past]
        return found
