"""Optimisers against other implementations; schedules against closed forms."""

import math
import warnings

import pytest
import torch
from torch import nn

from viewgen.errors import UsageError
from viewgen_train.optimiser import Optimiser, learning_rate, predictor_learning_rate
from viewgen_train.records import read_record, record
from viewgen_train.resolve import train_settings
from viewgen_train.settings import OptimiserSettings

NUM_STEPS = 6


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()


def trained(network, optimiser, set_rate):
    """The weights after some steps, whose gradients depend on the weights."""
    random = torch.Generator().manual_seed(1)
    for step in range(NUM_STEPS):
        x = torch.randn(5, 4, generator=random, dtype=torch.float64)
        optimiser.zero_grad()
        network(x).square().mean().backward()
        set_rate(step)
        optimiser.step()
    return [parameter.detach() for parameter in network.parameters()]


def ours(**settings):
    network = layers()
    config = OptimiserSettings(warm_up_epochs=1.0, epochs=3, weight_decay=0.1, **settings)
    optimiser = Optimiser(config, [network], None, NUM_STEPS, fused=False)
    return trained(network, optimiser, optimiser.at), config


def theirs(make, config):
    network = layers()
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    optimiser = make([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])

    def set_rate(step):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step, NUM_STEPS)

    return trained(network, optimiser, set_rate)


def test_lars_is_lightlys():
    pytest.importorskip("lightly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.utils.lars import LARS
    found, config = ours(name="lars", learning_rate=5.0, trust_coefficient=0.02)
    expected = theirs(
        lambda groups: LARS(groups, lr=5.0, momentum=0.9, weight_decay=0.1, trust_coefficient=0.02), config
    )
    for mine, other, start in zip(found, expected, layers().parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
        assert not torch.equal(mine, start)


def test_a_clipped_layer_has_at_most_the_learning_rate():
    """LARC: the rate of a layer is min(η‖w‖/(‖g‖ + λ‖w‖), learning rate)."""
    w, g, momentum, decay, rate = torch.full((2, 2), 3.0), torch.ones(2, 2), 0.9, 0.1, 0.01
    for coefficient in (0.001, 10.0):
        weight = nn.Parameter(w.clone())
        config = OptimiserSettings(
            name="lars",
            learning_rate=rate,
            schedule="constant",
            warm_up_epochs=0.0,
            weight_decay=decay,
            momentum=momentum,
            trust_coefficient=coefficient,
            trust_clip=True,
        )
        module = nn.ParameterList([weight])
        optimiser = Optimiser(config, [module], None, 1, fused=False)
        weight.grad = g.clone()
        optimiser.at(0)
        optimiser.step()
        layer = min(coefficient * 6 / (2 + decay * 6), rate)
        torch.testing.assert_close(weight.detach(), w - layer * (g + decay * w))


def test_adamw_is_torchs_without_decay_of_biases_and_normalisations():
    found, config = ours(name="adamw", learning_rate=0.05)
    expected = theirs(lambda groups: torch.optim.AdamW(groups, weight_decay=0.1), config)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_sgd_has_one_group_as_in_earlier_checkpoints():
    network = layers()
    optimiser = Optimiser(OptimiserSettings(), [network], network[2], NUM_STEPS, fused=False)
    (group,) = optimiser.state()["param_groups"]
    assert group["params"] == list(range(6))
    assert (
        group.keys() == torch.optim.SGD(network.parameters(), lr=0.1).state_dict()["param_groups"][0].keys()
    )


def test_a_cosine_ends_at_its_floor():
    config = OptimiserSettings(learning_rate=2.0, epochs=10, warm_up_epochs=2.0, learning_rate_floor=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[20] == 2.0
    assert rates[60] == pytest.approx(2.0 * 0.55)
    assert rates[99] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 79 / 80))))
    assert min(rates[20:]) >= 0.2


def test_steps_fall_at_the_milestones_and_not_below_the_floor():
    config = OptimiserSettings(
        learning_rate=1.0,
        epochs=10,
        warm_up_epochs=1.0,
        schedule="steps",
        milestones=(5.0, 7.5, 9.0),
        step_factor=0.1,
        learning_rate_floor=0.005,
    )
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[9] == rates[49] == 1.0
    assert rates[50] == rates[74] == pytest.approx(0.1)
    assert rates[75] == rates[89] == pytest.approx(0.01)
    assert rates[90] == rates[99] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("settings", "highest", "constant"),
    [
        ({}, 1.0, False),
        ({"predictor_learning_rate": 4.0}, 4.0, False),
        ({"predictor_learning_rate": 4.0, "predictor_schedule": "constant"}, 4.0, True),
        ({"predictor_schedule": "constant"}, 1.0, True),
    ],
)
def test_the_predictor_has_a_rate_of_its_own(settings, highest, constant):
    network = layers()
    config = OptimiserSettings(learning_rate=1.0, epochs=10, warm_up_epochs=2.0, momentum=0.0, **settings)
    optimiser = Optimiser(config, [network], network[2], 20, fused=False)
    before = [parameter.clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    rate = optimiser.at(15)
    assert rate == learning_rate(config, 15, 20)
    optimiser.step()
    expected = highest if constant else highest * rate
    assert predictor_learning_rate(config, 15, 20) == pytest.approx(expected)
    moved = [
        float((old - new).detach().mean()) for old, new in zip(before, network.parameters(), strict=True)
    ]
    # a gradient of 1, and the weight decay of 1e-4 of weights below 1
    assert moved[:4] == pytest.approx([rate] * 4, rel=1e-3)
    assert moved[4:] == pytest.approx([expected] * 2, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimiser": "adamw", "momentum": 0.5},
            "momentum is given and has no effect, because name is 'adamw'",
        ),
        ({"trust_coefficient": 0.02}, "trust_coefficient is given and has no effect"),
        ({"optimiser": "adamw", "trust_clip": True}, "trust_clip is given and has no effect"),
        ({"step_factor": 0.5}, "step_factor is given and has no effect"),
        ({"milestones": [2.0]}, "milestones is given and has no effect"),
        (
            {"schedule": "constant", "learning_rate_floor": 0.1},
            "learning_rate_floor is given and has no effect",
        ),
        ({"schedule": "steps"}, "schedule is 'steps' without milestones"),
        ({"schedule": "steps", "milestones": [5.0, 5.0]}, "expected increasing epochs"),
        ({"schedule": "steps", "milestones": [5.0, 60.0]}, "not before the end of the 60 epochs"),
        ({"optimiser": "adam"}, "name is 'adam'; did you mean 'adamw'"),
        ({"learning_rate_floor": 1.5}, "learning_rate_floor is 1.5"),
        ({"predictor_learning_rate": 0.1}, "objective 'infonce' has no predictor"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", settings)


def test_defaults_are_not_recorded_and_others_are():
    plain = train_settings("digits", {"assimilation": "none", "objective": "moco"})
    assert plain.optimiser.record().keys() == OptimiserSettings().record().keys()
    assert "name" not in plain.optimiser.record()
    other = train_settings("digits", {"optimiser": "lars", "assimilation": "none", "objective": "moco"})
    assert record(other)["optimiser"]["name"] == "lars"
    assert read_record(record(other)) == other
