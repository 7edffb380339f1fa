"""I_NCE: exact values for Gaussians and shared factors, the separable critic, pairs of one source."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from viewgen.datasets import load_dataset
from viewgen.diagnostics.mutual_information import ArrayPairs, MIConfig, estimate_mutual_information
from viewgen.diagnostics.mutual_information.diagnostic import MutualInformation
from viewgen.diagnostics.mutual_information.estimate import bootstrap, build_network
from viewgen.diagnostics.mutual_information.infonce import InfoNCE
from viewgen.diagnostics.mutual_information.networks import SeparableStatistics
from viewgen.diagnostics.mutual_information.views import source_pair
from viewgen.errors import DataError, UsageError
from viewgen.images import to_model
from viewgen.registry import Choice
from viewgen.views import VIEWS


def gaussian_pairs(rho, dimension, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, dimension, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def log_ratio(x, y, rho):
    """Return the log density ratio of all pairs, `(N, N)`."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    exponent = (2 * rho * x @ y.T - rho**2 * squares) / (2 * (1 - rho**2))
    return exponent - x.shape[1] / 2 * math.log(1 - rho**2)


@pytest.mark.parametrize(
    ("rho", "nats", "bound"), [(0.5, 0.575, 0.567), (0.9, 3.321, 3.04), (0.99, 7.834, 4.77)]
)
def test_the_best_critic_of_gaussians(rho, nats, bound):
    """Four dimensions, K = 128: mutual information, and the bound that the log density ratio reaches."""
    assert -2 * math.log(1 - rho**2) == pytest.approx(nats, abs=1e-3)
    x, y = gaussian_pairs(rho, 4, 1024)
    found = bootstrap(InfoNCE(128), [log_ratio(x, y, rho)[None]], MIConfig(num_resamplings=200), 0)
    assert found.low - 0.02 <= bound <= found.high + 0.02
    assert found.nats == pytest.approx(bound, abs=0.06)
    assert found.nats <= math.log(128)
    assert found.saturated == (rho == 0.99)


def test_the_interval_is_that_of_an_unbiased_estimate():
    """40 samples; mirrored, 20 of the intervals held the bound, and 13 left out their own estimate."""
    rho, infonce, config = 0.9, InfoNCE(64), MIConfig(num_resamplings=100)

    def scores(seed):
        return [log_ratio(*gaussian_pairs(rho, 4, 1024, seed), rho)[None]]

    ones = torch.ones(1, 1024, dtype=torch.float64)
    bound = np.mean([float(infonce.estimate(scores(seed), [ones])[0]) for seed in range(1000, 1040)])
    covered = 0
    for seed in range(40):
        found = bootstrap(infonce, scores(seed), config, seed)
        assert found.low <= found.nats <= found.high <= math.log(64)
        covered += found.low <= bound <= found.high
    assert covered >= 34


def best_shared(num_values, num_candidates):
    """Return ln K − E ln(1 + Bin(K − 1, 1/C)), the most of InfoNCE when one of C equal values is shared."""
    others = np.arange(num_candidates)
    weights = binom.pmf(others, num_candidates - 1, 1 / num_values)
    return math.log(num_candidates) - float(weights @ np.log1p(others))


def test_the_best_critic_of_a_shared_factor():
    values = {(10, 64): 2.230, (10, 128): 2.267, (10, 256): 2.285, (100, 128): 4.155}
    for (num_values, num_candidates), expected in values.items():
        assert best_shared(num_values, num_candidates) == pytest.approx(expected, abs=1e-3)
    # a table critic: 0 for equal values and −∞ otherwise, in every arrangement of a batch of 3 of 2 values
    nats = []
    for code in range(8):
        labels = torch.tensor([code >> bit & 1 for bit in range(3)])
        scores = torch.where(labels[:, None] == labels, 0.0, -1e4).double()
        nats.append(float(InfoNCE(3).objective(scores[None])))
    assert np.mean(nats) == pytest.approx(best_shared(2, 3), abs=1e-6)


def test_a_trained_critic_finds_a_shared_factor():
    """One of ten values, among noise, is all that two views share: 2.230 nats with K = 64."""
    random = torch.Generator().manual_seed(0)
    value = torch.randint(10, (2048,), generator=random)
    factor = torch.nn.functional.one_hot(value, 10).float()
    x, y = (torch.cat([factor, torch.randn(2048, 3, generator=random)], dim=1) for _ in range(2))
    config = MIConfig(estimator="infonce", batch_size=64, num_steps=200, num_draws=1, num_resamplings=40)
    found = estimate_mutual_information(ArrayPairs(x, y), config)
    assert found.nats == pytest.approx(best_shared(10, 64), abs=0.1)


def test_a_separable_critic_reads_gaussians_as_the_other_does():
    dimension = 2
    rho = math.sqrt(1 - math.exp(-2 * 1.0 / dimension))  # 1 nat
    x, y = (side.float() for side in gaussian_pairs(rho, dimension, 6000, seed=1))
    pairs = ArrayPairs(x, y)
    found = {
        critic: estimate_mutual_information(
            pairs,
            MIConfig(estimator="infonce", critic=critic, batch_size=64, num_steps=150, num_resamplings=40),
        )
        for critic in ("concatenated", "separable")
    }
    assert found["separable"].nats == pytest.approx(found["concatenated"].nats, abs=0.1)
    assert found["separable"].nats == pytest.approx(1.0, abs=0.12)
    assert found["separable"].ceiling == pytest.approx(math.log(64))


def test_a_separable_critic_is_a_product_of_unit_vectors():
    x, y = torch.randn(9, 3), torch.randn(9, 5)
    config = MIConfig(critic="separable", critic_temperature=0.2)
    network = build_network(x, y, config)
    assert isinstance(network, SeparableStatistics)
    u, v = network.features(x, y)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(network(x, y), u @ v.T / 0.2)
    # both sides in one trunk if they are alike, and in two if their channels differ
    alike = build_network(torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), config)
    other = build_network(torch.randn(4, 1, 8, 8), torch.randn(4, 2, 8, 8), config)
    assert (alike.trunk_y is None, other.trunk_y is None) == (True, False)
    assert other(torch.randn(4, 1, 8, 8), torch.randn(4, 2, 8, 8)).shape == (4, 4)
    plain = build_network(torch.randn(4, 1, 8, 8), torch.randn(4, 2, 8, 8), MIConfig())
    assert plain(torch.randn(4, 1, 8, 8), torch.randn(4, 2, 8, 8)).shape == (4, 4)
    with pytest.raises(UsageError, match="critic is 'concatenated'"):
        MIConfig(critic_temperature=0.2).refuse_ignored({"critic_temperature"})


@pytest.fixture(scope="module")
def trifeature():
    return load_dataset("trifeature:16", "test")


def choice(name, **settings):
    entry = VIEWS.entry(name)
    return Choice(entry, entry.settings(**settings))


def test_both_views_of_a_pair_come_from_one_draw(trifeature):
    rows = np.arange(20)
    pair = source_pair(choice("color", space="YDbDr"), trifeature, rows)
    assert (pair.x, pair.y) == ("first", "rest")
    x, y = pair.views.draw(rows[3:9], 0, "mi train", 0)
    assert (x.shape, y.shape, pair.views.num_draws) == ((6, 1, 16, 16), (6, 2, 16, 16), 1)
    patches = source_pair(choice("patches", distance=0, size=8), trifeature, rows)
    x, y = patches.views.draw(rows, 0, "mi train", 0)
    assert torch.equal(x, y)
    assert not torch.equal(patches.views.draw(rows, 0, "mi train", 1)[0], x)
    whole, mosaic = source_pair(choice("jigsaw", grid=2), trifeature, rows).views.draw(rows, 0, 0)
    torch.testing.assert_close(whole, to_model(torch.from_numpy(trifeature.images(rows))))
    first, second = source_pair(choice("expert"), trifeature, rows).views.draw(rows, 0, 0)
    assert not torch.equal(first, second)
    assert not torch.equal(mosaic, whole)


def test_views_of_different_roles_have_a_trunk_each(trifeature, monkeypatch):
    rows = np.arange(20)
    config = MIConfig(critic="separable", width=4)
    pair = source_pair(choice("frequency"), trifeature, rows)
    assert [role.name for role in pair.roles] == ["low", "high"]
    used = []
    monkeypatch.setattr(
        "viewgen.diagnostics.mutual_information.diagnostic.estimate_mutual_information",
        lambda views, config, **_: used.append(config) or SimpleNamespace(num_held_out=1, bounds={}),
    )
    alike = source_pair(choice("patches", distance=0, size=8), trifeature, rows)
    subject = SimpleNamespace(pairs=[pair, alike], tell=lambda *_: None, device="cpu")
    MutualInformation(config).measure(subject, 0)
    for chosen, one, shared in zip(used, (pair, alike), (False, True), strict=True):
        network = build_network(*one.views.draw(rows[:4], 0, 0), chosen)
        assert (network.trunk_y is None) == shared


def test_sources_without_a_pair_are_refused(trifeature):
    with pytest.raises(UsageError, match=r"wsearch views need generator.*from their cache \(--cache\)"):
        source_pair(choice("wsearch"), trifeature, np.arange(3))
    with pytest.raises(DataError, match="is the same in all pixels of digits"):
        source_pair(choice("color"), load_dataset("digits"), np.arange(3))


def estimated(dataset, name, **settings):
    """Return what two views of a source share, by a small critic with K = 32."""
    config = MIConfig(
        estimator="infonce", critic="separable", batch_size=32, num_steps=60, width=4, num_draws=1,
        num_resamplings=40,
    )  # fmt: skip
    pair = source_pair(choice(name, **settings), dataset, np.arange(600))
    return estimate_mutual_information(pair.views, config.of_roles(pair.roles))


def test_patches_apart_share_less_than_equal_ones(trifeature):
    equal, apart = (estimated(trifeature, "patches", distance=one, size=8).nats for one in (0, 8))
    assert equal > apart + 0.5
    assert equal <= math.log(32)


def test_processed_views_share_less_than_the_images(trifeature):
    """Data processing: I(a(x); b(x)) ≤ I(x; x), of the halves of a colour space and of an image and its cells
    in another order.
    """
    whole = estimated(trifeature, "patches", distance=0, size=16)
    for name, settings in (("color", {"space": "YDbDr"}), ("jigsaw", {"grid": 2})):
        processed = estimated(trifeature, name, **settings)
        assert processed.low > 0, "something is shared"
        assert processed.high < whole.low - 0.5
