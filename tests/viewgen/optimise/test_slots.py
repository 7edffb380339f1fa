"""The slot engine against a plain loop over images with torch.optim.Adam."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.optimise.adam import Adam
from viewgen.optimise.lbfgs import LBFGS
from viewgen.optimise.slots import Evaluation, SlotOptions, SlotResult, equal_parts, optimise, slot_bytes
from viewgen.status import Status

CPU = torch.device("cpu")
ADAM = Adam(learning_rate=0.1)


@dataclass
class Valleys:
    """A bumpy valley per image, in float64; done below a loss of its own. Keeps a diary of the calls."""

    num_images: int
    shape: tuple[int, int, int] = (2, 2, 3)
    seed: int = 0
    bumps: float = 0.3
    poisoned: dict[int, tuple[str, int, int]] = field(
        default_factory=dict
    )  # row: (what, from step, attempts)
    device: torch.device = CPU

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(self.seed)
        shape = (self.num_images, *self.shape)
        self.targets, self.first = (
            torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2)
        )
        self.enough = torch.rand(self.num_images, generator=random, dtype=torch.float64) * 2
        self.starts = [0] * self.num_images
        self.diary: list[tuple[list[int], list[int]]] = []

    def start(self, rows: Tensor) -> Tensor:
        for row in rows.tolist():
            self.starts[row] += 1
        return self.first[rows]

    def loss(self, w: Tensor, rows: Tensor) -> Tensor:
        gap = w - self.targets[rows]
        return (gap.square() + self.bumps * (3 * gap).sin()).flatten(1).sum(dim=1)

    def evaluate(self, w: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        self.diary.append((rows.tolist(), steps.tolist()))
        loss = self.loss(w, rows)
        done = loss.detach() < self.enough[rows]
        for place, (row, step) in enumerate(zip(rows.tolist(), steps.tolist(), strict=True)):
            what, from_step, attempts = self.poisoned.get(row, ("", 0, 0))
            if what and step >= from_step and self.starts[row] <= attempts:
                # the root's gradient at 0 is infinite, and 0 times that is NaN; its value is 0
                poison = w.new_tensor(torch.nan) if what == "loss" else (0 * w[place, 0, 0, 0]).sqrt()
                loss = loss.index_add(0, torch.tensor([place]), poison[None])
        return Evaluation(loss, done)


def one_by_one(problem: Valleys, options: SlotOptions, rule: Adam) -> SlotResult:
    """The same minimisation, image after image, with torch's own Adam."""
    shape = (problem.num_images, *problem.shape)
    result = SlotResult(
        codes=torch.empty(shape, dtype=torch.float64),
        steps=torch.zeros(problem.num_images, dtype=torch.int32),
        status=torch.zeros(problem.num_images, dtype=torch.uint8),
        loss=torch.empty(problem.num_images, dtype=torch.float64),
        passes=0,
    )
    passes = 0
    for row in range(problem.num_images):
        rows = torch.tensor([row])
        w = problem.first[rows].clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=rule.learning_rate, betas=rule.betas)
        best_loss, best_w = torch.inf, w.detach().clone()
        step = 0
        while True:
            loss = problem.loss(w, rows)
            passes += 1
            value = loss.item()
            if value < best_loss:
                best_loss, best_w = value, w.detach().clone()
            done = value < problem.enough[row].item()
            if done or step == options.max_steps:
                break
            if rule.decay_steps is not None:
                adam.param_groups[0]["lr"] = rule.learning_rate / (1 + step / rule.decay_steps)
            adam.zero_grad()
            loss.sum().backward()
            adam.step()
            step += 1
        result.codes[row] = best_w if options.keep_best else w.detach()
        result.loss[row] = best_loss if options.keep_best else value
        result.steps[row] = step
        result.status[row] = Status.OK if done else Status.NOT_CONVERGED
    return SlotResult(
        codes=result.codes, steps=result.steps, status=result.status, loss=result.loss, passes=passes
    )


def assert_equal(found: SlotResult, expected: SlotResult) -> None:
    assert found.status.tolist() == expected.status.tolist()
    assert found.steps.tolist() == expected.steps.tolist()
    assert (found.steps.dtype, found.status.dtype) == (torch.int32, torch.uint8)
    # float64; the two write Adam's bias correction differently, and the bumps spread the difference
    # a rounding error of the last bit grows on the bumps within 25 steps of this length
    torch.testing.assert_close(found.codes, expected.codes, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-7, atol=1e-7)
    assert found.passes == expected.passes


@settings(deadline=None, max_examples=40)
@given(
    num_images=st.integers(0, 9),
    num_slots=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4)),
    max_steps=st.integers(0, 30),
    learning_rate=st.sampled_from([0.01, 0.1, 0.5, 1.5]),
    betas=st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)]),
    decay_steps=st.sampled_from([None, 3.0, 20.0]),
    group_size=st.sampled_from([None, 1, 2, 5]),
    keep_best=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_slots_equal_a_loop_over_images(
    num_images,
    num_slots,
    shape,
    max_steps,
    learning_rate,
    betas,
    decay_steps,
    group_size,
    keep_best,
    seed,
):
    problem = Valleys(num_images, shape, seed)
    options = SlotOptions(
        num_slots=num_slots, max_steps=max_steps, group_size=group_size, keep_best=keep_best
    )
    adam = Adam(learning_rate=learning_rate, betas=betas, decay_steps=decay_steps)
    assert_equal(optimise(problem, options, adam), one_by_one(problem, options, adam))


def test_the_cases_above_meet_every_way_to_leave():
    options = SlotOptions(num_slots=3, max_steps=25)
    result = optimise(Valleys(20), options, ADAM)
    assert set(result.status.tolist()) == {Status.OK, Status.NOT_CONVERGED}
    assert len(set(result.steps.tolist())) > 5


@pytest.mark.parametrize("num_slots", [1, 3, 20, 100])
def test_any_number_of_slots_gives_the_same_bits(num_slots):
    options = {"max_steps": 25}
    expected = optimise(Valleys(20), SlotOptions(num_slots=7, **options), ADAM)
    found = optimise(Valleys(20), SlotOptions(num_slots=num_slots, **options), ADAM)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.steps, expected.steps)
    assert torch.equal(found.status, expected.status)


def test_slots_are_full_to_the_end_and_refilled_in_order():
    problem = Valleys(20)
    optimise(problem, SlotOptions(num_slots=6, max_steps=25), ADAM)
    assert problem.starts == [1] * 20
    seen: list[int] = []
    next_step: dict[int, int] = {}
    for rows, steps in problem.diary:
        waiting = 20 - len(seen)
        new = [row for row in rows if row not in seen]
        assert new == list(range(len(seen), len(seen) + len(new)))
        seen += new
        assert len(rows) == 6 or (len(rows) < 6 and waiting == len(new))
        for row, step in zip(rows, steps, strict=True):
            assert step == next_step.get(row, 0)
            next_step[row] = step + 1
    assert seen == list(range(20))


def test_groups_are_of_one_size_filled_up_by_their_last_image():
    problem = Valleys(20)
    optimise(problem, SlotOptions(num_slots=6, max_steps=25, group_size=4), ADAM)
    assert {len(rows) for rows, _ in problem.diary} == {4}
    repeats = [4 - len(set(rows)) for rows, _ in problem.diary]
    assert set(repeats) >= {0, 2, 3}
    for (rows, _), repeated in zip(problem.diary, repeats, strict=True):
        assert rows[4 - repeated :] == [rows[3 - repeated]] * repeated
    assert problem.starts == [1] * 20


@given(count=st.integers(0, 20), size=st.integers(1, 8))
def test_equal_parts_hold_every_row_once(count, size):
    rows = torch.arange(2 * count).view(count, 2)
    parts = list(equal_parts(rows, size))
    assert torch.equal(torch.cat([part[:kept] for part, kept in parts]), rows)
    assert all(len(part) == size for part, _ in parts) or count == 0
    assert all(torch.equal(row, part[kept - 1]) for part, kept in parts for row in part[kept:])


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("keep_best", [False, True])
def test_a_poisoned_image_starts_once_more_then_fails_alone(what, keep_best):
    options = SlotOptions(num_slots=4, max_steps=25, keep_best=keep_best)
    clean = optimise(Valleys(12), options, ADAM)
    problem = Valleys(12, poisoned={5: (what, 2, 99)})
    result = optimise(problem, options, ADAM)
    assert result.status[5] == Status.FAILED
    assert torch.equal(result.codes[5], problem.first[5])
    assert torch.isnan(result.loss[5])
    assert result.steps[5] == 2
    visits = [steps[rows.index(5)] for rows, steps in problem.diary if 5 in rows]
    assert visits == [0, 1, 2, 0, 1, 2]
    others = torch.arange(12) != 5
    for name in ("codes", "steps", "status", "loss"):
        assert torch.equal(getattr(result, name)[others], getattr(clean, name)[others]), name


def test_an_image_that_recovers_ends_as_if_nothing_had_happened():
    options = SlotOptions(num_slots=4, max_steps=25)
    clean = optimise(Valleys(12), options, ADAM)
    problem = Valleys(12, poisoned={5: ("loss", 3, 1)})
    result = optimise(problem, options, ADAM)
    assert problem.starts[5] == 2
    for name in ("codes", "steps", "status", "loss"):
        assert torch.equal(getattr(result, name), getattr(clean, name)), name
    assert result.passes == clean.passes + 4


def test_keep_best_returns_the_lowest_loss_met():
    problem = Valleys(30, bumps=2.0)
    problem.enough[:] = -torch.inf
    options = {"num_slots": 8, "max_steps": 12}
    adam = Adam(learning_rate=0.8)
    last = optimise(problem, SlotOptions(**options), adam)
    best = optimise(problem, SlotOptions(keep_best=True, **options), adam)
    assert_equal(best, one_by_one(problem, SlotOptions(keep_best=True, **options), adam))
    rows = torch.arange(30)
    torch.testing.assert_close(problem.loss(best.codes, rows), best.loss)
    assert bool((best.loss <= last.loss).all())
    assert bool((best.loss < last.loss).any())
    assert bool((best.loss <= problem.loss(problem.first, rows)).all())


def test_no_steps_leave_the_first_codes():
    problem = Valleys(5)
    result = optimise(problem, SlotOptions(num_slots=2, max_steps=0), ADAM)
    assert torch.equal(result.codes, problem.first)
    assert result.steps.tolist() == [0] * 5


@pytest.mark.parametrize(
    "changes",
    [
        {"num_slots": 0},
        {"max_steps": -1},
        {"group_size": 0},
    ],
)
def test_bad_options_are_refused(changes):
    with pytest.raises(UsageError, match=str(next(iter(changes))).split("_")[0]):
        SlotOptions(**({"num_slots": 1, "max_steps": 1} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"decay_steps": 0.0},
    ],
)
def test_bad_settings_of_adam_are_refused(changes):
    with pytest.raises(UsageError, match=str(next(iter(changes)))):
        Adam(**({"learning_rate": 0.1} | changes))


@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 2, 3)])
def test_codes_of_any_number_of_dimensions_move_alike(shape):
    options = SlotOptions(num_slots=3, max_steps=25, keep_best=True)
    expected = optimise(Valleys(7), options, ADAM)
    found = optimise(Valleys(7, shape=shape), options, ADAM)
    assert found.codes.shape == (7, *shape)
    # elementwise all the same; sums over a code are taken in the same order
    assert torch.equal(found.codes.flatten(1), expected.codes.flatten(1))
    assert torch.equal(found.steps, expected.steps)


def test_a_gradient_after_the_last_step_is_not_asked_for_whatever_the_company():
    """Image 2 ends while image 3 still moves, so that a gradient, infinite at image 2, is computed."""
    problem = Valleys(4, poisoned={2: ("gradient", 5, 9)})
    problem.enough = torch.tensor([100.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # the first is done at once
    result = optimise(problem, SlotOptions(num_slots=2, max_steps=5), ADAM)
    mixed = [steps for rows, steps in problem.diary if 2 in rows and len(set(steps)) > 1]
    assert any(5 in steps for steps in mixed)
    assert problem.starts[2] == 1
    assert result.status.tolist() == [Status.OK] + [Status.NOT_CONVERGED] * 3


def test_the_bytes_of_a_slot_count_the_state_of_its_rule():
    codes = 2 * 12
    assert slot_bytes(2, (3, 4)) == slot_bytes(2, (3, 4), ADAM) == 4 * 8 * codes
    memory = LBFGS(precondition=lambda gradients: gradients, memory=10)
    # beside codes and gradients: a place with two vectors, three for each remembered step, three numbers
    assert slot_bytes(1, (3, 4), memory) == 4 * ((6 + 3 + 30) * 12 + 3)
