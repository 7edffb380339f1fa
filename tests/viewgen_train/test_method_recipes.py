"""Recipes of published trainings: all resolve, and name their number and source."""

import json
import re

import pytest

from viewgen.cli import main
from viewgen.errors import UsageError
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig
from viewgen_train import dry_run
from viewgen_train.cost import TrainEstimate
from viewgen_train.dry_run import describe
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.optimiser import learning_rate
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


@pytest.mark.parametrize("dataset", ["colorful-digits", "overlay", "colorful-digits:photos:p?labels=picture"])
def test_rcl_is_trained_as_published(dataset):
    """Li et al.'s Colorful-MNIST: 30 epochs of inpainting alone, then MoCo beside it; a rate of steps."""
    settings = train_settings(dataset, {"recipe": "rcl"})
    rebuilt, how = settings.reconstruction, settings.optimiser
    assert rebuilt.task == "inpainting"
    assert (rebuilt.reconstruction_weight, rebuilt.reconstruction_epochs) == (10, 30)
    assert (how.name, how.batch_size, how.epochs, how.weight_decay) == ("sgd", 512, 200, 1e-4)
    rates = [learning_rate(how, 100 * epoch, 20_000) for epoch in (0, 30, 149, 150, 174, 175, 199)]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001] * 2)
    assert (settings.objective.name, settings.objective.settings.temperature) == ("moco", 0.1)
    assert (settings.network.backbone, settings.network.projection_dim) == ("convnet6", 64)
    assert settings.expert.crop_scale == ((0.6, 1.0) if dataset == "overlay" else (0.2, 1.0))


@pytest.mark.parametrize(
    ("name", "dataset", "epochs", "warm_up", "sides"),
    [
        ("rcl-imagenet", "folder:ImageNet?size=224", 800, 10, (40, 80)),
        ("rcl-mpii", "mpii:people?size=256", 300, 10, (40, 80)),
        ("rcl-fairface", "fairface:faces?size=224", 1000, 30, (40, 80)),
    ],
)
def test_rcl_of_real_pictures_is_trained_as_published(name, dataset, epochs, warm_up, sides):
    """Li et al., appendix C: MoCo v2's training, inpainting alone in its first epochs."""
    settings = train_settings(dataset, {"recipe": name})
    rebuilt, how = settings.reconstruction, settings.optimiser
    assert (rebuilt.task, rebuilt.reconstruction_weight, rebuilt.mask_side) == ("inpainting", 10, sides)
    assert (rebuilt.reconstruction_epochs, how.epochs, how.batch_size) == (warm_up, epochs, 256)
    assert (how.name, how.learning_rate, how.weight_decay, how.schedule) == ("sgd", 0.03, 1e-4, "cosine")
    assert (settings.network.backbone, settings.network.projection_dim) == ("resnet50", 128)
    assert settings.network.projector_hidden == 2048
    moco, views = settings.objective.settings, settings.expert
    assert (moco.temperature, moco.queue_size, moco.target_momentum) == (0.2, 65_536, 0.999)
    assert (views.crop_scale, views.jitter_probability, views.grayscale_probability) == ((0.2, 1.0), 0.8, 0.2)
    assert (views.blur_probability, views.blur_sigma) == (0.5, (0.1, 2.0))


def test_ifm_is_trained_as_published():
    """Robinson et al.: MoCo v2 on ImageNet100 as in their repository, SimCLR as in their earlier one."""
    moco = train_settings("folder:ImageNet100?size=224", {"recipe": "ifm-moco"})
    key = moco.objective.settings
    assert (key.temperature, key.queue_size, key.target_momentum) == (0.2, 65_536, 0.99)
    assert (moco.optimiser.learning_rate, moco.optimiser.batch_size, moco.optimiser.epochs) == (0.8, 512, 200)
    simclr = train_settings("stl10", {"recipe": "ifm-simclr"})
    assert (simclr.objective.settings.temperature, simclr.optimiser.epochs) == (0.5, 400)
    assert simclr.expert.crop_scale == (0.08, 1.0)
    how = simclr.optimiser
    assert (how.name, how.batch_size, how.learning_rate, how.weight_decay) == ("adamw", 256, 1e-3, 1e-6)
    assert how.schedule == "constant"
    assert (simclr.network.projector_hidden, simclr.network.batchnorm) == (512, "separate")
    assert moco.expert.blur_probability == 0.5
    assert {one.negatives.ifm_epsilon for one in (moco, simclr)} == {0.1}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_huang_et_al_are_trained_as_published(dataset):
    """Their CIFAR protocol: five operations, SGD without a warm-up, 800 epochs of 512 images."""
    found = {
        name: train_settings(dataset, {"recipe": f"huang2023-{name}"})
        for name in ("simclr", "moco", "simsiam", "barlow-twins")
    }
    for name, settings in found.items():
        how = settings.optimiser
        assert settings.objective.name == name
        assert settings.expert == ExpertConfig(**expert_values("abcde"))
        assert (how.name, how.batch_size, how.epochs) == ("sgd", 512, 800)
        assert (how.momentum, how.weight_decay, how.warm_up_epochs) == (0.9, 5e-4, 0)
        assert settings.network.backbone == "resnet18"
    rates = {name: settings.optimiser.learning_rate for name, settings in found.items()}
    assert rates == {"simclr": 0.06, "moco": 0.08, "simsiam": 0.05, "barlow-twins": 1e-3}
    moco = found["moco"].objective.settings
    assert (moco.temperature, moco.queue_size, moco.target_momentum) == (0.1, 4096, 0.99)
    assert (moco.symmetric, moco.key_batchnorm, moco.key_groups) == (True, "shuffled", 8)
    assert found["simclr"].objective.settings.temperature == 0.5
    assert found["barlow-twins"].objective.settings.off_diagonal_weight == 5e-3
    widths = {name: settings.network.projection_dim for name, settings in found.items()}
    assert widths == {"simclr": 128, "moco": 128, "simsiam": 2048, "barlow-twins": 2048}


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
