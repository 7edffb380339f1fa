"""Bounds against closed forms and double loops, and what is refused; theorems: test_finite_worlds.py."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constructed_caches import IMAGES, LABELS, copies, dataset_of, subject_of

from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.bounds.centres import class_centres, divergence
from viewgen.diagnostics.bounds.correlation import cross_correlation, standardised
from viewgen.diagnostics.bounds.embedding import Embedded
from viewgen.diagnostics.bounds.infonce import infonce_parts, sharper_product_bound, theorem3
from viewgen.diagnostics.bounds.plot import SUMMANDS, _is_no_bound, draw_compared_terms
from viewgen.diagnostics.bounds.theorem import rho_allowed, rho_terms, theorem2, threshold
from viewgen.diagnostics.bounds.tightness import lipschitz
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.nearest_centre import nearest_centre
from viewgen.errors import DataError, ModelError, UsageError
from viewgen.images import to_model
from viewgen.views.expert import ExpertConfig

ROUNDING = 1e-9


def test_the_summands_of_rho():
    sigma, delta, epsilon, rest = (np.array(one) for one in (0.9, 0.4, 0.05, 0.01))
    found = rho_terms(sigma, delta, epsilon, rest, smallest_share=0.1, lipschitz=3.0, radius=2.0)
    assert found.concentration == pytest.approx(0.2)
    assert found.loose == pytest.approx(0.1)
    assert found.distance == pytest.approx(0.9 * 3 * 0.4 / 2)
    assert found.tightness == pytest.approx(0.9 * 2 * 0.05 / 2)
    assert found.total == pytest.approx(0.2 + 0.1 + 0.54 + 0.045)
    assert threshold(np.array(0.08), 0.1) == pytest.approx(1 - 0.08 - 0.4 - 0.05)


def test_the_perfect_case_has_no_error():
    """Any two images of a class share a view, and all views of an image fall on one point."""
    one, zero = np.ones(1), np.zeros(1)
    for largest, holds in ((0.999, True), (1.0, False)):
        found = theorem2(
            zero, one, zero, zero, largest=largest, delta_mu=0, smallest_share=0.1, lipschitz=5.0
        )
        assert found.rho_max == found.bound == 0
        assert found.threshold == 1
        assert found.holds == holds


def test_where_the_condition_fails_the_summands_tell_what_is_in_the_way():
    """At δ 0 nothing is concentrated; of the others the nearest main part that would do is reported."""
    delta, sigma = np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.9, 1.0])
    epsilon, rest = np.array([0.01, 0.5]), np.array([0.0, 0.0])
    common = {"delta_mu": 0.0, "smallest_share": 0.5, "lipschitz": 3.0}
    found = theorem2(delta, sigma, epsilon, rest, largest=0.0, **common)
    assert not found.holds
    assert (found.delta, found.epsilon) == (1.0, 0.01)
    assert max(found.terms, key=found.terms.get) == "distance"
    # nothing is allowed to parallel centres, and the whole class is reported
    assert theorem2(delta, sigma, epsilon, rest, largest=1.0, **common).sigma == 1


def test_the_rho_that_a_condition_allows():
    assert rho_allowed(0, 0) == pytest.approx(2 - math.sqrt(3))
    assert rho_allowed(-1 / 9, 0) == pytest.approx(0.316, abs=5e-4)
    assert rho_allowed(1, 0) == rho_allowed(0.5, 1.5) == 0
    for largest, delta_mu in ((0.3, 0.2), (-0.5, 0.0)):
        limit = threshold(np.array(rho_allowed(largest, delta_mu)), delta_mu)
        assert float(limit) == pytest.approx(largest)


# centres, tightness


def random_sample(seed: int, *, num_classes: int, num_images: int, num_views: int, dim: int) -> Embedded:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(num_images, num_views, dim, generator=random, dtype=torch.float64)
    labels = torch.arange(num_images) % num_classes
    centre = torch.randn(num_classes, dim, generator=random, dtype=torch.float64)
    spread = 10 ** float(torch.rand(1, generator=random) * 3 - 2)
    shares = torch.rand(num_classes, generator=random, dtype=torch.float64) + 0.2
    image = torch.randn(num_images, 1, dim, generator=random, dtype=torch.float64)
    z = centre[labels][:, None] + spread * image + spread * z
    return Embedded(z=z, labels=labels, shares=shares / shares.sum())


def test_centres_do_not_depend_on_blocks_and_the_classifier_is_linear():
    sample = random_sample(0, num_classes=3, num_images=11, num_views=4, dim=5)
    direct = torch.stack([sample.z[sample.labels == k].mean(dim=(0, 1)) for k in range(3)])
    for size in (1, 4, 100):
        torch.testing.assert_close(class_centres(sample, size), direct)
    probes = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nearest_centre(probes, direct), torch.cdist(probes, direct).argmin(dim=1))
    assert sample.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_divergence_of_a_simplex(num_classes):
    corners = F.normalize(torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes, dim=1)
    found = divergence(3 * corners, 3.0)
    assert found.largest == pytest.approx(-1 / (num_classes - 1))
    assert found.mean == pytest.approx(-1 / (num_classes - 1))
    assert found.delta_mu == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("views_at_once", "grey"), [(3, False), (1000, False), (1000, True)])
def test_the_lipschitz_constant_is_the_largest_ratio_of_all_pairs(views_at_once, grey):
    views = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 2, 2), np.uint8)
    if grey:
        views = np.repeat(views[:, :, :1], 3, axis=2)
    views[1, 1] = views[0, 0]  # equal pixels have no ratio
    z = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(0))
    x, f = views.reshape(8, -1) / 255, z.reshape(8, -1).double().numpy()
    ratios = [
        np.linalg.norm(f[i] - f[j]) / np.linalg.norm(x[i] - x[j])
        for i in range(8)
        for j in range(i)
        if (x[i] != x[j]).any()
    ]
    assert lipschitz(views, z, views_at_once) == pytest.approx(max(ratios))


# cross-correlation


def test_lemma_2_and_theorem_4_hold_and_the_sharper_form_is_never_above_the_printed_one():
    ratios = []
    for seed in range(1000):
        num_classes, dim = 2 + seed % 3, 1 + seed % 7
        raw = random_sample(seed, num_classes=num_classes, num_images=14, num_views=3, dim=dim)
        found = cross_correlation(standardised(raw, center=seed % 2 == 0))
        assert found.alignment <= found.lemma2 + ROUNDING
        assert found.largest <= found.sharper + 1e-6
        assert found.sharper <= found.theorem4 / math.sqrt(2) + ROUNDING
        ratios.append(found.largest / found.sharper)
    # some come near, so that a bound that is too small would fail
    assert max(ratios) > 0.5


def test_lemma_2_is_an_equality_where_all_dimensions_agree():
    """Opposite views in a tenth of the images."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    z = corners.repeat(5, 1)[:, None].repeat(1, 2, 1)
    z[:4, 1] *= -1
    labels = torch.arange(20) % 2
    shares = torch.full((2,), 0.5, dtype=torch.float64)
    sample = Embedded(z=z, labels=labels, shares=shares)
    found = cross_correlation(standardised(sample, center=False))
    assert found.alignment == pytest.approx(found.lemma2)
    assert found.alignment > 0


def test_the_perfect_case_loses_no_factor():
    """One point per class: C is Σ p μ μᵀ, so the sharper bound is √((L₂ − (d − K)) / 2pp)."""
    random = torch.Generator().manual_seed(0)
    points = torch.randn(3, 3, dtype=torch.float64, generator=random)
    labels = torch.arange(12) % 3
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    raw = Embedded(z=points[labels][:, None].repeat(1, 2, 1), labels=labels, shares=shares)
    found = cross_correlation(standardised(raw, center=False))
    assert found.class_error == pytest.approx(0, abs=1e-20)
    assert found.alignment == pytest.approx(0, abs=1e-20)
    expected = math.sqrt((found.identity - 0) / (2 * found.pair_share))
    assert found.sharper == pytest.approx(expected, rel=1e-6)
    assert found.largest <= found.sharper


def test_standardised_outputs_have_unit_moments_whatever_their_scale_and_collapse_is_told():
    raw = random_sample(3, num_classes=2, num_images=10, num_views=3, dim=4)
    found = standardised(raw, center=True)
    moved = raw.with_outputs(raw.z * torch.tensor([2.0, -1.0, 5.0, 0.1]) + 3)
    flipped = torch.tensor([1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(standardised(moved, center=True).z * flipped, found.z)
    moment = (raw.weights[:, None] * found.z.square().mean(dim=1)).sum(dim=0)
    torch.testing.assert_close(moment, torch.ones(4, dtype=torch.float64))
    raw.z[..., 2] = 0.7
    with pytest.raises(DataError, match=r"1 of 4 output dimensions are constant \(dimension 2"):
        standardised(raw, center=True)


# InfoNCE


def test_the_parts_of_infonce_are_a_double_loop_and_add_up_to_it():
    random = torch.Generator().manual_seed(0)
    first, second, negative = F.normalize(torch.randn(3, 7, 4, generator=random).double(), dim=2)
    weights = torch.rand(7, generator=random, dtype=torch.float64)
    weights /= weights.sum()
    for temperature in (1.0, 0.3):
        aligned, uniform = infonce_parts(first, second, negative, weights, temperature)
        direct = 0.0
        for i in range(7):
            for j in range(7):
                positive = float(first[i] @ second[i]) / temperature
                other = float(first[i] @ negative[j]) / temperature
                share = math.exp(positive) / (math.exp(positive) + math.exp(other))
                direct -= float(weights[i] * weights[j]) * math.log(share)
        assert aligned + uniform == pytest.approx(direct)
        squared = float(weights @ (first - second).square().sum(dim=1))
        assert aligned == pytest.approx((squared / 2 - 1) / temperature)


def perfect_infonce(centres: torch.Tensor, shares: torch.Tensor) -> float:
    both = torch.log(math.e + torch.exp(centres @ centres.T))
    return float(shares @ both @ shares)


def test_the_sharper_bound_of_a_product_holds_and_the_printed_one_never_binds():
    gaps = []
    for seed in range(1000):
        random = torch.Generator().manual_seed(seed)
        num_classes = 2 + seed % 4
        centres = F.normalize(torch.randn(num_classes, 3, generator=random).double(), dim=1)
        shares = torch.rand(num_classes, generator=random, dtype=torch.float64) + 0.1
        shares /= shares.sum()
        uniform = perfect_infonce(centres, shares)
        first, second = divergence(centres).pair
        product = float(centres[first] @ centres[second])
        sharper = sharper_product_bound(uniform, shares, first, second)
        assert sharper is not None
        assert product <= sharper + ROUNDING
        gaps.append(sharper - product)
        printed = theorem3(uniform, float(shares[first]), float(shares[second]))
        assert printed is not None
        assert printed >= 4.47
    assert min(gaps) < 0.01


@pytest.mark.parametrize(("num_classes", "expected"), [(2, -1.0), (10, -0.1104)])
def test_the_sharper_bound_is_tight_at_simplices(num_classes, expected):
    corners = F.normalize(torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes, dim=1)
    shares = torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)
    found = sharper_product_bound(perfect_infonce(corners, shares), shares, 0, 1)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_loss_below_that_of_the_perfect_case_has_no_bound_and_none_overflows():
    assert sharper_product_bound(1.0, torch.full((10,), 0.1, dtype=torch.float64), 0, 1) is None
    assert theorem3(-0.3, 0.5, 0.5) is None
    assert theorem3(1.3, 0.001, 0.001) == pytest.approx(1.3e6)
    assert theorem3(math.log(math.e + 1 / math.e), 0.5, 0.5) == pytest.approx(4.477, abs=1e-3)


# the diagnostic


def subject_with(encoder, *, test: bool = True) -> Subject:
    dataset = dataset_of(IMAGES, LABELS)
    parts = {"train": lambda: dataset, "encoder": lambda: encoder, "expert": ExpertConfig}
    if test:
        parts["test"] = lambda: dataset
    subject = Subject(parts, name="bars")
    subject.files = {}
    return subject


WORDS = ("certified", "estimated")
FEW = {"num_per_class": 8, "num_views": 2, "num_deltas": 6, "num_epsilons": 5}


def values_of(subject: Subject, **settings) -> dict[str, float]:
    found = DIAGNOSTICS.resolve("bounds", "bars", FEW | settings).build().measure(subject, 0)
    return {" ".join(filter(None, (row.name, row.group))): row.value for row in found}


def test_measured_terms_fit_together(small_models):
    subject = subject_with(small_models.encoder)
    found = values_of(subject)
    summands = [value for name, value in found.items() if name.startswith("rho: ")]
    assert len(summands) == 4
    assert found["rho_max"] == pytest.approx(sum(summands))
    assert found["rho: 2(1 − σ)"] == pytest.approx(2 * (1 - found["sigma"]))
    assert found["rho: 2σε/r"] == pytest.approx(2 * found["sigma"] * found["epsilon"])
    expected = found["sigma"] * found["lipschitz"] * found["delta"]
    assert found["rho: σLδ/r"] == pytest.approx(expected)
    assert found["theorem2_bound"] == pytest.approx(1 - found["sigma"] + found["loose_share"])
    assert found["theorem2_holds"] == (found["rho_max"] < found["rho_allowed"])
    assert found["error_train"] <= found["lemma1_sharper"] + ROUNDING <= found["lemma1_bound"] + 2 * ROUNDING
    assert found["infonce_alignment"] == pytest.approx(found["alignment"] / 2 - 1, abs=0.05)
    assert found["correlation_divergence"] <= found["theorem4_sharper"] + ROUNDING
    assert list(subject.files) == ["terms.json", "terms.png"]
    assert subject.files["terms.png"].startswith(b"\x89PNG")
    features = values_of(subject_with(small_models.encoder), space="features")
    assert features["alignment"] != found["alignment"]


@pytest.mark.usefixtures("no_flushing")
def test_a_perfect_world_has_no_error_and_a_bound_of_zero(small_models, monkeypatch):
    """The images of a class share a view, and all their views fall on one point; two classes are opposite."""
    views = copies(IMAGES)
    views[:, 1] = np.where(LABELS == 0, 10, 240)[:, None, None, None]
    known = to_model(views.reshape(-1, *views.shape[2:]), "cpu").flatten(1)
    labels = torch.from_numpy(np.repeat(LABELS, views.shape[1]))
    corners = torch.zeros(2, small_models.encoder.config.projection_dim)
    corners[:, 0] = torch.tensor([1.0, -1.0])

    def project(x):
        return corners[labels[torch.cdist(x.flatten(1), known).argmin(dim=1)]]

    monkeypatch.setattr(small_models.encoder, "project", project)
    subject = subject_of(views, encoder=small_models.encoder)
    subject._makers["test"] = lambda: dataset_of(IMAGES, LABELS)
    subject.files = {}
    found = values_of(subject, num_views=3, num_per_class=20)
    assert found["sigma"] == found["theorem2_holds"] == found["theorem2_threshold"] == 1
    for name in ("delta", "epsilon", "loose_share", "lipschitz", "alignment", "delta_mu", "rho_max"):
        assert found[name] == pytest.approx(0, abs=1e-12), name
    for name in ("theorem2_bound", "lemma1_bound", "lemma1_sharper", "error_train", "error_test"):
        assert found[name] == 0, name
    assert found["divergence_largest"] == found["divergence_of_simplex"] == -1
    assert "theorem1_bound" not in found


def test_each_number_has_its_direction_and_is_certified_or_estimated(small_models):
    diagnostic = DIAGNOSTICS.resolve("bounds", "bars", FEW).build()
    rows = diagnostic.measure(subject_with(small_models.encoder), 0)
    remarks = {row.name: row.on.partition("; ")[2] for row in rows}
    neither = {name for name, text in remarks.items() if not any(word in text for word in WORDS)}
    assert neither == {"epsilon", "theorem2_bound"}
    both = "certified here, estimated beyond"
    assert remarks["sigma"] == remarks["lipschitz"] == remarks["loose_share"] == f"at least, {both}"
    assert remarks["delta"] == f"at most, {both}"
    assert remarks["rho: σLδ/r"] == remarks["rho_max"] == remarks["theorem2_holds"] == both
    assert remarks["lemma1_bound"] == remarks["theorem4_sharper"] == f"upper bound, {both}"
    assert remarks["theorem2_bound"] == "no bound: the condition fails"
    assert remarks["epsilon"] == "chosen"
    assert remarks["error_test"] == remarks["infonce_uniform"] == "estimated"


def test_what_the_bounds_need_is_said(small_models, monkeypatch):
    without = subject_with(small_models.encoder, test=False)
    assert "error_test" not in values_of(without)
    assert "the held-out error was not measured: there is no test split" in without.notes
    with pytest.raises(UsageError, match=r"norms from .* give --set normalise=true"):
        values_of(subject_with(small_models.encoder), normalise=False)
    with pytest.raises(UsageError, match=r"temperature is 0\.0; expected greater than 0"):
        values_of(without, temperature=0.0)
    monkeypatch.setattr(small_models.encoder, "config", small_models.encoder.config.replace(image_size=16))
    with pytest.raises(ModelError, match="trained on 16-px images, these have 8 px"):
        values_of(without)


def test_a_collapsed_encoder_has_no_correlation_and_no_nan(small_models, monkeypatch):
    constant = torch.nn.functional.one_hot(torch.tensor(1), small_models.encoder.config.projection_dim)
    monkeypatch.setattr(
        small_models.encoder, "project", lambda x: constant.float().expand(len(x), -1), raising=True
    )
    subject = subject_with(small_models.encoder)
    found = values_of(subject)
    assert "theorem4_bound" not in found
    assert any("Theorem 4 were not evaluated" in note and "collapsed" in note for note in subject.notes)
    assert all(map(math.isfinite, found.values()))
    assert found["divergence_largest"] == pytest.approx(1)
    assert found["theorem2_holds"] == 0


def test_the_bound_of_theorem_2_is_drawn_only_where_its_condition_holds():
    base = dict.fromkeys(SUMMANDS, 0.2) | {"rho_allowed": 1.0, "error_train": 0.1}
    for value, expected in ({"theorem2_holds": 1.0}, False), ({"theorem2_holds": 0.0}, True), ({}, True):
        assert _is_no_bound("theorem2_bound", value) is expected
        assert not _is_no_bound("lemma1_bound", value)

    def drawn(**values):
        return draw_compared_terms({"one": base | values})

    without = drawn(theorem2_holds=0.0)
    assert drawn(theorem2_holds=0.0, theorem2_bound=0.3) == without
    assert drawn(theorem2_holds=1.0, theorem2_bound=0.3) != without
