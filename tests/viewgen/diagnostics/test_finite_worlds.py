"""The theorems on thousands of random finite worlds, whose quantities are computed by brute force."""

import numpy as np
import pytest
import torch
from finite_worlds import Worlds, random_worlds

from viewgen.diagnostics.bounds.centres import class_centres, divergence
from viewgen.diagnostics.bounds.embedding import Embedded, one_norm
from viewgen.diagnostics.bounds.theorem import lemma1, rho_allowed, rho_terms, theorem2, threshold
from viewgen.diagnostics.bounds.tightness import (
    alignment_of_views,
    diameters,
    loose_share,
    loose_share_bound,
    sharper_loose_share_bound,
)
from viewgen.diagnostics.nearest_centre import nearest_centre

ROUNDING = 1e-9
SHAPES = [
    {"num_classes": 2, "num_images": 6, "num_views": 3, "seed": 0},
    {"num_classes": 3, "num_images": 6, "num_views": 2, "seed": 1},
    {"num_classes": 4, "num_images": 5, "num_views": 3, "seed": 2},
]
WORLDS_OF_A_SHAPE = 1500
# of each shape, one after the other through every function
WORLDS_ONE_BY_ONE = 340


@pytest.fixture(scope="module")
def worlds() -> list[Worlds]:
    return [random_worlds(WORLDS_OF_A_SHAPE, **shape) for shape in SHAPES]


def grids(found: Worlds) -> tuple[np.ndarray, np.ndarray]:
    """Return values of δ `(W, T)` and of ε `(W, E)`: 0 and all scales that occur."""
    levels = np.linspace(0, 1, 6)
    count = len(found.views)
    delta = np.quantile(found.distance.reshape(count, -1), levels, axis=1).T
    epsilon = np.quantile(found.diameter.reshape(count, -1), levels, axis=1).T
    return delta, epsilon


def measured(found: Worlds) -> dict[str, np.ndarray]:
    """Return σ, R_ε, 1 − σ + R_ε and the premise of Lemma 1, `(W, T, E)` each, and the error `(W, 1, 1)`."""
    delta, epsilon = grids(found)
    parts = found.main_parts(delta)
    sigma = parts.mean(axis=3).min(axis=1)
    loose = found.diameter[:, :, None] > epsilon[:, None, :, None]
    rest = (found.weights[:, :, None] * loose).sum(axis=(1, 3))
    misread = parts[:, :, :, None] & ~loose[:, :, None] & found.wrong[:, :, None, None]
    return {
        "delta": delta[:, :, None],
        "epsilon": epsilon[:, None],
        "sigma": sigma[:, :, None],
        "rest": rest[:, None],
        "bound": 1 - sigma[:, :, None] + rest[:, None],
        "premise": ~misread.any(axis=(1, 4)),
        "error": (found.weights * found.wrong).sum(axis=(1, 2))[:, None, None],
    }


def test_theorem_2_holds_wherever_its_condition_is_met(worlds):
    met = worlds_met = with_errors = unmet = without_distance = 0
    for found in worlds:
        value = measured(found)
        terms = rho_terms(
            value["sigma"],
            value["delta"],
            value["epsilon"],
            value["rest"],
            smallest_share=found.shares.min(axis=1)[:, None, None],
            lipschitz=found.lipschitz[:, None, None],
            radius=found.radius[:, None, None],
        )

        def condition(rho, found=found):
            return found.largest[:, None, None] < threshold(rho, found.delta_mu[:, None, None])

        holds = condition(terms.total)
        wrong = value["error"] > value["bound"] + ROUNDING
        assert not (holds & wrong).any()
        met += int(holds.sum())
        worlds_met += int(holds.any(axis=(1, 2)).sum())
        with_errors += int((holds & (value["error"] > 0)).sum())
        unmet += int((~holds & wrong).sum())
        without_distance += int((condition(terms.total - terms.distance) & wrong).sum())
    # of 162,000 settings; a count too small would prove little
    assert met > 8000
    assert worlds_met > 1800
    assert with_errors > 150
    # without the condition, or with a weaker one, the bound fails: the worlds would show an error in it
    assert unmet > 2000
    assert without_distance > 500


def test_lemma_1_holds_wherever_its_premise_does(worlds):
    held = 0
    for found in worlds:
        value = measured(found)
        assert (value["error"] <= value["bound"] + ROUNDING)[value["premise"]].all()
        held += int((value["premise"] & (value["bound"] < 1)).sum())
    assert held > 3000


def embedded(found: Worlds, number: int) -> Embedded:
    z = torch.from_numpy(found.z[number])
    labels = torch.arange(z.shape[0]).repeat_interleave(z.shape[1])
    return Embedded(z=z.flatten(0, 1), labels=labels, shares=torch.from_numpy(found.shares[number]))


def test_every_function_agrees_with_the_worlds_and_theorem_1_holds(worlds):
    binding = 0
    for found in worlds:
        delta, epsilon = grids(found)
        value = measured(found)
        parts = found.main_parts(delta)
        for number in range(WORLDS_ONE_BY_ONE):
            sample = embedded(found, number)
            radius = float(found.radius[number])
            assert one_norm(sample.z) == pytest.approx(radius)
            centres = class_centres(sample)
            assert centres.numpy() == pytest.approx(found.centres[number])
            apart = divergence(centres, radius)
            assert apart.largest == pytest.approx(found.largest[number])
            assert apart.delta_mu == pytest.approx(found.delta_mu[number])
            diameter = diameters(sample.z)
            assert diameter.numpy() == pytest.approx(found.diameter[number].ravel())
            aligned = alignment_of_views(sample.z, sample.weights)
            assert aligned == pytest.approx(found.alignment[number])
            rest = loose_share(diameter, sample.weights, torch.from_numpy(epsilon[number])).numpy()
            wrong = (nearest_centre(sample.z[:, 0], centres) != sample.labels).numpy()
            assert np.array_equal(wrong, found.wrong[number].ravel())
            for limit, share in zip(epsilon[number], rest, strict=True):
                num_views = sample.z.shape[1]
                assert share <= loose_share_bound(aligned, limit, num_views) + ROUNDING
                sharper = sharper_loose_share_bound(aligned, limit, num_views)
                assert share <= sharper + ROUNDING
                binding += sharper < 1
            sigma = value["sigma"][number, :, 0]
            best = theorem2(
                delta[number],
                sigma,
                epsilon[number],
                rest,
                largest=apart.largest,
                delta_mu=apart.delta_mu,
                smallest_share=float(sample.shares.min()),
                lipschitz=float(found.lipschitz[number]),
                radius=radius,
            )
            error = float(value["error"][number, 0, 0])
            assert best.holds == (best.threshold > apart.largest)
            assert best.holds == (best.rho_max < rho_allowed(apart.largest, apart.delta_mu))
            assert not best.holds or error <= best.bound + ROUNDING
            members = parts[number].transpose(1, 0, 2).reshape(len(sigma), -1)
            lemma = lemma1(
                delta[number],
                sigma,
                members,
                epsilon[number],
                diameter.numpy(),
                wrong,
                sample.weights.numpy(),
            )
            if lemma is not None:
                assert error <= lemma.sharper + ROUNDING <= lemma.bound + 2 * ROUNDING
                assert not best.holds or lemma.bound <= best.bound + ROUNDING
    assert binding > 340
