"""What keeps a search from codes and features that only its encoder knows: radius, encoders, crops, steps."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from viewgen.errors import UsageError
from viewgen.networks.files import load_models
from viewgen.networks.weights import find_models
from viewgen.optimise.slots import SlotResult
from viewgen.status import Status
from viewgen.views import VIEWS
from viewgen.views.distances import Metric
from viewgen.views.draws import ImageDraws
from viewgen.views.wsearch.features import Crops, SideBySide, search_metric
from viewgen.views.wsearch.loss import balanced_distance
from viewgen.views.wsearch.problem import WSearchProblem, search_views
from viewgen.views.wsearch.settings import PSI, WSearchConfig

NUM_IMAGES, NUM_VIEWS = 5, 6
SOLVERS = pytest.mark.parametrize("solver", ["newton", "adam"])


class Shown:
    """A generator that shows its codes as pixels, far from the limits of a pixel."""

    code_shape, image_size = (3, 20), 8
    code_scale = torch.full((3, 20), 2.0)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.flatten(1) / 1000


class Points(nn.Module):
    """A linear encoder of the codes, with few strong directions."""

    def __init__(self, seed: int = 3, width: int = 20) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        left = torch.linalg.qr(torch.randn(width, width, generator=random))[0]
        right = torch.linalg.qr(torch.randn(60, width, generator=random))[0]
        strength = torch.cat([torch.tensor([1.0, 0.6, 0.4]), torch.full((width - 3,), 1e-3)])
        self.matrix = (left * strength) @ right.T / 20

    def forward(self, pixels: Tensor) -> Tensor:
        return 1000 * pixels @ self.matrix.T


def linear_search(
    config: WSearchConfig, encoder: nn.Module | None = None, metric: Metric | None = None
) -> tuple[WSearchProblem, SlotResult, Tensor]:
    """Search codes of the linear stand-in; return the lengths of their changes in units of `code_scale`."""
    generator, encoder = Shown(), encoder or Points()
    anchors = torch.randn(NUM_IMAGES, 3, 20, generator=torch.Generator().manual_seed(0))
    problem = WSearchProblem(
        generator,
        encoder,
        anchor_features=encoder(generator.decode(anchors)),
        anchor_codes=anchors,
        draws=ImageDraws(0, torch.arange(NUM_IMAGES)),
        num_views=NUM_VIEWS,
        config=config,
        batch_size=8,
        **({} if metric is None else {"metric": metric}),
    )
    result = search_views(problem, 8, 4)
    changes = (result.codes - anchors[:, None]) / generator.code_scale
    return problem, result, changes.flatten(2).square().mean(dim=2).sqrt()


def settings_of(solver: str, **more: Any) -> WSearchConfig:
    adam = {"learning_rate": 0.1, "decay_steps": 1000.0} if solver == "adam" else {}
    return WSearchConfig(**{"solver": solver, "max_steps": 60, **adam, **more})


@SOLVERS
def test_no_code_leaves_the_radius_and_views_that_it_holds_go_elsewhere(solver):
    free, _, lengths = linear_search(settings_of(solver))
    # ε₁ is nearer along the strongest direction than this, and farther along the others
    limit = 0.45
    assert float(lengths.max()) > 1.3 * limit
    problem, result, lengths = linear_search(settings_of(solver, radius=limit / PSI))
    assert float(lengths.max()) <= limit * (1 + 1e-5)
    assert float(lengths.max()) > 0.9 * limit
    near = (problem.distance - 0.3).abs() <= 0.04
    assert float(near.float().mean()) >= (0.9 if solver == "newton" else 0.5)
    # there is less room in the ball
    assert float(problem.spread.mean()) < float(free.spread.mean())
    assert set(result.status.tolist()) <= {int(Status.OK), int(Status.NOT_CONVERGED)}


@SOLVERS
def test_a_radius_that_nothing_reaches_changes_no_bit(solver):
    _, free, _ = linear_search(settings_of(solver, max_steps=12))
    _, wide, _ = linear_search(settings_of(solver, max_steps=12, radius=50.0))
    assert torch.equal(free.codes, wide.codes)


def test_views_that_the_radius_holds_for_good_do_not_converge():
    _, result, lengths = linear_search(settings_of("newton", radius=0.1))
    assert (result.status == Status.NOT_CONVERGED).all()
    assert float(lengths.max()) <= 0.1 * PSI * (1 + 1e-5)


@SOLVERS
def test_every_code_takes_the_least_step(solver):
    _, _, without = linear_search(settings_of(solver))
    least = 1.2 * float(without.mean())
    problem, _, lengths = linear_search(settings_of(solver, least_step=least / PSI))
    assert float(lengths.min()) >= least * (1 - 1e-5)
    assert float(without.min()) < 0.9 * least
    if solver == "newton":
        assert float(((problem.distance - 0.3).abs() <= 0.04).float().mean()) >= 0.9


# --- several encoders --------------------------------------------------------------------------------------

WIDTHS = (5, 8)


def both() -> SideBySide:
    return SideBySide([Points(1, WIDTHS[0]), Points(2, WIDTHS[1])])


@pytest.mark.parametrize(("combine", "combined"), [("mean", lambda d: sum(d) / len(d)), ("max", max)])
def test_the_metric_equals_loops_over_encoders_views_and_pairs(combine, combined):
    metric = Metric(WIDTHS, combine)
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 4, width, generator=random, dtype=torch.float64) for width in WIDTHS]
    z = torch.cat(parts, dim=2) / 2**0.5
    lengths, pairwise = metric.norm(z), metric.mean_pairwise(z)
    for image, view in itertools.product(range(2), range(4)):
        expected = combined([float(part[image, view].norm()) for part in parts])
        assert float(lengths[image, view]) == pytest.approx(expected, rel=1e-12)
        others = [
            combined([math.dist(part[image, view].tolist(), part[image, other].tolist()) for part in parts])
            for other in range(4)
            if other != view
        ]
        assert float(pairwise[image, view]) == pytest.approx(sum(others) / 3, rel=1e-12)
    # central differences of doubles
    z.requires_grad_()
    assert torch.autograd.gradcheck(metric.norm, z)
    assert torch.autograd.gradcheck(metric.mean_pairwise, z)
    reached = metric.reaching(z)
    torch.testing.assert_close(metric.norm(reached), z.norm(dim=2))
    rays = [torch.nn.functional.normalize(offsets, dim=2) for offsets in (reached, z)]
    torch.testing.assert_close(*rays)


@SOLVERS
@pytest.mark.parametrize("combine", ["mean", "max"])
def test_views_reach_the_distance_of_several_encoders(solver, combine):
    encoder, metric = both(), Metric(WIDTHS, combine)
    config = settings_of(solver, combine=combine)
    problem, result, _ = linear_search(config, encoder, metric)
    anchors = problem.anchor_codes
    decoded = [problem.generator.decode(codes) for codes in (anchors, result.codes.flatten(0, 1))]
    each = torch.stack([
        (one(decoded[1]).unflatten(0, (NUM_IMAGES, -1)) - one(decoded[0])[:, None]).norm(dim=2)
        for one in encoder.encoders
    ])  # fmt: skip
    found = each.mean(dim=0) if combine == "mean" else each.amax(dim=0)
    torch.testing.assert_close(found, problem.distance, atol=1e-5, rtol=0)
    farthest = balanced_distance(config, NUM_VIEWS) + 0.03
    near = (found >= 0.27) & (found <= farthest)
    assert float(near.float().mean()) >= (0.95 if solver == "newton" else 0.8)
    # no view is there for one encoder alone, as views of a search with the first encoder are
    alone, views, _ = linear_search(settings_of(solver), encoder.encoders[0], Metric())
    moved = alone.generator.decode(views.codes.flatten(0, 1))
    second = encoder.encoders[1]
    unseen = (second(moved).unflatten(0, (NUM_IMAGES, -1)) - second(decoded[0])[:, None]).norm(dim=2)
    assert float(each[1].mean()) > 2 * float(unseen.mean())


# --- averaged features, with the networks that ship --------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Any:
    """g, f, and codes of digits."""
    from viewgen.datasets import load_dataset
    from viewgen.images import to_model

    models = load_models(find_models("digits", {"generator", "inverter", "encoder"}), "cpu")
    images = to_model(torch.from_numpy(load_dataset("digits", "test").images(torch.arange(2).numpy())))
    with torch.no_grad():
        codes = models.inverting().start(images, None)
    return models.generator, models.encoder, codes


def test_crops_of_the_whole_image_are_the_encoder_and_smaller_ones_its_mean(digits):
    generator, encoder, codes = digits
    with torch.no_grad():
        images = generator.decode(codes).clamp(-1, 1)
        whole = Crops(encoder, 3, 1.0)(images)
        crops = Crops(encoder, 4, 0.5)
        averaged, more = crops(images), crops(images[:1])
    # resampling at the pixels' own centres
    torch.testing.assert_close(whole, encoder(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(averaged.norm(dim=1), torch.ones(2))
    assert float((averaged - whole).norm(dim=1).min()) > 0.02
    # the same crops of every image, whatever lies beside it
    torch.testing.assert_close(averaged[:1], more, atol=1e-5, rtol=0)


@SOLVERS
def test_views_reach_the_distance_of_averaged_features(digits, solver):
    generator, encoder, codes = digits
    features = Crops(encoder, 2, 0.5)
    config = settings_of(solver, crops=2, max_steps=6, learning_rate=0.002)
    with torch.no_grad():
        anchors = features(generator.decode(codes).clamp(-1, 1))
    problem = WSearchProblem(
        generator,
        features,
        anchor_features=anchors,
        anchor_codes=codes,
        draws=ImageDraws(0, torch.arange(2)),
        num_views=4,
        config=config,
        batch_size=8,
        metric=search_metric([encoder], config),
    )
    first = problem.evaluate(
        problem.start(torch.arange(2)), torch.arange(2), torch.zeros(2, dtype=torch.long)
    )
    result = search_views(problem, 2, 2)
    assert bool((result.loss < (0.2 if solver == "newton" else 0.9) * first.loss).all())
    with torch.no_grad():
        z = features(generator.decode(result.codes.flatten(0, 1)).clamp(-1, 1)).unflatten(0, (2, -1))
    if solver == "newton":
        distance = (z - anchors[:, None]).norm(dim=2)
        assert float(((distance - 0.3).abs() <= 0.05).float().mean()) >= 0.75


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"radius": 0.1, "solver": "boundary"}, "stay as they were"),
        ({"least_step": 0.1, "solver": "boundary"}, "stay as they were"),
        ({"encoders": "a,b", "solver": "boundary"}, "stay as they were"),
        ({"crops": 2, "solver": "boundary"}, "stay as they were"),
        ({"radius": 0.1, "start": "boundary"}, "as far as ε₁ takes"),
        ({"combine": "max"}, "one encoder"),
        ({"crop_area": 0.3}, "crops is 0"),
        ({"radius": 0.1, "least_step": 0.1}, "expected less"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(given, reason):
    with pytest.raises(UsageError, match=reason):
        VIEWS.resolve("wsearch", "digits", given)


def test_only_settings_that_differ_from_none_change_the_identity():
    default = WSearchConfig().record()
    assert not {"radius", "least_step", "encoders", "combine", "crops", "crop_area"} & default.keys()
    found = WSearchConfig(radius=0.1, encoders="a, b", crops=2)
    assert found.encoders == ("a", "b")
    assert found.record() == {**default, "radius": 0.1, "encoders": ["a", "b"], "crops": 2}
    assert WSearchConfig.from_record(found.record()) == found
