"""Whole estimates: Gaussians of known mutual information, images of a known joint, splits, bad input."""

import hashlib
import json
import math

import numpy as np
import pytest
import torch

from viewgen.diagnostics.mutual_information import (
    ArrayPairs,
    MIConfig,
    MIEstimate,
    estimate_mutual_information,
)
from viewgen.diagnostics.mutual_information.training import split_images
from viewgen.errors import DataError

VECTORS = {"num_steps": 40, "num_checks": 3, "num_resamplings": 100}
SMALL = MIConfig(batch_size=16, num_steps=4, num_resamplings=40, width=2)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gaussians(num_rows, dimension, nats, seed=1):
    rho = math.sqrt(1 - math.exp(-2 * nats / dimension))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, dimension, generator=generator)
    return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(num_rows, dimension, generator=generator)


@pytest.mark.parametrize(
    ("estimator", "dimension", "nats"),
    [
        ("mine", 1, 4.0),
        pytest.param("mine", 5, 4.0, marks=pytest.mark.chaos),
        ("mine", 20, 4.0),
        pytest.param("nwj", 3, 2.0, marks=pytest.mark.chaos),
        ("smile", 2, 1.0),
    ],
)
def test_gaussians_up_to_4_nats(estimator, dimension, nats):
    pairs = ArrayPairs(*gaussians(3000, dimension, nats))
    found = estimate_mutual_information(pairs, MIConfig(estimator=estimator, **VECTORS))
    assert found.nats == pytest.approx(nats, abs=max(0.1, 0.1 * nats))
    for name in ("mine", "nwj", "infonce"):
        assert found.bounds[name].low <= nats
    assert found.nats == found.bounds[estimator].nats
    assert found.bits[0] == pytest.approx(found.nats / math.log(2))


def test_what_no_correlation_shows_is_learned():
    """y is ρx or −ρx, plus noise: uncorrelated; a network's own part finds what the Gaussian ratio cannot."""
    rho, generator = 0.9, torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 2000, 2, generator=generator)
    sign = torch.randint(0, 2, (2000, 1), generator=generator) * 2 - 1
    y = rho * sign * x + math.sqrt(1 - rho**2) * noise
    both = torch.stack([(y - s * rho * x).square().sum(1) / (2 * rho**2 - 2) for s in (1, -1)])
    ratios = torch.logsumexp(both, 0) - math.log(2 * (1 - rho**2)) + y.square().sum(1) / 2
    exact = float(ratios.mean())
    config = MIConfig(num_steps=250, num_checks=5, num_resamplings=100)
    found = estimate_mutual_information(ArrayPairs(x, y), config)
    assert 0.7 * exact < found.nats
    assert found.low <= exact
    assert found.step > 0


def test_at_8_nats_bounds_stay_below_and_say_that_they_are_saturated():
    pairs = ArrayPairs(*gaussians(4000, 10, 8.0))
    found = estimate_mutual_information(pairs, MIConfig(estimator="infonce", **VECTORS))
    for name in ("mine", "nwj", "infonce"):
        assert found.bounds[name].low <= 8
    assert math.log(128) - 1 < found.nats <= math.log(128)
    assert found.bounds["infonce"].saturated
    assert any("saturated" in text and "ln 128 = 4.85" in text for text in found.warnings)


@pytest.mark.parametrize("estimator", ["mine", "infonce", "nwj", "smile"])
def test_independence_is_0_though_the_network_could_learn_the_images_by_heart(estimator):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(400, 6, generator=generator), torch.randn(400, 6, generator=generator)
    config = MIConfig(estimator=estimator, batch_size=64, **VECTORS | {"num_steps": 150})
    found = estimate_mutual_information(ArrayPairs(x, y), config)
    assert abs(found.nats) < 0.1
    assert all(bound.low <= 0.02 for bound in found.bounds.values())


def symbol_images(num_rows, seed=0):
    """Return images of symbols with a known joint distribution, and its mutual information."""
    joint = torch.full((6, 6), 0.05 / 6) + torch.eye(6) * 0.7 / 6
    joint = joint / joint.sum()
    ratio = joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint.flatten(), num_rows, replacement=True, generator=generator)
    shapes = torch.randint(0, 2, (2, 6, 3, 8, 8), generator=generator) * 120 + 60
    noise = torch.randint(-40, 41, (2, num_rows, 3, 8, 8), generator=generator)
    images = torch.stack([shapes[0, drawn // 6], shapes[1, drawn % 6]]) + noise
    return images.to(torch.uint8), float((joint * ratio.log()).sum())


@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.chaos)])
def test_images_of_a_discrete_joint_distribution(shared):
    (x, y), exact = symbol_images(1500)
    config = MIConfig(
        batch_size=64, num_steps=90, num_resamplings=100, num_checks=3, width=4, shared_trunk=shared
    )
    found = estimate_mutual_information(ArrayPairs(x, y), config)
    assert found.nats == pytest.approx(exact, abs=0.15)
    assert found.low <= exact


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    (x, y), _ = symbol_images(200)
    first, again, other = (
        estimate_mutual_information(ArrayPairs(x, y), SMALL, seed=seed) for seed in (5, 5, 6)
    )
    assert first.bounds == again.bounds
    assert first.bounds != other.bounds


def test_numpys_and_torchs_own_random_numbers_are_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    estimate_mutual_information(ArrayPairs(*gaussians(100, 2, 1.0)), SMALL)
    assert torch.equal(torch.rand(3), expected)


class RecordingPairs(ArrayPairs):
    def __init__(self, *arrays):
        super().__init__(*arrays)
        self.drawn = {}

    def draw(self, positions, *address):
        self.drawn.setdefault(address[1], []).extend(positions.tolist())
        return super().draw(positions, *address)


def test_an_images_views_never_stand_on_both_sides():
    """Four views of each image, x its own number: a network that met an image would know its partner."""
    images = np.repeat(np.arange(120), 4)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 8))[images] + 0.01 * generator.normal(size=(480, 8))
    y = generator.normal(size=(120, 8))[images] + 0.01 * generator.normal(size=(480, 8))
    pairs = RecordingPairs(x, y, images)
    assert (pairs.num_images, pairs.num_draws) == (120, 4)
    config = MIConfig(batch_size=16, num_steps=150, learning_rate=5e-3, num_resamplings=40, num_checks=3)
    found = estimate_mutual_information(pairs, config)
    parts = [set(pairs.drawn[f"mi {part}"]) for part in ("train", "validation", "held out")]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 120
    assert found.low <= 0.05
    assert found.num_draws == 4


def test_draws_of_an_image_go_through_its_views_before_one_returns():
    images = np.repeat(np.arange(10), 3)
    pairs = ArrayPairs(np.arange(30.0)[:, None], np.arange(30.0)[:, None], images)
    drawn = np.stack([pairs.draw(np.arange(10), 0, "s", draw)[0][:, 0].numpy() for draw in range(3)])
    assert np.array_equal(np.sort(drawn, axis=0), np.arange(30.0).reshape(10, 3).T)


def test_defaults_of_images_are_recorded_as_they_always_were():
    """The address of a result on file is made of this record."""
    record = MIConfig().resolved(vectors=False).record()
    assert (record["learning_rate"], record["warm_up_share"]) == (1e-3, 0.0)
    assert hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16] == "21b1eceed8b9fdbb"
    given = MIConfig(learning_rate=1e-3, warm_up_share=0.0)
    assert given.resolved(vectors=True) == given, "what is given counts for vectors too"
    assert MIConfig.from_record(record) == given


def test_the_split_is_a_partition_and_a_function_of_number_and_seed():
    config = MIConfig(batch_size=16)
    split = split_images(203, config, seed=4)
    whole = np.concatenate([split.train, split.validation, split.held_out])
    assert np.array_equal(np.sort(whole), np.arange(203))
    assert (len(split.validation), len(split.held_out)) == (30, 61)
    assert np.array_equal(split.held_out, split_images(203, config, seed=4).held_out)
    assert not np.array_equal(split.held_out, split_images(203, config, seed=5).held_out)
    assert len(split_images(100_000, config, seed=0).held_out) == config.max_held_out


def test_estimate_survives_json():
    (x, y), _ = symbol_images(200)
    found = estimate_mutual_information(ArrayPairs(x, y), SMALL)
    assert MIEstimate.from_json(found.to_json()) == found


def test_a_bound_that_still_rises_says_so():
    """y is x or −x: uncorrelated, so that a network starts from nothing."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1000, 2, generator=generator)
    sign = torch.randint(0, 2, (1000, 1), generator=generator) * 2 - 1
    config = MIConfig(num_steps=80, batch_size=64, num_checks=2, warm_up_share=0.0, num_resamplings=40)
    found = estimate_mutual_information(ArrayPairs(x, sign * x), config)
    assert any("still rose" in text for text in found.warnings)


def test_images_of_one_colour_are_counted():
    (x, y), _ = symbol_images(200)
    x[::2] = torch.arange(100, dtype=torch.uint8)[:, None, None, None]
    found = estimate_mutual_information(ArrayPairs(x, y), SMALL)
    assert any("held-out images of x are of one colour" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((40, 3, 8, 8)), np.zeros((40, 3, 16, 16)), "views of a pair must be images of one size"),
        (np.zeros((40, 3, 8, 8)), np.zeros((40, 5)), "images of one size, or both vectors"),
        (np.zeros((40, 5)), np.zeros((39, 5)), "x has 40 rows and y 39"),
        (np.zeros((40, 5, 5)), np.zeros((40, 5, 5)), "expected vectors"),
        (
            np.ones((40, 3, 8, 8)),
            np.random.default_rng(0).random((40, 3, 8, 8)),
            "all 40 rows of x are the same",
        ),
        (
            np.random.default_rng(0).random((40, 2)),
            np.full((40, 2), np.nan),
            "40 of 40 rows of y are not finite",
        ),
    ],
)
def test_what_cannot_be_estimated_is_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        ArrayPairs(x, y)


def test_fewer_images_than_a_batch_are_refused_with_the_numbers():
    pairs = ArrayPairs(*gaussians(100, 2, 1.0))
    with pytest.raises(DataError, match="55 for training, 15 for validation and 30 held out"):
        estimate_mutual_information(pairs, MIConfig(batch_size=32))


def orthogonal(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


INVARIANCE = MIConfig(num_steps=10, batch_size=32, num_checks=2, num_resamplings=40)


@pytest.fixture(scope="module")
def unchanged():
    """Vectors that share 2.5 nats and are not Gaussian, and the estimate of them as they are."""
    x, y = gaussians(1000, 3, 2.5)
    y = y.abs().sqrt() * y.sign()
    return x, y, estimate_mutual_information(ArrayPairs(x, y), INVARIANCE).nats


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x, 100 * y),
        lambda x, y: (0.01 * x, 0.01 * y),
        lambda x, y: (x + 100, y - 3),
        lambda x, y: (x * 1e15, y * 1e-15),
        lambda x, y: (x @ orthogonal(3, 1), y @ orthogonal(3, 2)),
        lambda x, y: (x @ torch.tensor([[1.0, 5, 0], [0, 0.1, 2], [0, 0, 30]]), -y),
        lambda x, y: (torch.cat([x, x.sum(1, keepdim=True), torch.ones(len(x), 1)], 1), y),
    ],
    ids=["scale of y", "scale of both", "shift", "far from 1", "rotation", "linear map", "dependent"],
)
def test_linear_maps_of_the_vectors_change_no_estimate(change, unchanged):
    """Up to float32's rounding of the numbers given, which training enlarges; the interval is wider."""
    x, y, expected = unchanged
    found = estimate_mutual_information(ArrayPairs(*change(x, y)), INVARIANCE)
    assert expected > 1
    assert found.nats == pytest.approx(expected, abs=0.03)


def test_heavy_tails_are_named():
    x, y = gaussians(1000, 3, 2.0)
    y[:, 1] = y[:, 1] ** 5
    found = estimate_mutual_information(ArrayPairs(x, y), SMALL)
    (told,) = [text for text in found.warnings if "heavy tails" in text]
    assert told.startswith("1 of 3 coordinates of y have heavy tails (kurtosis up to ")
    plain = estimate_mutual_information(ArrayPairs(x, x + 1), SMALL)
    assert not any("heavy tails" in text for text in plain.warnings)


def test_a_value_below_0_is_reported_as_0_and_said():
    """Pairs that are unrelated in the held-out part only: what the others teach misjudges them."""
    x, y = gaussians(400, 2, 3.0)
    held_out = split_images(400, SMALL, seed=0).held_out
    y[held_out] = y[np.roll(held_out, 1)]
    found = estimate_mutual_information(ArrayPairs(x, y), SMALL)
    mine = found.bounds["mine"]
    assert (found.nats, found.low, mine.nats, mine.low) == (0, 0, 0, 0)
    assert mine.below_zero < -0.5
    assert found.high >= 0
    (told,) = [text for text in found.warnings if text.startswith("below 0 nats on the held-out images")]
    assert f"MINE {mine.below_zero:.2g}" in told
    assert MIEstimate.from_json(found.to_json()) == found


def test_a_batch_that_is_constant_by_chance_is_no_reason_to_refuse():
    """A symbol that comes once in forty, in batches of eight; independent of y."""
    x = torch.zeros(400, 1)
    x[::40] = 1
    y = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    config = MIConfig(batch_size=8, num_steps=4, num_resamplings=40)
    assert abs(estimate_mutual_information(ArrayPairs(x, y), config).nats) < 0.1


def test_held_out_images_beyond_a_block_are_all_read():
    pairs = RecordingPairs(*gaussians(4000, 2, 1.0))
    config = MIConfig(batch_size=16, num_steps=2, num_resamplings=40)
    found = estimate_mutual_information(pairs, config)
    assert found.num_held_out == len(set(pairs.drawn["mi held out"])) == 1200


def test_a_held_out_image_out_of_all_proportion_is_refused():
    x, y = gaussians(200, 2, 1.0)
    x[split_images(200, SMALL, seed=0).held_out[3]] = 1e38
    with pytest.raises(DataError, match="scores of some held-out images are not finite"):
        estimate_mutual_information(ArrayPairs(x, y * 1e3), SMALL)
