"""Combinations of expert operations in a training's settings and records."""

import pytest

from viewgen.errors import UsageError
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig
from viewgen_train.records import read_record, record
from viewgen_train.resolve import train_settings


def test_a_training_takes_a_combination_and_single_settings_over_it():
    given = {"assimilation": "none", "augment": "abde:0.25", "expert.hue": 0.0}
    settings = train_settings("digits", given)
    assert settings.expert == ExpertConfig(**{**expert_values("abde:0.25"), "hue": 0.0})
    assert read_record(record(settings)) == settings
    assert record(settings)["format"] == 2  # 0.1.0 had no blur
    with pytest.raises(UsageError, match="hue is given and has no effect"):
        train_settings("digits", {**given, "augment": "ab"})


def test_settings_of_the_first_version_keep_its_record():
    """A combination without later settings is written as 0.1.0 wrote it."""
    settings = train_settings("cifar100", {"assimilation": "none", "augment": "acde"})
    document = record(settings)
    assert "format" not in document
    assert set(document["expert"]) == set(ExpertConfig().record())
    assert read_record(document) == settings
