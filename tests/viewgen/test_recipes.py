"""Recipes: values override value by value, and every name in the table is a setting."""

import tomllib
from importlib import resources

import pytest

from viewgen.datasets import list_datasets
from viewgen.recipes import recipe
from viewgen.settings import Settings
from viewgen.views import VIEWS
from viewgen.views.expert import ExpertConfig
from viewgen_pretrained.settings import GeneratorTrainingConfig, InverterTrainingConfig
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.records import DEFAULTS, record
from viewgen_train.resolve import LATER_NETWORK_NAMES, train_settings

TABLE = tomllib.loads(resources.files("viewgen").joinpath("recipes.toml").read_text("utf-8"))
CONFIGS: dict[str, type[Settings]] = {
    **{name: VIEWS.entry(name).settings for name in VIEWS.built_in},
    **{name: OBJECTIVES.entry(name).settings for name in OBJECTIVES.built_in},
    "generator": GeneratorTrainingConfig,
    "inverter": InverterTrainingConfig,
    "expert": ExpertConfig,
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
    values = recipe(dataset, section)
    if section in ("train", "train-viewmaker", "encoder"):
        views = "viewmaker" if section == "train-viewmaker" else "auto"
        record(train_settings(dataset, {"generated": views}))
        assert values.keys() <= DEFAULTS.keys() | {"num_steps", *LATER_NETWORK_NAMES}
        return
    if section not in CONFIGS:
        pytest.skip("a section of another package")
    assert TABLE[dataset][section].keys() <= type(CONFIGS[section](**values)).model_fields.keys()
