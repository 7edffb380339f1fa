"""Recipes of published trainings: all resolve, and name their number and source."""

import json
import re

import pytest

from viewgen.cli import main
from viewgen.errors import UsageError
from viewgen_train import dry_run
from viewgen_train.cost import TrainEstimate
from viewgen_train.dry_run import describe
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.recipes import method_recipe, method_recipes
from viewgen_train.resolve import effective_settings, train_settings


@pytest.mark.parametrize("recipe", method_recipes(), ids=lambda recipe: f"{recipe.dataset}-{recipe.name}")
def test_every_recipe_is_a_training(recipe):
    settings = train_settings(recipe.dataset, {"recipe": recipe.name})
    assert settings.objective.name in OBJECTIVES.built_in
    assert settings.assimilation.kind == "none"
    assert train_settings(recipe.dataset, effective_settings(settings)) == settings
    assert "not run" in recipe.expected or "own run" in recipe.expected
    assert recipe.source


def test_published_numbers_are_of_every_method():
    found = {(recipe.dataset, recipe.name): recipe.expected for recipe in method_recipes()}
    assert found["cifar10", "solo-learn-byol"] == "92.58 % linear, published by solo-learn; not run"
    assert found["cifar100", "solo-learn-moco"].startswith("69.89 %")
    for method in ("simclr", "moco", "byol", "nnclr", "simsiam", "barlow-twins", "vicreg", "supcon"):
        assert {("cifar10", f"solo-learn-{method}"), ("cifar100", f"solo-learn-{method}")} <= found.keys()


def test_infomin_is_trained_as_published():
    """PyContrast's MoCo with a jigsaw branch, except for the size of the images."""
    settings = train_settings("cifar10", {"recipe": "infomin"})
    moco, how = settings.objective.settings, settings.optimiser
    assert (moco.temperature, moco.jigsaw_weight, moco.jigsaw_grid) == (0.15, 0.5, 3)
    assert (moco.queue_size, moco.target_momentum) == (65_536, 0.999)
    assert (how.batch_size, how.learning_rate, how.weight_decay, how.schedule) == (256, 0.03, 1e-4, "cosine")
    assert how.learning_rate_floor == 0.001, "the cosine ends at the rate times 0.1³"
    assert (settings.network.projector_hidden, settings.network.projection_dim) == (2048, 128)


def test_given_values_come_before_the_recipe():
    settings = train_settings("cifar100", {"recipe": "solo-learn-byol", "learning_rate": 0.7, "epochs": 3})
    assert (settings.optimiser.name, settings.optimiser.learning_rate, settings.optimiser.epochs) == (
        "lars",
        0.7,
        3,
    )
    assert settings.network.backbone == "resnet18"
    assert settings.network.predictor_hidden == 4096
    a2 = train_settings("cifar10", {"recipe": "solo-learn-byol", "assimilation": "A2", "alpha": 0.3})
    assert (a2.assimilation.kind, a2.assimilation.alpha) == ("A2", 0.3)


def test_a_dry_run_shows_the_number(monkeypatch):
    cost = TrainEstimate(seconds=1, images_per_second=1, step_bytes=1, data_bytes=1, measured_batch=1,
                         device="cpu", without="")  # fmt: skip
    monkeypatch.setattr(dry_run, "estimate", lambda *_, **__: cost)
    found = describe("cifar10", device="cpu", settings={"recipe": "solo-learn-moco"})
    text = "\n".join(found.lines())
    assert "# expected: 92.94 % linear, published by solo-learn; not run" in text
    assert "# source: github.com/vturrisi/solo-learn" in text
    assert "# differs: one queue" in text
    assert found.to_json()["recipe"]["name"] == "solo-learn-moco"
    assert "queue_size = 32768" in text
    assert "predictor_hidden" not in text


def test_recipes_are_listed(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ending:
            main(["list", "recipes", *words])
        assert not ending.value.code
        return capsys.readouterr().out

    text = run()
    assert re.search(r"^cifar10 solo-learn-moco\n +MoCo v2\+.*\n +expected: 92\.94 %", text, re.MULTILINE)
    rows = json.loads(run("--json"))["recipes"]
    assert [row["name"] for row in rows] == [recipe.name for recipe in method_recipes()]


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        ("cifar10", "solo-learn-mocco", "no recipe 'solo-learn-mocco'; did you mean 'solo-learn-moco'"),
        ("digits", "solo-learn-moco", "recipe 'solo-learn-moco' is for cifar10, cifar100, not for digits"),
        ("", "quick-moco", "is for digits, fashion-mnist, trifeature, and no data set is named"),
    ],
)
def test_a_recipe_of_something_else_is_refused(dataset, name, message):
    with pytest.raises(UsageError, match=message):
        method_recipe(name, dataset)
    with pytest.raises(UsageError, match=message):
        train_settings(dataset, {"recipe": name})
