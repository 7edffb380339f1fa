"""Newton steps onto the boundary and along it: closed forms, autograd, and the same bits in any company."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from viewgen.networks.batched import project, render
from viewgen.networks.files import Models
from viewgen.optimise.slots import Aim, Evaluation, SlotOptions, optimise
from viewgen.status import Status
from viewgen.views.draws import ImageDraws
from viewgen.views.wsearch.boundary_steps import (
    FIRST_SIDEWAYS,
    GROWTH,
    LEAST_SIDEWAYS,
    MOST_OUTWARDS,
    SHRINKAGE,
    BoundarySteps,
    boundary_aims,
)
from viewgen.views.wsearch.loss import feasible_spread
from viewgen.views.wsearch.problem import WSearchProblem, search_views
from viewgen.views.wsearch.settings import WSearchConfig

RULE = BoundarySteps(tolerance=0.03)
SIZE = 32  # elements of the codes below
SOLVER = WSearchConfig(solver="boundary", start="boundary", max_steps=12, spread_share=0.9, patience=4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def linear_aims(w: Tensor, slopes: Tensor, changes: Tensor) -> tuple[Aim, Aim]:
    """Aims whose values are linear in the codes; slopes `(2, A, n, L, D)`, changes `(2, A, n)`."""
    values = (slopes * w).flatten(3).sum(dim=3)
    return Aim(values[0], changes[0]), Aim(values[1], changes[1])


def moved(
    slopes: Tensor,
    changes: Tensor,
    state: dict[str, Tensor] | None = None,
    rule: BoundarySteps = RULE,
) -> tuple[Tensor, Tensor]:
    """Return first codes, and those after one update."""
    w = normal(*slopes.shape[1:], seed=9).requires_grad_()
    nothing = torch.zeros(len(w), dtype=torch.float64)
    evaluation = Evaluation(nothing, nothing.bool(), linear_aims(w, slopes, changes))
    derivatives = rule.differentiate(evaluation, w)
    w = w.detach()
    fresh = rule.fresh(w, torch.arange(len(w))) if state is None else state
    return w, rule.move(w, torch.zeros(len(w)), derivatives, fresh)


def test_on_linear_aims_one_step_is_the_shortest_that_meets_both():
    slopes = normal(2, 3, 4, 2, SIZE // 2, seed=1)
    slopes[1] += 0.8 * slopes[0]  # far from orthogonal
    changes = 0.01 * normal(2, 3, 4, seed=2)
    changes[1] = changes[1].abs() + 0.02
    w, after = moved(slopes, changes)
    for image in range(3):
        for view in range(4):
            rows = slopes[:, image, view].flatten(1)
            shortest = torch.linalg.lstsq(rows, changes[:, image, view]).solution
            # 1e-6: the rule keeps a divisor away from zero
            torch.testing.assert_close((after - w)[image, view].flatten(), shortest, rtol=1e-6, atol=1e-9)


def test_lengths_are_in_units_of_the_codes_deviation():
    """Codes of 40 times the deviation, and a decoder that divides by it, move 40 times as far."""
    slopes = normal(2, 2, 3, 1, SIZE, seed=3)
    # beyond both limits, outwards and sideways
    changes = torch.stack([torch.full((2, 3), 9.0), torch.full((2, 3), 50.0)]).double()
    w, after = moved(slopes, changes)
    wide = BoundarySteps(tolerance=0.03, unit=40.0)
    far, far_after = moved(slopes / 40, changes, rule=wide)
    torch.testing.assert_close(far_after - far, 40 * (after - w))


def test_a_code_of_one_dimension_moves_as_one_of_two():
    slopes, changes = normal(2, 2, 3, 1, SIZE, seed=3), 0.02 * normal(2, 2, 3, seed=4).abs()
    w, after = moved(slopes, changes)
    flat, flat_after = moved(slopes[:, :, :, 0], changes)
    assert torch.equal(flat_after - flat, (after - w)[:, :, 0])


def test_the_distance_is_met_whatever_the_limit_cuts_off_sideways():
    slopes = normal(2, 2, 3, 1, SIZE, seed=3)
    changes = torch.stack([torch.full((2, 3), 0.02), torch.full((2, 3), 50.0)]).double()
    w, after = moved(slopes, changes)
    change = (slopes * (after - w)).flatten(3).sum(dim=3)
    torch.testing.assert_close(change[0], changes[0], rtol=1e-9, atol=0)
    along = (after - w) - (0.02 / slopes[0].flatten(2).square().sum(2))[..., None, None] * slopes[0]
    expected = torch.full((2, 3), FIRST_SIDEWAYS * math.sqrt(SIZE)).double()
    torch.testing.assert_close(along.flatten(2).norm(dim=2), expected)
    assert bool((change[1] > 0).all())


def test_a_step_outwards_is_limited_where_the_distance_hardly_grows():
    slopes = torch.zeros(2, 1, 1, 1, SIZE, dtype=torch.float64)
    slopes[0, ..., 0] = 1e-4
    for missing in (0.3, -0.3):
        w, after = moved(slopes, torch.tensor([missing, 0.0]).double().view(2, 1, 1))
        length = math.copysign(MOST_OUTWARDS * math.sqrt(SIZE), missing)
        assert (after - w)[0, 0, 0].tolist() == pytest.approx([length] + [0.0] * (SIZE - 1))


def test_a_view_that_wants_nothing_rests_even_without_gradients():
    slopes = normal(2, 2, 2, 1, SIZE)
    slopes[:, 0] = 0
    changes = torch.zeros(2, 2, 2, dtype=torch.float64)
    w, after = moved(slopes, changes)
    assert torch.equal(after, w)


def test_limits_halve_off_the_boundary_and_grow_only_if_they_held_a_view_back():
    slopes = normal(2, 1, 4, 1, SIZE)
    limit = FIRST_SIDEWAYS * math.sqrt(SIZE)
    changes = torch.zeros(2, 1, 4, dtype=torch.float64)
    changes[0, 0, :2] = torch.tensor([0.031, -0.2])
    last = torch.tensor([[limit, limit / 4, limit, limit / 2]]).double()
    state = {"limit": torch.full_like(last, limit), "last": last}
    moved(slopes, changes, state)
    least = LEAST_SIDEWAYS * math.sqrt(SIZE)
    expected = [SHRINKAGE * limit, max(SHRINKAGE * limit / 4, least), GROWTH * limit, limit]
    assert state["limit"][0].tolist() == pytest.approx(expected)


def test_aims_are_the_tangential_gradient_of_the_mean_square_distance():
    num_views = 5
    w = normal(3, num_views, 1, 6, seed=4).requires_grad_()
    matrix, anchors = normal(6, 7, seed=5), normal(3, 7, seed=6)
    z = (w[:, :, 0] @ matrix).sin()
    distance = (z - anchors[:, None]).norm(dim=2)
    missing = 0.3 - distance.detach()
    apart = torch.tensor([True, True, False])
    aims = boundary_aims(z, anchors, distance, missing=missing, apart=apart)
    assert torch.equal(aims[0].change, missing)
    evaluation = Evaluation(torch.zeros(3), torch.zeros(3).bool(), aims)
    found = RULE.differentiate(evaluation, w)
    for image in range(3):
        for view in range(num_views):
            own = w[image, view, 0].detach().requires_grad_()
            fixed = (w[image, :, 0].detach() @ matrix).sin()
            projected = (own @ matrix).sin()
            d = (projected - anchors[image]).norm()
            (gradient,) = torch.autograd.grad(d, own, retain_graph=True)
            torch.testing.assert_close(found["outwards"][image, view, 0], gradient)
            # the same by a double loop: ascent of the mean square distance, along the sphere
            here = projected.detach().requires_grad_()
            square = sum((here - fixed[o]).square().sum() for o in range(num_views) if o != view)
            (slope,) = torch.autograd.grad(square / 2 / num_views, here)
            normal_to = (here.detach() - anchors[image]) / d.detach()
            tangent = slope - (slope @ normal_to) * normal_to
            expected = tangent.norm() if apart[image] else torch.zeros(()).double()
            torch.testing.assert_close(aims[1].change[image, view], expected)
            (gradient,) = torch.autograd.grad(projected @ (tangent / tangent.norm()), own)
            torch.testing.assert_close(found["sideways"][image, view, 0], gradient)


@dataclass
class Sphere:
    """Codes are projections: views of every image around a point of space, to be ε apart from it."""

    num_images: int
    num_views: int
    epsilon: float = 0.3
    updates: int = 40
    seed: int = 0
    poisoned: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.anchors = normal(self.num_images, SIZE, seed=self.seed)
        # to one side of the anchor, where the spread is small
        offset = 0.2 * normal(self.num_images, self.num_views, SIZE, seed=self.seed + 1) + 0.2
        self.first = (self.anchors[:, None] + offset)[:, :, None]

    def start(self, rows: Tensor) -> Tensor:
        return self.first[rows]

    def evaluate(self, w: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        z = w[:, :, 0]
        distance = (z - self.anchors[rows][:, None]).norm(dim=2)
        missing = self.epsilon - distance.detach()
        for place, row in enumerate(rows.tolist()):
            if row in self.poisoned and steps[place] == 3:
                missing[place, 0] = torch.nan
        apart = torch.ones(len(rows), dtype=torch.bool)
        aims = boundary_aims(z, self.anchors[rows], distance, missing=missing, apart=apart)
        return Evaluation(distance.detach().sum(dim=1), steps >= self.updates, aims)


@pytest.mark.parametrize("num_views", [1, 2, 3, 8])
def test_views_around_a_point_spread_to_the_simplex_bound(num_views):
    problem = Sphere(6, num_views, updates=120)
    result = optimise(problem, SlotOptions(num_slots=6, max_steps=200), RULE)
    offset = result.codes[:, :, 0] - problem.anchors[:, None]
    assert (offset.norm(dim=2) - 0.3).abs().max() < 1e-3
    if num_views > 1:
        spread = torch.stack([torch.pdist(row).mean() for row in offset])
        # a centroid at the anchor makes 2 or 3 views a simplex, and bounds the mean square of 8
        least = 0.999 if num_views < 4 else 0.98
        assert float(spread.min()) >= least * feasible_spread(0.3, num_views)


def test_newton_is_exact_on_a_sphere():
    problem = Sphere(4, 1, updates=30)
    far = (problem.first[:, 0, 0] - problem.anchors).norm(dim=1) - 0.3
    needed = torch.ceil(far.abs() / (MOST_OUTWARDS * math.sqrt(SIZE)))
    problem.updates = int(needed.max())
    result = optimise(problem, SlotOptions(num_slots=4, max_steps=200), RULE)
    distance = (result.codes[:, 0, 0] - problem.anchors).norm(dim=1)
    torch.testing.assert_close(distance, torch.full((4,), 0.3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_poisoned_image_starts_once_more_then_fails_alone():
    options = SlotOptions(num_slots=4, max_steps=200)
    clean = optimise(Sphere(9, 3, updates=8), options, RULE)
    result = optimise(Sphere(9, 3, updates=8, poisoned=(5,)), options, RULE)
    assert result.status.tolist() == [Status.FAILED if row == 5 else Status.OK for row in range(9)]
    assert torch.equal(result.codes[5], Sphere(9, 3).first[5])
    others = torch.arange(9) != 5
    assert torch.equal(result.codes[others], clean.codes[others])


def make_problem(
    models: Models, batch: dict, rows: list[int], config: WSearchConfig = SOLVER
) -> WSearchProblem:
    anchors = torch.from_numpy(batch["anchor_w_plus"][rows])
    assert models.generator is not None
    assert models.encoder is not None
    return WSearchProblem(
        models.generator,
        models.encoder,
        anchor_features=project(models.encoder, render(models.generator, anchors, 32), 32),
        anchor_codes=anchors,
        draws=ImageDraws(0, torch.from_numpy(batch["source_index"][rows])),
        num_views=4,
        config=config,
        batch_size=32,
    )


@pytest.fixture(scope="module")
def found(small_models, image_batch):
    problem = make_problem(small_models, image_batch, list(range(12)))
    return problem, search_views(problem, 12, 4)


def test_the_search_brings_views_to_the_boundary_and_apart(found):
    problem, result = found
    assert len(set(result.steps.tolist())) > 2, "or the tests below would prove little"
    done = result.status == Status.OK
    assert int(done.sum()) >= 8
    assert (problem.distance[done] - 0.3).abs().max() <= 0.03
    first = make_first_spread(problem)
    assert problem.spread.mean() > first.mean()


def make_first_spread(problem: WSearchProblem) -> Tensor:
    with torch.no_grad():
        w = problem.start(torch.arange(problem.num_images))
        z = problem.encoder(problem.generator.decode(w.flatten(0, 1)).clamp(-1, 1))
    return torch.stack([torch.pdist(row).mean() for row in z.unflatten(0, (len(w), -1))])


@pytest.mark.parametrize("num_slots", [1, 5, 100])
def test_any_number_of_slots_gives_the_same_bits(small_models, image_batch, found, num_slots):
    result = search_views(make_problem(small_models, image_batch, list(range(12))), num_slots, 4)
    for name in ("codes", "steps", "status"):
        assert torch.equal(getattr(result, name), getattr(found[1], name)), name


def test_neighbours_and_order_do_not_change_a_bit(small_models, image_batch, found):
    rows = [7, 2, 11, 0, 5]
    result = search_views(make_problem(small_models, image_batch, rows), 3, 4)
    assert torch.equal(result.codes, found[1].codes[rows])
    assert torch.equal(result.steps, found[1].steps[rows])


def test_without_weight_or_beyond_its_end_there_is_no_push(small_models, image_batch):
    for changes in ({"uniformity_weight": 0.0}, {"epsilon_uniformity": 0.0}):
        config = SOLVER.replace(spread_share=1.0, patience=100, max_steps=3, **changes)
        problem = make_problem(small_models, image_batch, [0, 1, 2], config)
        result = search_views(problem, 3, 3)
        near = ((problem.distance - 0.3).abs() <= 0.03).all(dim=1)
        assert bool(near.any())
        # an image whose views are at ε₁ has nothing left to do
        assert torch.equal(result.status == Status.OK, near)
        assert torch.equal(result.codes[near], problem.start(torch.arange(3))[near])


def test_the_hinge_leaves_views_beyond_the_boundary_where_they_are(small_models, image_batch):
    config = SOLVER.replace(boundary="hinge", start="noise", uniformity_weight=0.0)
    problem = make_problem(small_models, image_batch, [0, 1, 2, 3], config)
    result = search_views(problem, 4, 4)
    assert bool((result.status == Status.OK).all())
    assert problem.distance.min() >= 0.27
