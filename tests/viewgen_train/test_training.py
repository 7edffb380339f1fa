"""`train` and `viewgen train`: which cache is taken or refused, settings, and what comes out."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from viewgen.cli import cli
from viewgen.errors import (
    CacheMismatchError,
    CorruptDataError,
    IncompleteError,
    LeaseError,
    MissingFileError,
    UsageError,
    ViewgenError,
)
from viewgen.store import CacheReader, open_storage, read_spec
from viewgen_train.caches import check_cache, find_cache
from viewgen_train.cost import estimate
from viewgen_train.dry_run import describe
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.records import read_record, record
from viewgen_train.resolve import effective_settings, train_settings
from viewgen_train.run import open_run
from viewgen_train.trainer import learning_rate
from viewgen_train.training import train

pytestmark = pytest.mark.usefixtures("_no_pictures")
SMALL = {"width": 2, "projection_dim": 4, "batch_size": 8, "epochs": 1, "warm_up_epochs": 0.0}


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of caches, empty."""
    folder = tmp_path / "caches"
    monkeypatch.setenv("VIEWGEN_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def plan_of(tiny_root: str) -> Callable[..., Any]:
    """Return a function (options) → (plan, what was said)."""

    def make(**options: Any) -> Any:
        defaults: dict[str, Any] = dict.fromkeys(
            ("dataset", "limit", "cache", "inversions", "generator", "models", "out", "memory_bytes")
        )
        defaults |= {"split": "train", "data_root": tiny_root, "storage_options": {}, "device": "cpu"}
        said: list[str] = []
        settings = SMALL | options.pop("settings", {})
        plan = make_plan(TrainOptions(**(defaults | options | {"settings": settings})), said.append)
        return plan, "\n".join(said)

    return make


# the cache


def aged(url: str, seconds: float) -> str:
    for name in ("commits", "zarr.json"):
        os.utime(Path(url) / name, (time.time() - seconds,) * 2)
    return url


def test_the_complete_cache_that_changed_last_is_taken(tiny, cache_of, caches, plan_of):
    old = aged(cache_of(tiny, url=f"{caches}/old.zarr"), 100)
    new = aged(cache_of(tiny, url=f"{caches}/new.zarr", method="wperturb"), 50)
    cache_of(tiny, url=f"{caches}/inversions.zarr", method="invert", num_views=1)
    broken = cache_of(tiny, url=f"{caches}/unfinished.zarr")
    open_storage(broken).delete_tree("commits")
    (caches / "half.zarr").mkdir()
    plan, said = plan_of()
    assert plan.cache == {"url": new, "identity": read_spec(open_storage(new)).identity, "method": "wperturb"}
    assert f"views from {new}" in said
    assert plan.dataset == tiny.name
    assert Path(plan.out).name.endswith("-A2-wperturb-seed0")
    aged(old, 10)
    assert plan_of(dataset=tiny.name)[0].cache["url"] == old
    assert plan_of(cache=new)[0].cache["url"] == new


def test_without_a_cache_the_command_that_makes_one_is_named(plan_of, caches, tiny, cache_of):
    with pytest.raises(MissingFileError, match=r"viewgen cache --dataset cifar100 --method wsearch"):
        plan_of(dataset="cifar100")
    with pytest.raises(MissingFileError, match=r"viewgen cache --dataset cifar10 --method invert"):
        plan_of(dataset="cifar10", settings={"generated": "wperturb"})
    url = cache_of(tiny, url=f"{caches}/unfinished.zarr")
    open_storage(url).delete_tree("commits")
    with pytest.raises(IncompleteError, match=r"3 of 3 shards are missing.*viewgen cache"):
        plan_of()


def test_the_cache_of_the_embedded_data_set_is_made(plan_of, monkeypatch):
    class Made(Exception):  # noqa: N818
        pass

    def make(dataset: str, **options: Any) -> None:
        assert (dataset, options["method"]) == ("digits", "wsearch")
        raise Made

    monkeypatch.setattr("viewgen_pipelines.cache.cache", make)
    with pytest.raises(Made):
        plan_of()
    with pytest.raises(Made):
        plan_of(dataset="digits")


def test_a_cache_of_other_images_is_refused_with_what_differs(
    tiny, tiny_cache, cache_of, plan_of, tiny_folder
):
    with pytest.raises(
        CacheMismatchError, match=r"(?s)data set: the cache has folder.*digits.*image size"
    ) as error:
        plan_of(dataset="digits", cache=tiny_cache)
    assert error.value.exit_code == 3
    with pytest.raises(CacheMismatchError, match="split: the cache has train, the training test"):
        plan_of(cache=tiny_cache, split="test", settings={"batch_size": 4})
    changed = cache_of(tiny, about={"digest": "sha256:ff"})
    with pytest.raises(CacheMismatchError, match="content: the cache has sha256:ff") as error:
        plan_of(cache=changed)
    assert "data set:" not in str(error.value)
    with pytest.raises(CacheMismatchError, match="where inversions are needed"):
        plan_of(inversions=tiny_cache, settings={"generated": "online"})


def test_an_incomplete_cache_is_refused(tiny, cache_of, plan_of):
    url = cache_of(tiny)
    open_storage(url).delete("commits/00000001.json")
    with pytest.raises(IncompleteError, match="1 of 3 shards are missing") as error:
        plan_of(cache=url)
    assert error.value.exit_code == 4


def test_labels_in_another_order_are_refused(tiny, cache_of, plan_of):
    with pytest.raises(CorruptDataError, match="another image's index or label"):
        plan_of(cache=cache_of(tiny, labels=tiny.targets[::-1]))


def test_distances_that_are_not_finite_are_refused(tiny, tiny_cache, monkeypatch):
    reader = CacheReader(tiny_cache)
    array = reader.array

    def poisoned(name: str, rows: Any = None) -> Any:
        values = array(name, rows).copy()
        if name == "distance":
            values[7, 1] = np.nan
        return values

    monkeypatch.setattr(reader, "array", poisoned)
    with pytest.raises(CorruptDataError, match=r"distance is not finite in 1 rows, the first of them 7"):
        check_cache(reader, tiny, say=print)


def test_images_without_views_are_counted(tiny, cache_of, plan_of):
    status = np.ones(21)
    status[[2, 3, 20]] = 3
    plan, said = plan_of(cache=cache_of(tiny, status=status))
    assert "3 of 21 images have no view in the cache: an expert view takes its place" in said
    assert plan.num_images == 21


def test_a_cache_of_the_first_images_trains_on_those(tiny, cache_of, plan_of):
    url = cache_of(tiny, num_images=16)
    plan, said = plan_of(cache=url)
    assert plan.num_images == 16
    assert "covers the first 16 of 21 images" in said
    assert plan_of(cache=url, limit=10)[0].num_images == 10
    with pytest.raises(UsageError, match=r"--limit 17: there are 16 images in the cache \(of 21"):
        plan_of(cache=url, limit=17)


def test_caches_on_a_storage_without_times_must_be_named(tiny, cache_of):
    folder = f"memory://caches-{os.getpid()}"
    one = cache_of(tiny, url=f"{folder}/one.zarr")
    found = find_cache(None, "train", folder=folder)
    assert found is not None
    assert found.url == one
    cache_of(tiny, url=f"{folder}/two.zarr")
    with pytest.raises(UsageError, match="name one with --cache"):
        find_cache(None, "train", folder=folder)


# settings


def test_recipes_are_table_2():
    rows = {
        name: record(train_settings(name))
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


# the command


def test_the_command_trains_evaluates_and_says_so_in_json(tiny, tiny_cache, tiny_root, tmp_path, monkeypatch):
    def no_probe(run: str, **_: Any) -> dict[str, Any]:
        assert open_run(run).complete
        return {"top1": 0.5, "top1_sd": 0.1, "knn5_top1": 0.25}

    monkeypatch.setattr("viewgen_train.evaluate.evaluate", no_probe)
    out = tmp_path / "out"
    words = ["train", "--cache", tiny_cache, "--data-root", tiny_root, "--out", str(out), "--batch-size", "8"]
    words += ["--epochs", "2", "--set", "width=2", "--set", "projection_dim=4", "--seed", "4", "--json"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    keys = {"run", "epochs", "loss", "top1", "top1_sd", "knn5_top1", "images_per_second", "unconverged",
            "unconverged_used"}  # fmt: skip
    assert document.keys() == keys
    assert (document["run"], document["epochs"], document["top1"]) == (str(out), 2, 0.5)
    assert document["images_per_second"] > 0
    run = open_run(out)
    settings = run.settings
    assert (settings.seed, settings.optimiser.epochs, settings.assimilation.kind) == (4, 2, "A2")
    again = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert json.loads(again.stdout)["images_per_second"] is None
    with pytest.raises(CacheMismatchError, match="alpha"):
        CliRunner().invoke(cli, [*words, "--set", "alpha=0.1"], catch_exceptions=False)
    fresh = CliRunner().invoke(
        cli, [*words, "--set", "alpha=0.1", "--overwrite", "--no-evaluate"], catch_exceptions=False
    )
    assert open_run(out).settings.assimilation.alpha == 0.1
    with open(out / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LeaseError, match="another process trains"):
            CliRunner().invoke(cli, [*words, "--overwrite"], catch_exceptions=False)
    assert (out / "last.safetensors").exists()
    assert json.loads(fresh.stdout)["top1"] is None


def test_a_dry_run_needs_no_data(caches, tmp_path):
    words = [
        "train",
        "--dataset",
        "cifar100",
        "--assimilation",
        "A1",
        "--set",
        "width=2",
        "--set",
        "batch_size=4",
    ]
    words += ["--data-root", str(tmp_path / "nothing"), "--dry-run"]
    text = CliRunner().invoke(cli, words, catch_exceptions=False).stdout
    assert 'backbone = "resnet50"' in text
    assert "width = 2\n" in text
    assert "50000 images of 32 px, 12500 steps an epoch" in text
    assert "# measured on cpu with 4 images a step" in text
    description = json.loads(CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False).stdout)
    assert description["config"]["assimilation"] == "A1"
    cost = description["estimate"]
    images = 1200 * 50000
    assert cost["seconds"] == pytest.approx(images / cost["images_per_second"])
    assert not list(tmp_path.glob("runs*"))


def test_memory_of_a_step_is_counted(make_settings):
    settings = {"generated": "expert", "assimilation": "none", "batch_size": 4}
    small = estimate(make_settings(**settings), num_images=100, image_size=8, device="cpu")
    large = estimate(
        make_settings(**settings | {"batch_size": 400}), num_images=400, image_size=8, device="cpu"
    )
    found = make_settings()
    network = build_network(found, build_objective(found).head, 8, torch.device("cpu"))
    # weights, gradients and momentum in float32
    weights = 3 * 4 * sum(parameter.numel() for parameter in network.parameters())
    assert small.step_bytes > weights
    assert (large.step_bytes - weights) / (small.step_bytes - weights) == pytest.approx(100, rel=0.2)
    assert small.data_bytes == 100 * 3 * 64


def test_what_a_dry_run_names_must_be_there(tmp_path):
    there_is_no_gpu = torch.cuda.device_count() < 7
    wrong = {
        "--inversions": ("/nowhere", "no cache at /nowhere"),
        "--generator": ("/nope", "/nope"),
        "--gpus": ("7", "--gpus 7: this machine has" if there_is_no_gpu else "7 workers"),
    }
    words = ["train", "--dataset", "digits", "--generated", "online", "--set", "width=2", "--dry-run"]
    for option, (value, message) in wrong.items():
        with pytest.raises(ViewgenError, match=message):
            CliRunner().invoke(cli, [*words, option, value], catch_exceptions=False)
    everything = [word for option, (value, _) in wrong.items() for word in (option, value)]
    with pytest.raises(UsageError) as error:
        CliRunner().invoke(cli, [*words, *everything], catch_exceptions=False)
    assert all(message in str(error.value) for _, message in wrong.values())
    with pytest.raises(UsageError, match="--cache is given"):
        CliRunner().invoke(cli, [*words, "--cache", "x.zarr"], catch_exceptions=False)


def test_a_dry_run_prints_what_config_takes(tmp_path):
    words = ["train", "--dataset", "digits", "--assimilation", "A1", "--objective", "supcon", "--dry-run"]
    words += ["--set", "width=2", "--set", "batch_size=4", "--set", "expert.hue=0.1"]
    text = CliRunner().invoke(cli, words, catch_exceptions=False).stdout
    file = tmp_path / "settings.toml"
    file.write_text(text)
    again = ["train", "--dataset", "digits", "--config", str(file), "--dry-run"]
    second = CliRunner().invoke(cli, again, catch_exceptions=False).stdout
    tables = [[line for line in one.splitlines() if not line.startswith("# ")] for one in (text, second)]
    assert tables[0] == tables[1]
    assert "anchors" not in text


def test_help_needs_no_torch():
    code = (
        "import sys; import viewgen.cli.train, viewgen_train.resolve, viewgen_train.records; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_dry_run_takes_the_images_of_the_cache(tiny, cache_of, caches, tiny_root):
    url = cache_of(tiny, url=f"{caches}/first.zarr", num_images=16)
    description = describe(settings=SMALL, data_root=tiny_root)
    assert (description.cache, description.num_images, description.dataset) == (url, 16, tiny.name)


def test_a_run_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(MissingFileError, match="viewgen train"):
        open_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CorruptDataError, match="lacks cache, config, dataset, num_steps"):
        open_run(tmp_path)
    with pytest.raises(ViewgenError, match="expected 'last' or 'best'"):
        open_run(tmp_path, "first")  # type: ignore[arg-type]
