"""The estimators' formulas against double loops, closed forms and a joint distribution computed exactly."""

import math

import pytest
import torch

from viewgen.diagnostics import ESTIMATORS
from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimate import bootstrap
from viewgen.diagnostics.mutual_information.estimator import derangements
from viewgen.diagnostics.mutual_information.mine import Mine
from viewgen.diagnostics.mutual_information.smile import Smile
from viewgen.diagnostics.mutual_information.training import calibrate
from viewgen.errors import UsageError

CONFIG = MIConfig(batch_size=8, num_resamplings=200)


@pytest.fixture
def scores():
    return torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gaussian_scores(num_images, dimension, nats, seed):
    """Return the exact log density ratio of all pairs of correlated Gaussians, `(1, N, N)`."""
    squared_rho = 1 - math.exp(-2 * nats / dimension)
    rho = math.sqrt(squared_rho)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_images, dimension, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_images, dimension, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - squared_rho) * noise
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None]
    exponent = (2 * rho * x @ y.T - squared_rho * squares) / (2 * (1 - squared_rho))
    return (exponent - dimension / 2 * math.log(1 - squared_rho))[None]


def test_every_shift_pairs_each_x_with_another_y_and_no_pair_comes_twice():
    table = torch.arange(36).view(6, 6)
    shifted = derangements(table)
    assert shifted.shape == (6, 5)
    assert sorted(shifted.flatten().tolist()) == sorted(set(range(36)) - {7 * i for i in range(6)})


def mean_over_marginals(scores, function):
    size = scores.shape[-1]
    values = [
        function(float(scores[r, i, j]))
        for r in range(len(scores))
        for i in range(size)
        for j in range(size)
        if i != j
    ]
    return sum(values) / len(values)


def mean_over_joint(scores, function):
    values = [function(float(scores[r, i, i])) for r in range(len(scores)) for i in range(scores.shape[-1])]
    return sum(values) / len(values)


def expected_objective(name, scores):
    joint = mean_over_joint(scores, lambda t: t)
    if name == "mine":
        return joint - math.log(mean_over_marginals(scores, math.exp))
    if name == "nwj":
        return joint - mean_over_marginals(scores, lambda t: math.exp(t - 1))
    if name == "smile":
        positive = mean_over_joint(scores, lambda t: math.log1p(math.exp(-t)))
        return -positive - mean_over_marginals(scores, lambda t: math.log1p(math.exp(t)))
    total, size = 0.0, scores.shape[-1]
    for matrix in scores:
        for i in range(size):
            row = sum(math.exp(matrix[i, j]) for j in range(size)) / size
            column = sum(math.exp(matrix[j, i]) for j in range(size)) / size
            total += float(matrix[i, i]) - (math.log(row) + math.log(column)) / 2
    return total / (len(scores) * size)


@pytest.mark.parametrize("name", ESTIMATORS.built_in)
def test_objective_is_the_double_loop(name, scores):
    found = float(CONFIG.build(name).objective(scores))
    assert found == pytest.approx(expected_objective(name, scores), abs=1e-12)


@pytest.mark.parametrize("name", ["mine", "nwj", "infonce"])
def test_unweighted_estimate_of_a_bound_is_its_objective(name, scores):
    estimator = CONFIG.build(name)
    found = estimator.estimate([scores], [torch.ones(1, 8, dtype=torch.float64)])
    assert float(found) == pytest.approx(float(estimator.objective(scores)), abs=1e-12)


def test_smile_clips_the_exponential_and_not_the_joint_mean(scores):
    smile = Smile(clip=0.5)
    found = float(smile.estimate([scores], [torch.ones(1, 8, dtype=torch.float64)]))
    clipped = mean_over_marginals(scores, lambda t: math.exp(min(max(t, -0.5), 0.5)))
    assert found == pytest.approx(mean_over_joint(scores, lambda t: t) - math.log(clipped), abs=1e-12)


def test_a_resampling_counts_images_and_never_pairs_an_image_with_itself(scores):
    weights = torch.tensor([[2.0, 0, 1, 1, 3, 0, 1, 0]], dtype=torch.float64)
    drawn = [i for i, count in enumerate(weights[0].int().tolist()) for _ in range(count)]
    joint = sum(float(scores[r, i, i]) for r in range(2) for i in drawn) / (2 * len(drawn))
    different = [math.exp(scores[r, i, j]) for r in range(2) for i in drawn for j in drawn if i != j]
    expected = joint - math.log(sum(different) / len(different))
    assert float(Mine().estimate([scores], [weights])) == pytest.approx(expected, abs=1e-12)


def test_infonce_of_a_resampling_weighs_images_and_candidates(scores):
    weights = torch.tensor([[2.0, 1, 1, 0, 3, 1, 1, 1]], dtype=torch.float64)
    matrix = scores[0]
    total = 0.0
    for i in range(8):
        for line in (matrix[i], matrix[:, i]):
            others = [j for j in range(8) if j != i]
            mass = sum(float(weights[0, j] * line[j].exp()) for j in others)
            mean = mass / sum(float(weights[0, j]) for j in others)
            total += (
                float(weights[0, i]) * (float(line[i]) - math.log((math.exp(line[i]) + 7 * mean) / 8)) / 2
            )
    found = CONFIG.build("infonce").estimate([matrix[None]], [weights])
    assert float(found) == pytest.approx(total / 10, abs=1e-12)


def test_infonce_leaves_out_an_incomplete_batch_and_another_one_in_every_draw():
    scores = torch.randn(2, 11, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    infonce = CONFIG.build("infonce")
    first, second = scores[0][:8, :8], scores[1].roll((-5, -5), (0, 1))[:8, :8]
    expected = (infonce.objective(first) + infonce.objective(second)) / 2
    found = infonce.estimate([scores], [torch.ones(1, 11, dtype=torch.float64)])
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


def test_mine_warms_up_on_the_jensen_shannon_objective(scores):
    mine = Mine(num_warm_up=2)
    joint = mean_over_joint(scores[:1], lambda t: math.log1p(math.exp(-t)))
    expected = joint + mean_over_marginals(scores[:1], lambda t: math.log1p(math.exp(t)))
    for _ in range(2):
        assert float(mine.loss(scores[0])) == pytest.approx(expected, abs=1e-12)
    assert float(mine.loss(scores[0])) == pytest.approx(float(Mine().loss(scores[0])), abs=1e-12)
    config = MIConfig(num_steps=10, warm_up_share=0.3)
    assert (config.build("mine").num_warm_up, CONFIG.build("mine").num_warm_up) == (3, 0)


def test_mine_divides_the_gradient_by_the_moving_average():
    mine = Mine(ema_rate=0.25)
    generator = torch.Generator().manual_seed(2)
    average = 0.0
    for number in range(1, 6):
        scores = torch.randn(6, 6, generator=generator, dtype=torch.float64).requires_grad_()
        mine.loss(scores).backward()
        batch = mean_over_marginals(scores.detach()[None], math.exp)
        rate = max(0.25, 1 / number)
        average = (1 - rate) * average + rate * batch
        expected = scores.detach().exp() / (30 * average)
        expected.fill_diagonal_(-1 / 6)
        assert torch.allclose(scores.grad, expected, atol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS.built_in)
def test_calibration_finds_the_best_scale_and_offset(name):
    scores = 2 * gaussian_scores(200, 2, 1.0, seed=3) + (0 if name in ("mine", "infonce") else 0.7)
    estimator = CONFIG.build(name)
    found = calibrate(estimator, scores)
    assert found.scale == pytest.approx(0.5, abs=0.12)
    for scale, offset in ((1.05, 0), (0.95, 0), (1, 0.1), (1, -0.1)):
        moved = scores * found.scale * scale + found.offset + offset
        assert float(estimator.objective(moved)) <= found.objective + 1e-6


@pytest.mark.parametrize("name", ESTIMATORS.built_in)
def test_scores_that_know_nothing_are_worth_nothing(name):
    noise = torch.randn(1, 300, 300, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    estimator = CONFIG.build(name)
    found = calibrate(estimator, noise[:, :100, :100])
    held_out = found.apply(noise[:, 100:, 100:])
    assert abs(bootstrap(estimator, [held_out], CONFIG, seed=0).nats) < 0.03


@pytest.mark.parametrize("nats", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", ["mine", "nwj"])
def test_the_interval_covers_the_truth_of_an_exact_network(name, nats):
    """95 % intervals of 300 images; binomial spread of 60 repetitions and the bootstrap's own error."""
    offset = 1.0 if name == "nwj" else 0.0
    covered, below = 0, 0
    for seed in range(60):
        scores = gaussian_scores(300, 4, nats, seed) + offset
        found = bootstrap(CONFIG.build(name), [scores], CONFIG, seed)
        covered += found.low <= nats <= found.high
        below += found.low <= nats
    assert covered >= 51
    assert below >= 54


@pytest.mark.parametrize("name", ["mine", "nwj", "infonce"])
@pytest.mark.parametrize("nats", [0.0, 0.5, 3.0, 8.0])
def test_bounds_of_an_exact_network_do_not_exceed_the_truth(name, nats):
    config = MIConfig(batch_size=64, num_resamplings=100)
    scores = gaussian_scores(512, 10, nats, seed=5) + (1.0 if name == "nwj" else 0.0)
    assert bootstrap(config.build(name), [scores], config, seed=0).low <= nats + 1e-9


def test_blocks_are_pooled():
    blocks = [gaussian_scores(300, 2, 1.5, seed) for seed in (6, 7)]
    both = bootstrap(Mine(), blocks, CONFIG, seed=0)
    alone = [bootstrap(Mine(), [block], CONFIG, seed=0) for block in blocks]
    assert both.nats == pytest.approx(sum(bound.nats for bound in alone) / 2, abs=0.03)
    assert both.high - both.low < min(bound.high - bound.low for bound in alone)


JOINT = torch.tensor(
    [[0.20, 0.02, 0.01, 0.02], [0.01, 0.15, 0.02, 0.07], [0.03, 0.02, 0.25, 0.00], [0.00, 0.05, 0.05, 0.10]],
    dtype=torch.float64,
)


def test_a_discrete_joint_distribution():
    """Σ p ln p/(p_x p_y) against held-out estimates of the exact and of a misjudging network."""
    ratio = JOINT / (JOINT.sum(1, keepdim=True) * JOINT.sum(0, keepdim=True))
    exact = float(torch.special.xlogy(JOINT, ratio).sum())
    draws = torch.multinomial(
        JOINT.flatten(), 1500, replacement=True, generator=torch.Generator().manual_seed(8)
    )
    x, y = draws // 4, draws % 4
    log_ratio = ratio.clamp_min(1e-4).log()
    scores = log_ratio[x][:, y][None]
    found = {
        name: bootstrap(CONFIG.build(name), [scores + (name == "nwj")], CONFIG, seed=0)
        for name in ESTIMATORS.built_in
    }
    for name in ("mine", "nwj", "smile"):
        assert found[name].low <= exact <= found[name].high
        assert found[name].nats == pytest.approx(exact, abs=0.05)
    assert found["infonce"].low <= exact
    worse = bootstrap(Mine(), [2 * scores], CONFIG, seed=0)
    assert worse.high < exact


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="did you mean 'infonce'"):
        MIConfig(estimator="info-nce")
    for bad in (
        {"batch_size": 4},
        {"num_steps": 0},
        {"held_out_share": 0.9, "validation_share": 0.2},
        {"confidence": 95.0},
        {"ema_rate": 0.0},
        {"clip": -1.0},
        {"num_resamplings": 10},
        {"learning_rate": 0.0},
    ):
        with pytest.raises(UsageError):
            MIConfig(**bad)
