"""Settings and options of a training: defaults, recipes, given values, and what is refused."""

import json

import pytest

from viewgen.errors import (
    UsageError,
)
from viewgen_train.optimiser import learning_rate
from viewgen_train.records import read_record, record
from viewgen_train.resolve import effective_settings, train_settings
from viewgen_train.training import train

pytestmark = pytest.mark.usefixtures("_no_pictures", "caches")
SMALL = {"width": 2, "projection_dim": 4, "batch_size": 8, "epochs": 1, "warm_up_epochs": 0.0}


def test_recipes_are_table_2():
    rows = {
        name: record(train_settings(name, {"projector": "objective"}))
        for name in ("cifar10", "cifar100", "tinyimagenet", "fashion-mnist", "digits", "trifeature:32")
    }
    cifar10, cifar100, tiny_imagenet = (rows[name] for name in ("cifar10", "cifar100", "tinyimagenet"))
    names = ("learning_rate", "weight_decay", "batch_size", "epochs", "loss", "backbone", "projection_dim")
    assert [cifar10[name] for name in names] == [0.015, 5e-5, 128, 800, "infonce", "resnet18", 2048]
    assert cifar10["batchnorm"] == "separate"
    assert [cifar100[name] for name in names] == [0.5, 1e-4, 512, 1200, "simclr", "resnet50", 128]
    assert [tiny_imagenet[name] for name in names] == [0.5, 1e-4, 512, 1000, "simclr", "resnet18", 128]
    for values in (cifar10, cifar100, tiny_imagenet):
        assert (values["temperature"], values["momentum"], values["schedule"]) == (0.5, 0.9, "cosine")
        assert values["gradient_clip"] == 0
    for values in (cifar100, tiny_imagenet):
        assert values["loss_scale"] == pytest.approx(0.5 / 0.07)
    viewmaker = record(train_settings("cifar10", {"generated": "viewmaker"}))
    assert [viewmaker[name] for name in ("temperature", "alpha", "schedule")] == [0.07, 0.14, "constant"]


def test_cifar10_has_the_head_of_e_ssl():
    assert train_settings("cifar10").network.projector == "mlp-bn"
    assert train_settings("cifar10", {"assimilation": "A2-simsiam"}).network.projector == "mlp-bn"
    others = [train_settings("cifar100"), train_settings("cifar10", {"generated": "viewmaker"})]
    assert [settings.network.projector for settings in others] == ["objective", "objective"]


def test_a_scale_that_makes_up_for_simclrs_temperature_is_for_no_other_loss():
    scales = [
        train_settings("cifar100", {"assimilation": "none", "objective": name}).optimiser.loss_scale
        for name in ("simclr", "byol", "barlow-twins")
    ]
    assert scales == [pytest.approx(0.5 / 0.07), 1.0, 1.0]


def test_every_setting_can_be_given(tiny):
    given = {"alpha": 0.9, "expert.hue": 0.05, "channels_last": False, "epochs": 3}
    settings = train_settings(tiny.name, given)
    assert (settings.assimilation.alpha, settings.expert.hue) == (0.9, 0.05)
    assert (settings.network.channels_last, settings.optimiser.epochs) == (False, 3)
    assert read_record(json.loads(json.dumps(record(settings)))) == settings
    assert train_settings(tiny.name, {"expert": {"hue": 0.2}}).expert.hue == 0.2


def test_names_of_places_and_tables_are_the_flat_names(tiny):
    flat = {"objective": "supcon", "temperature": 0.2, "full_anchors": "expert", "learning_rate": 0.1}
    dotted = {"objective.name": "supcon", "objective.temperature": 0.2, "objective.anchors": "expert",
              "optimiser.learning_rate": 0.1}  # fmt: skip
    tables = {"objective": {"name": "supcon", "temperature": 0.2, "anchors": "expert"},
              "optimiser": {"learning_rate": 0.1}}  # fmt: skip
    found = [train_settings(tiny.name, given) for given in (flat, dotted, tables)]
    assert found[0] == found[1] == found[2]
    assert found[0].objective.settings.anchors == "expert"
    with pytest.raises(UsageError, match=r"temperature is 0.3 and was given as 0.2 too|given as"):
        train_settings(tiny.name, {"temperature": 0.2, "objective.temperature": 0.3})


@pytest.mark.parametrize("given", [{}, {"assimilation": "A1", "objective": "supcon"},
                                   {"assimilation": "none"},
                                   {"generated": "viewmaker", "viewmaker_budget": 0.1}])  # fmt: skip
def test_effective_settings_give_the_same_training(given):
    settings = train_settings("digits", given)
    assert train_settings("digits", effective_settings(settings)) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alhpa": 1.0}, "no setting 'alhpa'; did you mean 'alpha'"),
        ({"expert.hew": 1.0}, "no setting 'hew'; did you mean 'hue'"),
        ({"optimizer.momentum": 0.5}, "no setting 'optimizer.momentum'; did you mean 'optimiser'"),
        ({"assimilation": "A3"}, "assimilation is 'A3'.*none, A1, A2"),
        ({"objective": "simclear"}, "no objective 'simclear'; did you mean 'simclr'"),
        ({"generated": "wsurch"}, "no view method 'wsurch'"),
        ({"temperature": 0.0}, "temperature is 0.0; expected greater than 0"),
        ({"channels_last": 1}, "channels_last is 1; expected a valid boolean"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"alpha": "much"}, "alpha is 'much'"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assimilation": "A2", "loss": "simsiam"}, "loss is 'simsiam'.*--objective simsiam"),
        ({"assimilation": "A2-full", "objective": "simclr"}, "objective is 'simclr'.*A2 over 'supcon'"),
        ({"assimilation": "A1", "loss": "simclr", "objective": "infonce"}, "give one of them"),
        ({"assimilation": "none", "alpha": 0.1}, "alpha is 0.1, which assimilation 'none'"),
        ({"assimilation": "A2-full", "alpha": 0.1}, "alpha is 0.1.*supcon"),
        ({"assimilation": "none", "views_per_step": 2}, "views_per_step is 2"),
        ({"assimilation": "A2-simsiam", "temperature": 0.1}, "temperature is a setting of simclr, infonce"),
        ({"full_anchors": "expert"}, "full_anchors is a setting of supcon"),
        ({"assimilation": "A1", "objective": "supcon", "full_anchors": "all"}, "anchors is 'all'"),
        ({"sigma": 0.1}, "sigma is a setting of wperturb"),
        ({"generated": "wperturb", "online_step": 0.1}, "online_step is a setting of online"),
        ({"views.budget": 0.1}, "budget is a setting of viewmaker"),
        ({"viewmaker_budget": 0.1, "generated": "online"}, "viewmaker_budget is a setting of viewmaker"),
        ({"expert.jitter_probability": 0.0, "expert.hue": 0.1}, "hue is given and has no effect"),
        ({"generated": "expert", "branches": "shared"}, "branches is 'shared', a setting for views of"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", settings)


def test_recipe_values_without_effect_are_none_of_the_users_business():
    settings = train_settings("cifar10", {"assimilation": "A2-simsiam"})
    assert settings.dormant["temperature"] == 0.5
    assert settings.dormant["loss"] == "infonce"


def test_options_that_would_be_ignored_are_refused(plan_of, tiny_cache, tiny, tiny_root):
    expert = {"assimilation": "none"}
    with pytest.raises(UsageError, match="--cache is given, but the views come from 'expert'"):
        plan_of(dataset=tiny.name, cache=tiny_cache, settings=expert)
    with pytest.raises(UsageError, match="--models is given"):
        plan_of(cache=tiny_cache, models="x")
    with pytest.raises(UsageError, match="Name a data set with --dataset"):
        plan_of(settings=expert)
    with pytest.raises(UsageError, match="batch_size is 22, and there are 21 images"):
        plan_of(cache=tiny_cache, settings={"batch_size": 22})
    with pytest.raises(UsageError, match="batch_size is 8, which 3 workers cannot share equally"):
        train(cache=tiny_cache, workers=3, settings=SMALL, data_root=tiny_root, quiet=True)
    with pytest.raises(UsageError, match=r"--gpus and --workers"):
        train(tiny.name, gpus=1, workers=1)


def test_the_learning_rate_rises_and_follows_a_cosine():
    config = train_settings("digits", {"learning_rate": 1.0, "epochs": 10, "warm_up_epochs": 2.0}).optimiser
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert rates[20] == 1
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    constant = train_settings("digits", {"learning_rate": 1.0, "epochs": 2, "schedule": "constant"}).optimiser
    # the warm-up of a short training is cut to its half
    assert [learning_rate(constant, step, 4) for step in range(4)] == [0.5, 1, 1, 1]


def test_the_viewmakers_width_is_used_and_recorded_where_it_differs():
    import torch

    from viewgen.views.viewmaker import ViewmakerSource

    chosen = train_settings("digits", {"generated": "viewmaker", "views.width": 4})
    source = ViewmakerSource(chosen.views.settings, torch.device("cpu"), lambda _: None)
    assert source.viewmaker.config.width == 4
    assert read_record(record(chosen)) == chosen
    usual = train_settings("digits", {"generated": "viewmaker", "views.width": 32})
    # at the width of 0.1.0 the record is its own
    assert record(usual) == record(train_settings("digits", {"generated": "viewmaker"}))
    assert "format" not in record(usual)
