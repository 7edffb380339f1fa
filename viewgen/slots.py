"""Optimisation of many images' latent codes at once, in slots.

A slot holds one image's codes with its own Adam moments and step count. An image that meets its own stopping
rule leaves and the next image takes its slot, so the device works on full batches until the queue is empty;
then the batch shrinks.

Networks round differently at different batch sizes, and some searches carry a rounding error to another view
within thirty steps. With `SlotOptions.group_size` the problem is therefore evaluated on groups of always the
same size, and an image's result is the same to the bit whichever images shared its slots.

Shape legend: N images, A active slots, n codes (views) per image, L layers, D style dimension.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from viewgen.errors import UsageError

__all__ = [
    "FAILED",
    "NOT_CONVERGED",
    "OK",
    "Evaluation",
    "Problem",
    "SlotOptions",
    "SlotResult",
    "equal_parts",
    "optimise",
]

OK, NOT_CONVERGED, FAILED = 1, 2, 3
ADAM_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of the active slots.

    Attributes:
        loss: per image, `(A,)`; its gradient moves the codes.
        done: whether the image has met its stopping rule with these codes, bool `(A,)`.
    """

    loss: Tensor
    done: Tensor


class Problem(Protocol):
    """What is optimised. Whatever a problem remembers of an image is addressed by its row."""

    num_images: int
    device: torch.device

    def start(self, rows: Tensor) -> Tensor:
        """Return the first codes of the images `rows`, `(A, n, L, D)`, and forget what is known of them."""
        ...

    def evaluate(self, w: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        """Evaluate codes `(A, n, L, D)` of the images `rows`, `(A,)`, after `steps` updates, `(A,)`.

        A row may stand in `rows` more than once, with the same codes.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotOptions:
    """How the slots are run.

    Attributes:
        num_slots: images optimised at once.
        learning_rate, betas: of Adam.
        max_steps: updates after which an image leaves without having converged.
        decay_steps: an image's learning rate after t updates is learning_rate / (1 + t / decay_steps); None
            keeps it constant.
        keep_best: return the codes of the lowest loss met rather than the last ones.
        group_size: images per evaluation, exactly: the last group is filled up by repeating an image. None
            evaluates all slots at once.
    """

    num_slots: int
    learning_rate: float
    max_steps: int
    betas: tuple[float, float] = (0.9, 0.999)
    keep_best: bool = False
    decay_steps: float | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_slots < 1 or self.max_steps < 0 or not self.learning_rate > 0:
            raise UsageError(
                f"num_slots is {self.num_slots}, max_steps {self.max_steps}, learning_rate "
                f"{self.learning_rate}; expected at least 1, at least 0, and a positive number"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas is {self.betas}; expected two numbers in [0, 1)")
        if self.decay_steps is not None and not self.decay_steps > 0:
            raise UsageError(f"decay_steps is {self.decay_steps}; expected a positive number")
        if self.group_size is not None and self.group_size < 1:
            raise UsageError(f"group_size is {self.group_size}; expected at least 1")


@dataclass(frozen=True, slots=True)
class SlotResult:
    """Outcome of every image.

    Attributes:
        w: codes, `(N, n, L, D)`, on the problem's device; those of a failed image are its first ones.
        steps: updates made (since the restart, if there was one), `(N,)`, int32.
        status: OK, NOT_CONVERGED or FAILED (non-finite twice), `(N,)`, uint8.
        loss: of the returned codes, `(N,)`; NaN for a failed image.
        passes: evaluations of one image's codes, summed over the images.
    """

    w: Tensor
    steps: Tensor
    status: Tensor
    loss: Tensor
    passes: int


class _Slots:
    """State of the active slots; every tensor's first axis is the slot."""

    def __init__(self, problem: Problem) -> None:
        device = problem.device
        empty = problem.start(torch.empty(0, dtype=torch.long, device=device))
        self.problem = problem
        self.rows = torch.empty(0, dtype=torch.long, device=device)
        self.steps = torch.empty(0, dtype=torch.long, device=device)
        self.resets = torch.empty(0, dtype=torch.long, device=device)
        self.w, self.mean, self.square, self.best_w = (empty.clone() for _ in range(4))
        self.best_loss = torch.empty(0, device=device, dtype=empty.dtype)

    _NAMES = ("rows", "steps", "resets", "w", "mean", "square", "best_w", "best_loss")

    def add(self, rows: Tensor) -> None:
        w = self.problem.start(rows)
        zeros = torch.zeros_like(rows)
        new = {
            "rows": rows,
            "steps": zeros,
            "resets": zeros,
            "w": w,
            "mean": torch.zeros_like(w),
            "square": torch.zeros_like(w),
            "best_w": w,
            "best_loss": torch.full_like(w[:, 0, 0, 0], torch.inf),
        }
        for name in self._NAMES:
            setattr(self, name, torch.cat([getattr(self, name), new[name]]))

    def keep(self, kept: Tensor) -> None:
        for name in self._NAMES:
            setattr(self, name, getattr(self, name)[kept])

    def restart(self, broken: Tensor) -> None:
        """Take the slots in the mask `broken` back to their first codes."""
        self.w = self.w.clone()
        self.w[broken] = self.problem.start(self.rows[broken])
        for moment in (self.mean, self.square):
            moment[broken] = 0
        self.steps[broken] = 0
        self.resets[broken] += 1
        self.best_loss[broken] = torch.inf

    def adam(self, gradient: Tensor, options: SlotOptions) -> None:
        beta1, beta2 = options.betas
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self.steps = self.steps + 1
        count = self.steps.to(gradient.dtype)[:, None, None, None]
        # 1 - βᵗ by expm1: written out it would lose half of float32's digits in the first steps
        correction1 = -torch.expm1(count * math.log(beta1)) if beta1 else torch.ones_like(count)
        correction2 = (-torch.expm1(count * math.log(beta2))).sqrt() if beta2 else torch.ones_like(count)
        decay = 1.0 if options.decay_steps is None else 1 / (1 + (count - 1) / options.decay_steps)
        rate = options.learning_rate * decay * correction2 / correction1
        # epsilon is scaled as in the usual form, mean / (sqrt(square / (1 - β₂ᵗ)) + ε)
        epsilon = ADAM_EPSILON * correction2
        self.w = self.w - rate * self.mean / (self.square.sqrt() + epsilon)


def equal_parts(rows: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Split a tensor along its first axis into parts of exactly `size`, the last filled up by its last row.

    Yields:
        a part, `(size, ...)`, and how many of its rows count; for an empty tensor that tensor and 0.
    """
    count = len(rows)
    if count == 0:
        yield rows, 0
    for start in range(0, count, size):
        index = torch.arange(start, start + size, device=rows.device).clamp_max(count - 1)
        yield rows[index], min(size, count - start)


def _evaluate(problem: Problem, slots: _Slots, group_size: int | None) -> tuple[Evaluation, Tensor]:
    """Return the evaluation of all slots and the gradient of their codes."""
    every = torch.arange(len(slots.rows), device=slots.rows.device)
    losses, dones, gradients = [], [], []
    for group, kept in equal_parts(every, group_size or len(every)):
        w = slots.w[group].detach().requires_grad_()
        evaluation = problem.evaluate(w, slots.rows[group], slots.steps[group])
        (gradient,) = torch.autograd.grad(evaluation.loss.sum(), w)
        losses.append(evaluation.loss.detach()[:kept])
        dones.append(evaluation.done[:kept])
        gradients.append(gradient[:kept])
    return Evaluation(torch.cat(losses), torch.cat(dones)), torch.cat(gradients)


def optimise(problem: Problem, options: SlotOptions) -> SlotResult:
    """Minimise every image's loss with Adam until its stopping rule holds or its steps are used up.

    An image whose loss or gradient is not finite starts once more; the second time it is marked FAILED. Its
    neighbours are unaffected.

    Args:
        problem: losses, first codes and stopping rule.
        options: slots, learning rate, limits.
    """
    num_images, device = problem.num_images, problem.device
    slots = _Slots(problem)
    result: SlotResult | None = None
    passes = 0
    following = 0
    while True:
        free = options.num_slots - len(slots.rows)
        if free > 0 and following < num_images:
            upto = min(num_images, following + free)
            slots.add(torch.arange(following, upto, device=device))
            following = upto
        if result is None:
            result = SlotResult(
                w=slots.w.new_empty(num_images, *slots.w.shape[1:]),
                steps=torch.zeros(num_images, dtype=torch.int32, device=device),
                status=torch.zeros(num_images, dtype=torch.uint8, device=device),
                loss=slots.w.new_full((num_images,), torch.nan),
                passes=0,
            )
        if len(slots.rows) == 0:
            break
        evaluation, gradient = _evaluate(problem, slots, options.group_size)
        passes += len(slots.rows)
        loss = evaluation.loss
        finite = torch.isfinite(loss) & torch.isfinite(gradient).flatten(1).all(dim=1)
        if options.keep_best:
            better = finite & (loss < slots.best_loss)
            slots.best_loss = torch.where(better, loss, slots.best_loss)
            slots.best_w = torch.where(better[:, None, None, None], slots.w, slots.best_w)
        failed = ~finite & (slots.resets > 0)
        broken = ~finite & ~failed
        done = finite & evaluation.done
        out_of_steps = finite & ~done & (slots.steps >= options.max_steps)
        leaving = done | out_of_steps | failed
        if bool(leaving.any()):
            rows = slots.rows[leaving]
            first = problem.start(slots.rows[failed])
            chosen = (slots.best_w if options.keep_best else slots.w).clone()
            chosen[failed] = first
            result.w[rows] = chosen[leaving]
            result.steps[rows] = slots.steps[leaving].to(torch.int32)
            status = torch.where(failed, FAILED, torch.where(done, OK, NOT_CONVERGED)).to(torch.uint8)
            result.status[rows] = status[leaving]
            final = slots.best_loss if options.keep_best else loss
            result.loss[rows] = final.masked_fill(failed, torch.nan)[leaving]
            moving = ~leaving
            gradient, broken = gradient[moving], broken[moving]
            slots.keep(moving)
        if len(slots.rows):
            slots.adam(gradient, options)
            if bool(broken.any()):
                slots.restart(broken)
    return SlotResult(w=result.w, steps=result.steps, status=result.status, loss=result.loss, passes=passes)
