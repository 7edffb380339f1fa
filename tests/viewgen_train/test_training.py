"""`viewgen train`: what comes out, and what a dry run tells."""

import fcntl
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from viewgen.cli import cli
from viewgen.errors import (
    CacheMismatchError,
    CorruptDataError,
    LeaseError,
    MissingFileError,
    UsageError,
    ViewgenError,
)
from viewgen_train.cost import estimate
from viewgen_train.dry_run import describe
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.run import open_run

pytestmark = pytest.mark.usefixtures("_no_pictures", "caches")
SMALL = {"width": 2, "projection_dim": 4, "batch_size": 8, "epochs": 1, "warm_up_epochs": 0.0}


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
        "import sys; import viewgen.cli.train, viewgen_train.resolve, viewgen_train.records\n"
        "import viewgen.opening\n"
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


def test_a_dry_run_says_where_the_views_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIEWGEN_CACHE", str(tmp_path / "caches"))
    lines = describe("cifar100", device="cpu").lines()
    assert lines[1].startswith("# views: none is there; first ")
    assert lines[1].endswith("cache --dataset cifar100")
    assert (
        describe("digits", device="cpu")
        .lines()[1]
        .startswith("# views: a cache that the training makes first")
    )
    alone = describe("digits", device="cpu", settings={"assimilation": "none"}).lines()
    assert alone[1] == "# views: expert"


@pytest.mark.parametrize(
    ("given", "message"),
    [({"augment": "abcde"}, "c drops the colour"), ({"reconstruction": "colorization"}, "are grey")],
)
def test_a_dry_run_refuses_what_needs_colour(given, message):
    with pytest.raises(UsageError, match=message):
        describe("digits", device="cpu", settings={"assimilation": "none", **given})
    # of images that are not there nothing is known
    describe("cifar10", device="cpu", data_root="/nowhere", settings={"assimilation": "none", **given})
