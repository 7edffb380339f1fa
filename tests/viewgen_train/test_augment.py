"""Combinations of expert operations in a training's settings and records."""

import pytest

from viewgen.errors import UsageError
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig
from viewgen_train.records import read_record, record
from viewgen_train.resolve import effective_settings, train_settings
from viewgen_train.second_view import second_expert


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


def test_the_second_view_may_have_operations_of_its_own():
    given = {"assimilation": "none", "objective": "byol", "second.solarize_probability": 0.2}
    settings = train_settings("cifar10", given)
    other = second_expert(settings.expert, settings.second)
    assert (settings.expert.solarize_probability, other.solarize_probability) == (0.0, 0.2)
    assert other.replace(solarize_probability=0.0) == settings.expert
    assert read_record(record(settings)) == settings
    plain = train_settings("cifar10", {"assimilation": "none", "objective": "byol"})
    assert second_expert(plain.expert, plain.second) is None
    assert "second" not in record(plain)
    # what only the second view uses is no ignored setting
    both = train_settings("cifar10", given | {"expert.solarize_threshold": 0.7})
    assert effective_settings(both)["expert"]["solarize_threshold"] == 0.7
    assert train_settings("cifar10", effective_settings(both)) == both


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"assimilation": "A1"}, "the second view of A1 is a generated one"),
        ({"assimilation": "none", "objective": "cpc"}, "objective 'cpc' has one view"),
        ({"assimilation": "none", "generated": "cache"}, "generated_transform is 'weak-crop'"),
        ({"assimilation": "none", "generated": "color"}, "transformed alike"),
    ],
)
def test_a_second_view_without_the_expert_transform_is_refused(given, reason):
    with pytest.raises(UsageError, match=f"second.blur_probability is given and has no effect, .*{reason}"):
        train_settings("cifar10", given | {"second.blur_probability": 0.1})


def test_recipes_of_solo_learn_blur_and_solarise_as_it_does():
    """scripts/pretrain/cifar/augmentations: symmetric ones blur, asymmetric solarises view 2."""
    found = {}
    for name in ("simclr", "moco", "simsiam", "supcon", "byol", "nnclr", "barlow-twins", "vicreg"):
        settings = train_settings("cifar10", {"recipe": f"solo-learn-{name}"})
        views = settings.expert, second_expert(settings.expert, settings.second) or settings.expert
        found[name] = [(one.blur_probability, one.solarize_probability) for one in views]
    for name in ("simclr", "moco", "simsiam", "supcon"):
        assert found[name] == [(0.5, 0.0)] * 2
    for name in ("byol", "nnclr", "barlow-twins"):
        assert found[name] == [(0.0, 0.0), (0.0, 0.2)]
    assert found["vicreg"] == [(0.0, 0.1)] * 2
    # what a recipe says of the second view is of expert views
    a1 = train_settings("cifar10", {"recipe": "solo-learn-byol", "assimilation": "A1"})
    assert second_expert(a1.expert, a1.second) is None
    a2 = train_settings("cifar10", {"recipe": "solo-learn-byol", "assimilation": "A2"})
    assert a2.second.solarize_probability == 0.2
    other = train_settings("cifar10", {"recipe": "solo-learn-byol", "augment": "abcde"})
    assert second_expert(other.expert, other.second) is None


def test_what_the_second_view_alone_would_use_is_refused_where_there_is_none():
    given = {"recipe": "solo-learn-byol", "assimilation": "A1", "expert.solarize_threshold": 0.7}
    with pytest.raises(UsageError, match="solarize_threshold"):
        train_settings("cifar10", given)


def test_a_second_view_like_the_first_is_the_default():
    given = {"expert.blur_probability": 0.5, "assimilation": "none"}
    same = train_settings("cifar10", given | {"second.blur_probability": 0.5})
    assert record(same) == record(train_settings("cifar10", given))
