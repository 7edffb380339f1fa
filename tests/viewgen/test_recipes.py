"""Recipes: values override value by value, and every name in the table is a setting."""

import tomllib
from importlib import resources

import pytest

from viewgen.datasets import list_datasets
from viewgen.recipes import recipe
from viewgen.settings import Settings
from viewgen.views import VIEWS
from viewgen_pretrained.encoder import EncoderTrainingConfig
from viewgen_pretrained.generator import GeneratorTrainingConfig
from viewgen_pretrained.inverter import InverterTrainingConfig
from viewgen_train.config import TrainConfig

TABLE = tomllib.loads(resources.files("viewgen").joinpath("recipes.toml").read_text("utf-8"))
CONFIGS: dict[str, type] = {name: VIEWS.entry(name).settings for name in VIEWS.built_in} | {
    "encoder": EncoderTrainingConfig,
    "generator": GeneratorTrainingConfig,
    "inverter": InverterTrainingConfig,
    "train": TrainConfig,
    "train-viewmaker": TrainConfig,
}


def test_a_data_sets_values_lie_over_the_defaults():
    assert recipe("cifar100", "encoder") == TABLE["default"]["encoder"] | TABLE["cifar100"]["encoder"]
    assert recipe("cifar100", "encoder")["backbone"] == "resnet50"
    assert recipe("cifar10", "encoder")["backbone"] == "resnet18"
    assert recipe("unheard-of", "encoder") == TABLE["default"]["encoder"]
    assert recipe("digits", "no such section") == {}


def test_what_follows_a_colon_does_not_matter():
    assert recipe("digits:anything", "encoder") == recipe("digits", "encoder")
    assert recipe("folder:/data/digits", "encoder") == TABLE["default"]["encoder"]


@pytest.mark.parametrize(
    ("dataset", "section"), [(dataset, section) for dataset in TABLE for section in TABLE[dataset]]
)
def test_every_entry_makes_a_configuration(dataset, section, tmp_path):
    known = {info.name.split(":")[0] for info in list_datasets(tmp_path)}
    assert dataset in known | {"default"}
    if section not in CONFIGS:
        pytest.skip("a section of another package")
    kind = CONFIGS[section]
    fields = kind.model_fields if issubclass(kind, Settings) else kind.__dataclass_fields__
    assert set(TABLE[dataset][section]) <= set(fields)
    CONFIGS[section](**recipe(dataset, section))
