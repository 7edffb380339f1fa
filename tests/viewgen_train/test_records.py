"""Records of a training's settings: what 0.1.0 wrote stays valid, and later settings change nothing."""

import json
from pathlib import Path

import pytest

from viewgen.errors import CacheMismatchError, CorruptDataError
from viewgen.settings import Settings, setting
from viewgen_train import settings as parts
from viewgen_train.records import DEFAULTS, assimilation_name, nested_record, read_record, record
from viewgen_train.resolve import train_settings
from viewgen_train.run import open_run
from viewgen_train.worker import train_worker

# what version 0.1.0 wrote for `viewgen train --dataset cifar10 --assimilation A2-simsiam --generated online`
OF_0_1_0 = """{"assimilation": "A2-simsiam", "generated": "online", "views_per_step": 1,
"generated_transform": "flip", "loss": "infonce", "temperature": 0.5, "alpha": 0.5, "loss_scale": 1.0,
"full_anchors": "all", "backbone": "resnet18", "width": 64, "projection_dim": 2048, "batch_size": 128,
"epochs": 800, "learning_rate": 0.015, "momentum": 0.9, "weight_decay": 5e-05, "schedule": "cosine",
"warm_up_epochs": 10.0, "gradient_clip": 0.0, "precision": "auto", "channels_last": true,
"batchnorm": "separate", "expert": {"crop_scale": [0.2, 1.0], "crop_ratio": [0.75, 1.3333333333333333],
"flip_probability": 0.5, "jitter_probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4,
"hue": 0.1, "grayscale_probability": 0.2}, "sigma": 0.2, "online_step": 0.1, "epsilon_boundary": 0.3,
"viewmaker_budget": 0.05, "viewmaker_learning_rate": 0.001, "knn_every": 10, "probe_every": 0, "seed": 0}"""


def test_a_record_of_0_1_0_is_written_again_byte_for_byte():
    # it had the objective's own projector alone
    given = {"assimilation": "A2-simsiam", "generated": "online", "projector": "objective"}
    settings = train_settings("cifar10", given)
    assert json.dumps(record(settings)) == json.dumps(json.loads(OF_0_1_0))
    assert read_record(json.loads(OF_0_1_0)) == settings


@pytest.mark.parametrize(
    "given",
    [
        {"assimilation": assimilation, **more}
        for assimilation in ("none", "A1", "A2", "A2-simclr", "A2-full", "A2-simsiam")
        for more in ({}, {"generated": "viewmaker", "viewmaker_budget": 0.1}, {"generated": "expert"})
    ]
    + [
        {"assimilation": "A1", "objective": "simsiam"},
        {"generated": "wperturb", "sigma": 0.4, "truncation": 1.0},
    ],
)
def test_what_0_1_0_knew_is_recorded_as_it_did(given):
    settings = train_settings("digits", given)
    document = record(settings)
    assert tuple(document) == tuple(DEFAULTS)
    assert assimilation_name(settings) == document["assimilation"] == given.get("assimilation", "A2")
    again = read_record(json.loads(json.dumps(document)))
    assert again == settings
    assert record(again) == document


@pytest.mark.parametrize(
    "given",
    [
        {"assimilation": "A1", "objective": "supcon"},
        {"assimilation": "none", "num_steps": 7},
        {"generated": "wsearch", "views.max_steps": 3},
    ],
)
def test_anything_newer_has_format_2(given):
    settings = train_settings("digits", given)
    document = record(settings)
    assert document["format"] == 2
    assert read_record(json.loads(json.dumps(document))) == settings


def test_a_later_setting_at_its_default_changes_no_record(monkeypatch):
    settings = train_settings("digits", {"assimilation": "A1", "objective": "supcon"})
    before = record(settings)

    class Later(parts.OptimiserSettings):
        nesterov: bool = setting(False, "Nesterov's momentum", since=3)

    monkeypatch.setitem(parts.COMPONENTS, "optimiser", Later)
    later = read_record(before)
    assert isinstance(later.optimiser, Later)
    assert record(later) == before
    assert record(later.change("optimiser", nesterov=True)) != before


@pytest.mark.parametrize(
    "damage",
    [{"assimilation": "A7"}, {"generated": "dreams"}, {"width": "wide"}, {"more": 1}, {"expert": 3}],
)
def test_a_damaged_record_is_refused(damage):
    with pytest.raises(CorruptDataError):
        read_record(json.loads(OF_0_1_0) | damage)


def test_a_refused_run_shows_what_differs(make_tiny_plan):
    plan = make_tiny_plan()
    train_worker(plan, "cpu", stop_after=1)
    with pytest.raises(CacheMismatchError) as error:
        train_worker(make_tiny_plan(alpha=0.9, **{"expert.hue": 0.3}), "cpu")
    assert error.value.exit_code == 3
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [
        "  config.alpha: there 0.5, asked 0.9",
        "  config.expert.hue: there 0.1, asked 0.3",
    ]
    # of two formats, the fields of the later
    with pytest.raises(CacheMismatchError) as error:
        train_worker(make_tiny_plan(assimilation="A1", objective="supcon"), "cpu")
    assert "config.objective.name: there 'infonce', asked 'supcon'" in str(error.value)
    assert "config.optimiser" not in str(error.value)


def test_a_run_of_format_2_opens(make_tiny_plan):
    plan = make_tiny_plan(assimilation="A1", objective="supcon")
    train_worker(plan, "cpu")
    run = open_run(Path(plan.out))
    assert run.settings == plan.settings
    assert json.loads((Path(plan.out) / "config.json").read_text())["format"] == 2
    assert nested_record(run.settings) == record(plan.settings)


def test_components_have_descriptions():
    for cls in parts.COMPONENTS.values():
        assert issubclass(cls, Settings)
        assert all(field.description for field in cls.model_fields.values())
