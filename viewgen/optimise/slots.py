"""Optimisation of many images' codes at once, in slots.

A slot holds one image's codes with its own state of the update rule and step count. An image that meets its
stopping rule leaves, and the next image takes its slot. The device thus works on full batches until the queue
is empty; then the batch shrinks.

Networks round differently at different batch sizes, and some searches amplify a rounding error to another
view within thirty steps. `SlotOptions.group_size` therefore fixes the size of the evaluated groups; an
image's result is then the same to the bit, independent of the images in the other slots.

Shape legend: N images, A active slots, n codes (views) per image, … a code's own dimensions, any number.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.status import Status

__all__ = [
    "Aim",
    "Evaluation",
    "Problem",
    "SlotOptions",
    "SlotResult",
    "Tensors",
    "UpdateRule",
    "equal_parts",
    "expanded",
    "optimise",
    "slot_bytes",
]

# Tensors of an image's codes that a search holds: codes, the best, gradients, and as many temporaries of an
# update; and the moments of Adam.
CODES_PER_SLOT = 6
MOMENTS = 2
Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Aim:
    """A per-view quantity and the change that the next update should make to it.

    Attributes:
        value: the quantity, `(A, n)`, with its autograd graph to the codes.
        change: desired change of the quantity, `(A, n)`; zero where none is needed.
    """

    value: Tensor
    change: Tensor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of the active slots.

    Attributes:
        loss: loss of each image, `(A,)`.
        done: True for images that meet their stopping rule with these codes, bool `(A,)`.
        aims: aims of the views, most important first, for update rules that use them.
        tensors: further tensors of the slots, `(A, ...)`, for update rules that use them.
    """

    loss: Tensor
    done: Tensor
    aims: tuple[Aim, ...] = ()
    tensors: Tensors = field(default_factory=dict)


class Problem(Protocol):
    """An optimisation problem. Its state of an image is addressed by the image's row."""

    num_images: int
    device: torch.device

    def start(self, rows: Tensor) -> Tensor:
        """Return the first codes of the images `rows`, `(A, n, ...)`, and reset their state."""
        ...

    def evaluate(self, codes: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        """Evaluate codes `(A, n, ...)` of the images `rows`, `(A,)`, after `steps` updates, `(A,)`.

        A row may occur in `rows` more than once, with the same codes.
        """
        ...


class UpdateRule(Protocol):
    """An optimiser for latent codes; its state is a dict of `(A, …)` tensors, one entry per slot.

    Attributes:
        needs_gradients: False for a rule that only reads values, whose evaluations keep no graph.
    """

    @property
    def needs_gradients(self) -> bool: ...

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return the initial state of slots with the codes `(A, n, ...)` of the images `rows`; A may be 0."""
        ...

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return the derivatives for the update, `(A, ...)` each.

        A non-finite one restarts its image, unless that has no steps left.
        """
        ...

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update; `steps`, `(A,)`, counts the earlier updates. Changes `state`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotOptions:
    """Settings of the slots.

    Attributes:
        num_slots: images optimised at once.
        max_steps: updates after which an image leaves without having converged.
        keep_best: return the codes with the lowest loss instead of the last ones; ``"unfinished"``: only for
            images that do not meet their stopping rule.
        group_size: exact number of images per evaluation; the last group is filled by repeating an image.
            None evaluates all slots at once.
    """

    num_slots: int
    max_steps: int
    keep_best: bool | Literal["unfinished"] = False
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_slots < 1 or self.max_steps < 0:
            raise UsageError(
                f"num_slots is {self.num_slots}, max_steps {self.max_steps}; expected at least 1, and 0"
            )
        if self.group_size is not None and self.group_size < 1:
            raise UsageError(f"group_size is {self.group_size}; expected at least 1")


@dataclass(frozen=True, slots=True)
class SlotResult:
    """Outcome of every image.

    Attributes:
        codes: codes, `(N, n, ...)`, on the problem's device; the first codes for a failed image.
        steps: number of updates (since the restart, if there was one), `(N,)`, int32.
        status: `Status`, `(N,)`, uint8; FAILED after two non-finite evaluations.
        loss: loss of the returned codes, `(N,)`; NaN for a failed image.
        passes: number of evaluations, counted per image and summed over the images.
    """

    codes: Tensor
    steps: Tensor
    status: Tensor
    loss: Tensor
    passes: int


class _Slots:
    """State of the active slots; every tensor's first axis is the slot."""

    _NAMES = ("rows", "steps", "resets", "codes", "best_codes", "best_loss")

    def __init__(self, problem: Problem, rule: UpdateRule) -> None:
        device = problem.device
        empty = problem.start(torch.empty(0, dtype=torch.long, device=device))
        self.problem, self.rule = problem, rule
        self.rows = torch.empty(0, dtype=torch.long, device=device)
        self.steps = torch.empty(0, dtype=torch.long, device=device)
        self.resets = torch.empty(0, dtype=torch.long, device=device)
        self.codes, self.best_codes = empty.clone(), empty.clone()
        self.best_loss = torch.empty(0, device=device, dtype=empty.dtype)
        self.state = rule.fresh(empty, self.rows)

    def add(self, rows: Tensor) -> None:
        codes = self.problem.start(rows)
        zeros = torch.zeros_like(rows)
        best_loss = codes.new_full((len(codes),), torch.inf)
        for name, new in zip(self._NAMES, (rows, zeros, zeros, codes, codes, best_loss), strict=True):
            setattr(self, name, torch.cat([getattr(self, name), new]))
        fresh = self.rule.fresh(codes, rows)
        self.state = {name: torch.cat([values, fresh[name]]) for name, values in self.state.items()}

    def keep(self, kept: Tensor) -> None:
        for name in self._NAMES:
            setattr(self, name, getattr(self, name)[kept])
        self.state = {name: values[kept] for name, values in self.state.items()}

    def restart(self, broken: Tensor) -> None:
        """Reset the slots in the mask `broken` to their first codes."""
        first = self.problem.start(self.rows[broken])
        self.codes = self.codes.clone()
        self.codes[broken] = first
        for name, values in self.rule.fresh(first, self.rows[broken]).items():
            self.state[name][broken] = values
        self.steps[broken] = 0
        self.resets[broken] += 1
        self.best_loss[broken] = torch.inf

    def move(self, derivatives: Tensors) -> None:
        self.codes = self.rule.move(self.codes, self.steps, derivatives, self.state)
        self.steps = self.steps + 1


def slot_bytes(num_views: int, code_shape: tuple[int, ...], rule: UpdateRule | None = None) -> int:
    """Return a lower bound of the bytes that a search keeps per image; without a rule, that of Adam's."""
    size = num_views * math.prod(code_shape)
    state = MOMENTS * size
    if rule is not None:
        fresh = rule.fresh(torch.zeros(1, num_views, *code_shape), torch.zeros(1, dtype=torch.long))
        state = sum(values.numel() for values in fresh.values())
    return 4 * (CODES_PER_SLOT * size + state)


def equal_parts(rows: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Split a tensor along its first axis into parts of exactly `size`; the last repeats its last row.

    Yields:
        a part, `(size, ...)`, and its number of valid rows; for an empty tensor that tensor and 0.
    """
    count = len(rows)
    if count == 0:
        yield rows, 0
    for start in range(0, count, size):
        index = torch.arange(start, start + size, device=rows.device).clamp_max(count - 1)
        yield rows[index], min(size, count - start)


def expanded(values: Tensor, codes: Tensor) -> Tensor:
    """Reshape values of slots or views, `(A,)` or `(A, n)`, for broadcasting with `codes`, `(A, n, ...)`."""
    return values[(..., *(None,) * (codes.ndim - values.ndim))]


def _evaluate(slots: _Slots, options: SlotOptions) -> tuple[Evaluation, Tensors]:
    """Return the evaluation of all slots, and derivatives for their update if one has steps left."""
    group_size = options.group_size
    moving = bool((slots.steps < options.max_steps).any())
    every = torch.arange(len(slots.rows), device=slots.rows.device)
    losses, dones, parts = [], [], []
    for group, kept in equal_parts(every, group_size or len(every)):
        needed = slots.rule.needs_gradients
        codes = slots.codes[group].detach().requires_grad_(needed)
        with torch.set_grad_enabled(needed):
            evaluation = slots.problem.evaluate(codes, slots.rows[group], slots.steps[group])
            derivatives = slots.rule.differentiate(evaluation, codes) if moving else {}
        losses.append(evaluation.loss.detach()[:kept])
        dones.append(evaluation.done[:kept])
        parts.append({name: values[:kept] for name, values in derivatives.items()})
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Evaluation(torch.cat(losses), torch.cat(dones)), together


def optimise(problem: Problem, options: SlotOptions, rule: UpdateRule) -> SlotResult:
    """Update every image's codes until its stopping rule holds or its steps are used up.

    An image with a non-finite loss or derivative restarts once; the second time it is marked FAILED. Other
    images are unaffected. After an image's last update only its loss counts.

    Args:
        problem: losses, first codes and stopping rule.
        options: settings of the slots.
        rule: update rule of the codes.
    """
    num_images, device = problem.num_images, problem.device
    slots = _Slots(problem, rule)
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
                codes=slots.codes.new_empty(num_images, *slots.codes.shape[1:]),
                steps=torch.zeros(num_images, dtype=torch.int32, device=device),
                status=torch.zeros(num_images, dtype=torch.uint8, device=device),
                loss=slots.codes.new_full((num_images,), torch.nan),
                passes=0,
            )
        if len(slots.rows) == 0:
            break
        evaluation, derivatives = _evaluate(slots, options)
        passes += len(slots.rows)
        loss = evaluation.loss
        finite = torch.isfinite(loss)
        last = slots.steps >= options.max_steps
        for values in derivatives.values():
            # nothing moves along the last derivative, which is not always there
            finite = finite & (last | torch.isfinite(values).flatten(1).all(dim=1))
        if options.keep_best:
            better = finite & (loss < slots.best_loss)
            slots.best_loss = torch.where(better, loss, slots.best_loss)
            slots.best_codes = torch.where(expanded(better, slots.codes), slots.codes, slots.best_codes)
        failed = ~finite & (slots.resets > 0)
        broken = ~finite & ~failed
        done = finite & evaluation.done
        out_of_steps = finite & ~done & last
        leaving = done | out_of_steps | failed
        if bool(leaving.any()):
            rows = slots.rows[leaving]
            first = problem.start(slots.rows[failed])
            newest = torch.full_like(done, not options.keep_best)
            if options.keep_best == "unfinished":
                newest = done
            chosen = torch.where(expanded(newest, slots.codes), slots.codes, slots.best_codes)
            chosen[failed] = first
            result.codes[rows] = chosen[leaving]
            result.steps[rows] = slots.steps[leaving].to(torch.int32)
            status = torch.where(done, Status.OK, Status.NOT_CONVERGED).masked_fill(failed, Status.FAILED)
            result.status[rows] = status[leaving].to(torch.uint8)
            kept_loss = torch.where(newest, loss, slots.best_loss)
            result.loss[rows] = kept_loss.masked_fill(failed, torch.nan)[leaving]
            moving = ~leaving
            broken = broken[moving]
            derivatives = {name: values[moving] for name, values in derivatives.items()}
            slots.keep(moving)
        if len(slots.rows):
            if derivatives:
                slots.move(derivatives)
            if bool(broken.any()):
                slots.restart(broken)
    return replace(result, passes=passes)
