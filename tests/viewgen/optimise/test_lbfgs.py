"""L-BFGS in slots: its direction by the dense formula, its minimum, steps that are taken back."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.optimise.lbfgs import LBFGS
from viewgen.optimise.slots import Evaluation, SlotOptions, Tensors, optimise
from viewgen.status import Status


def plain(gradients: Tensor) -> Tensor:
    return gradients


def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradients: gradients @ matrix


class Bowls:
    """A quadratic of its own for every image, in float64, from its own start."""

    device = torch.device("cpu")

    def __init__(self, num_images: int, size: int = 6, cubic: float = 0.0, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        roots = torch.randn(num_images, size, size, generator=random, dtype=torch.float64)
        self.curvatures = roots @ roots.transpose(1, 2) + 0.1 * torch.eye(size, dtype=torch.float64)
        self.minima = torch.randn(num_images, size, generator=random, dtype=torch.float64)
        self.num_images, self.size, self.cubic = num_images, size, cubic
        self.losses: dict[int, list[float]] = {}

    def start(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), 1, self.size, dtype=torch.float64)

    def evaluate(self, codes: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        gap = codes[:, 0] - self.minima[rows]
        loss = 0.5 * torch.einsum("ai,aij,aj->a", gap, self.curvatures[rows], gap)
        loss = loss + self.cubic * gap.abs().pow(3).sum(dim=1)
        for row, value in zip(rows.tolist(), loss.tolist(), strict=True):
            self.losses.setdefault(row, []).append(value)
        return Evaluation(loss, loss.detach() < 1e-12)


def dense_inverse(steps: Tensor, changes: Tensor, first: Tensor) -> Tensor:
    """H after the updates of BFGS, oldest first, from `first` (Nocedal and Wright, 2006, eq. 6.17)."""
    inverse = first
    for s, y in zip(steps, changes, strict=True):
        rho = 1 / (s @ y)
        left = torch.eye(len(s), dtype=torch.float64) - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    return inverse


def memory_of(problem: Bowls, row: int, count: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(row)
    steps = torch.randn(count, problem.size, generator=random, dtype=torch.float64)
    return steps, steps @ problem.curvatures[row]


def test_the_direction_is_that_of_the_dense_update():
    random = torch.Generator().manual_seed(5)
    root = torch.randn(6, 6, generator=random, dtype=torch.float64)
    guess = root @ root.T + torch.eye(6, dtype=torch.float64)
    problem, rule = Bowls(3), LBFGS(precondition=times(guess), memory=4)
    state = rule.fresh(problem.start(torch.arange(3)), torch.arange(3))
    state["place_gradient"] = torch.randn(3, 6, generator=random, dtype=torch.float64)
    state["place_preconditioned"] = state["place_gradient"] @ guess
    state["scale"] = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    counts = (4, 2, 0)  # an empty place of the memory is zero
    for row, count in enumerate(counts):
        steps, changes = memory_of(problem, row, count)
        for name, values in (("steps", steps), ("changes", changes), ("preconditioned", changes @ guess)):
            state[name][row, 4 - count :] = values
    found = rule._newton_direction(state)
    for row, count in enumerate(counts):
        inverse = dense_inverse(*memory_of(problem, row, count), state["scale"][row] * guess)
        torch.testing.assert_close(found[row], inverse @ state["place_gradient"][row])


@pytest.mark.parametrize("cubic", [0.0, 0.5])
def test_it_finds_the_minimum_and_keeps_to_no_more_than_it_met(cubic):
    problem = Bowls(7, cubic=cubic)
    rule = LBFGS(precondition=plain, memory=10)
    result = optimise(problem, SlotOptions(num_slots=3, max_steps=200, keep_best=True), rule)
    assert result.status.tolist() == [Status.OK] * 7
    torch.testing.assert_close(result.codes[:, 0], problem.minima, atol=1e-4, rtol=0)
    assert int(result.steps.max()) < 60
    for row in range(7):
        assert result.loss[row].item() == min(problem.losses[row])


def test_the_right_guess_makes_ill_conditioned_bowls_easy():
    """With the inverse Hessian itself the first full step arrives: after 0.1, 0.2 and 0.4 of the way."""
    problem = Bowls(1, size=6)
    scales = torch.tensor([1.0, 1e2, 1e-2, 1e4, 10.0, 1e-4], dtype=torch.float64)
    problem.curvatures = torch.diag(scales)[None]
    steps = {}
    for name, guess in {"plain": plain, "right": times(torch.diag(1 / scales))}.items():
        options = SlotOptions(num_slots=1, max_steps=300)
        steps[name] = int(optimise(problem, options, LBFGS(precondition=guess, memory=3)).steps)
    assert steps["right"] == 4
    assert steps["plain"] > 10


def moved(rule: LBFGS, codes: Tensor, step: int, gradient: Tensor, loss: float, state: Tensors) -> Tensor:
    derivatives = {
        "gradient": gradient[None],
        "preconditioned": gradient[None],
        "loss": torch.tensor([[loss]], dtype=torch.float64),
    }
    return rule.move(codes, torch.tensor([step]), derivatives, state)


def test_a_step_that_raises_the_loss_is_taken_back_and_the_next_is_shorter():
    rule = LBFGS(precondition=plain, memory=3, first_step=1.0)
    first = torch.ones(1, 1, 6, dtype=torch.float64)
    state = rule.fresh(first, torch.tensor([0]))
    gradient = torch.full((6,), 2.0, dtype=torch.float64)
    second = moved(rule, first, 0, gradient, 5.0, state)
    torch.testing.assert_close(second, first - 2)
    third = moved(rule, second, 1, -gradient, 7.0, state)
    assert state["place_loss"].item() == 5.0
    torch.testing.assert_close(state["place"], first.flatten(1))
    # the secant says that the minimum lies halfway, and a third of the step is allowed
    torch.testing.assert_close(third, first - 0.35 * 2)
    fourth = moved(rule, third, 2, 0.5 * gradient, 1.0, state)
    torch.testing.assert_close(state["place"], third.flatten(1))
    assert bool((fourth < third).all())


def test_a_pair_without_convexity_is_not_remembered():
    rule = LBFGS(precondition=plain, memory=2)
    first = torch.zeros(1, 1, 6, dtype=torch.float64)
    state = rule.fresh(first, torch.tensor([0]))
    gradient = torch.arange(1.0, 7.0, dtype=torch.float64)
    second = moved(rule, first, 0, gradient, 5.0, state)
    third = moved(rule, second, 1, 1.5 * gradient, 4.0, state)  # steeper on the way down
    assert not state["steps"].any()
    assert state["scale"].item() == 1.0
    # downhill along the gradient, twice as far
    torch.testing.assert_close(third - second, 2 * (second - first))
    # nor does it push out one that is
    state["steps"][0, 1] = 3.0
    state["changes"][0, 1] = 2.0
    moved(rule, third, 2, 2.5 * gradient, 3.0, state)
    assert state["steps"][0, 1].tolist() == [3.0] * 6


def test_an_image_moves_alike_in_any_company():
    def codes(rows: list[int], num_slots: int) -> Tensor:
        problem = Bowls(5, cubic=0.3)
        problem.curvatures, problem.minima = problem.curvatures[rows], problem.minima[rows]
        problem.num_images = len(rows)
        rule = LBFGS(precondition=plain, memory=4)
        return optimise(problem, SlotOptions(num_slots=num_slots, max_steps=9, group_size=2), rule).codes

    every = codes([0, 1, 2, 3, 4], 5)
    assert torch.equal(codes([3, 1], 1), every[[3, 1]])
    assert torch.equal(codes([4, 0, 2], 2), every[[4, 0, 2]])


def test_nothing_is_differentiated_after_the_last_step():
    asked: list[int] = []

    def precondition(gradients: Tensor) -> Tensor:
        asked.append(len(gradients))
        return gradients

    problem = Bowls(4)
    optimise(problem, SlotOptions(num_slots=4, max_steps=3), LBFGS(precondition=precondition, memory=3))
    assert asked == [4, 4, 4]
    assert len(problem.losses[0]) == 4


def test_a_change_that_only_rounding_made_is_not_remembered():
    """The preconditioned change then has any sign, and its product with the change may be negative."""
    rule = LBFGS(precondition=plain, memory=2)
    first = torch.zeros(1, 1, 6, dtype=torch.float64)
    state = rule.fresh(first, torch.tensor([0]))
    gradient = torch.arange(1.0, 7.0, dtype=torch.float64)
    second = moved(rule, first, 0, gradient, 5.0, state)
    derivatives = {
        "gradient": gradient[None] * (1 - 1e-12),
        "preconditioned": gradient[None] * (1 + 1e-12),
        "loss": torch.tensor([[4.0]], dtype=torch.float64),
    }
    third = rule.move(second, torch.tensor([1]), derivatives, state)
    assert not state["steps"].any()
    assert bool(torch.isfinite(third).all())


@pytest.mark.parametrize(
    ("changes", "message"), [({"memory": 0}, "memory is 0"), ({"first_step": 0.0}, "first_step is 0.0")]
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        LBFGS(**{"precondition": plain, "memory": 3, **changes})
