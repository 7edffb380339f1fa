"""L-BFGS for the slots of `viewgen.optimise.slots`, from a first guess of the inverse Hessian.

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

# A step along which the loss is less curved than this, where 1 is the guess, is not remembered.
LEAST_CURVATURE = 1e-6
GROWTH = 2.0
SHRINKAGE = 0.35


@dataclass(frozen=True, kw_only=True, slots=True)
class LBFGS:
    """L-BFGS on an image's loss, as a `viewgen.optimise.slots.UpdateRule`, for one code per image.

    Attributes:
        precondition: maps gradients `(A, D)` to gradients times a guess of the inverse Hessian, a symmetric
            positive definite matrix that is the same for all images.
        memory: m, number of steps from which an image's curvature is estimated.
        first_step: length of the first step, as a share of the guess's.

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
        vectors = ("place_gradient", "place_guess", "step")
        memories = ("steps", "changes", "guesses")
        return {
            "place": flat.clone(),
            "place_loss": codes.new_full((num_slots,), torch.inf),
            "radius": codes.new_zeros(num_slots),
            "scale": codes.new_ones(num_slots),
            **{name: torch.zeros_like(flat) for name in vectors},
            **{name: codes.new_zeros(num_slots, self.memory, size) for name in memories},
        }

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return losses, `(A, 1)`, their gradients, and those times the guess, `(A, D)` both."""
        (gradient,) = torch.autograd.grad(evaluation.loss.sum(), codes)
        gradient = gradient.flatten(1)
        # here, where a group has one size: a product of another size rounds otherwise
        guess = self.precondition(gradient)
        return {"loss": evaluation.loss.detach()[:, None], "gradient": gradient, "guess": guess}

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update, from here or, if the loss has risen, from the place before."""
        gradient, guess, loss = derivatives["gradient"], derivatives["guess"], derivatives["loss"][:, 0]
        first = steps == 0
        self._remember(gradient, guess, first, state)
        length = state["step"].norm(dim=1)
        fallen = first | (loss < state["place_loss"])
        radius = torch.where(fallen, torch.maximum(state["radius"], GROWTH * length), SHRINKAGE * length)
        state["radius"] = torch.where(first, self.first_step * guess.norm(dim=1), radius)
        state["place_loss"] = torch.where(fallen, loss, state["place_loss"])
        here = {"place": codes.flatten(1), "place_gradient": gradient, "place_guess": guess}
        for name, values in here.items():
            state[name] = torch.where(fallen[:, None], values, state[name])
        step = -self._newton_direction(state)
        step *= (state["radius"] / step.norm(dim=1).clamp_min(1e-30)).clamp_max(1)[:, None]
        state["step"] = step
        moved: Tensor = (state["place"] + step).view_as(codes)
        return moved

    def _remember(self, gradient: Tensor, guess: Tensor, first: Tensor, state: Tensors) -> None:
        """Add the last step and its change of the gradient where the loss is convex along the step."""
        step, change = state["step"], gradient - state["place_gradient"]
        guess = guess - state["place_guess"]
        curvature, guessed = (step * change).sum(dim=1), (change * guess).sum(dim=1)
        convex = ~first & (curvature > LEAST_CURVATURE * guessed)
        state["scale"] = torch.where(convex, curvature / guessed.clamp_min(1e-30), state["scale"])
        for name, values in (("steps", step), ("changes", change), ("guesses", guess)):
            added = torch.where(convex[:, None], values, torch.zeros_like(values))
            state[name] = torch.cat([state[name][:, 1:], added[:, None]], dim=1)

    def _newton_direction(self, state: Tensors) -> Tensor:
        """Return the inverse Hessian that the memory implies times the gradient, `(A, D)`, in two loops.

        The guess, scaled by the last step's curvature, stands where the usual form has a multiple of the
        identity. It is linear, so that its product is carried along and never computed for this.
        """
        steps, changes, guesses = state["steps"], state["changes"], state["guesses"]
        curvature = (steps * changes).sum(dim=2)
        inverse = torch.where(curvature > 0, 1 / curvature, torch.zeros_like(curvature))
        rest, found = state["place_gradient"], state["place_guess"]
        shares = torch.zeros_like(inverse)
        for past in reversed(range(self.memory)):
            shares[:, past] = inverse[:, past] * (steps[:, past] * rest).sum(dim=1)
            rest = rest - shares[:, past, None] * changes[:, past]
            found = found - shares[:, past, None] * guesses[:, past]
        found = expanded(state["scale"], found) * found
        for past in range(self.memory):
            share = inverse[:, past] * (changes[:, past] * found).sum(dim=1)
            found = found + (shares[:, past] - share)[:, None] * steps[:, past]
        return found
