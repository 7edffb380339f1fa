"""Every Python snippet of the documentation runs, and viewgen takes every viewgen command in it."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from viewgen.datasets import DATASETS
from viewgen.diagnostics import mutual_information
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views import VIEWS
from viewgen_pipelines.cache import cache

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# other tests run these pages' snippets, with the commands around them or in a process of their own
ELSEWHERE = {"generator.md", "s3.md", "ray-data.md", "stable-pretraining.md"}
# libraries that a page's snippets need besides ours
LIBRARIES = {"libraries.md": ("lightly", "pytorch_lightning")}


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[list[str]]:
    """Return the viewgen command lines in a page's console blocks, without `viewgen`."""
    found = []
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            quoted = [shlex.split(word)[1:] for word in words if word.startswith("viewgen ")]
            found += quoted
            if words[:1] in (["viewgen"], [".venv/bin/viewgen"], ["docker/bin/submit"]):
                found.append(words[1:])
            elif "job" in words and words[0] == "docker" and words[-1] != "job":
                found.append(words[words.index("job") + 1 :])
    return found


@pytest.fixture(scope="module")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    cache(
        "digits", method="expert", views=2, limit=48, shard_images=16, executor="local", quiet=True,
        out=str(folder / "views.zarr"),
    )  # fmt: skip
    return folder / "views.zarr"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and page.name not in ELSEWHERE],
    ids=name_of,
)
def test_python_snippets_run(page, digits_cache, tmp_path, monkeypatch, no_flushing):
    for library in LIBRARIES.get(page.name, ()):
        pytest.importorskip(library)
    if page.name in LIBRARIES:
        warnings.simplefilter("ignore")  # what those libraries warn of
        import_torchvision("ops")
    monkeypatch.chdir(tmp_path)
    # an estimate of twelve updates in the place of hundreds
    estimate = mutual_information.estimate_mutual_information
    monkeypatch.setattr(
        mutual_information,
        "estimate_mutual_information",
        lambda pairs, config, **more: estimate(pairs, config.replace(num_steps=12, num_checks=2), **more),
    )
    (tmp_path / "views.zarr").symlink_to(digits_cache)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/digits-train-wsearch.zarr").symlink_to(digits_cache)
    encoder = Encoder(EncoderConfig(image_size=32, width=8, projection_dim=16))
    save_model(encoder, tmp_path / "runs/a2/last.safetensors")
    monkeypatch.setattr(DATASETS, "_registered", {})
    monkeypatch.setattr(VIEWS, "_registered", {})
    namespace = {"__name__": "__main__"}
    for snippet in blocks(page, "python"):
        exec(compile(snippet, name_of(page), "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_are_commands(page, check_command):
    for words in commands(page):
        check_command(words)


def test_other_files_that_pages_name_exist():
    for page in PAGES:
        for path in re.findall(
            r"(?<![\w/])((?:docs|docker|benchmarks|tests)/[\w./-]+\w)", page.read_text("utf-8")
        ):
            assert (ROOT / path).exists(), f"{name_of(page)} names {path}"


def test_a_wrong_command_is_noticed(check_command):
    with pytest.raises(click.UsageError):
        check_command(["cache", "--dataset", "digits", "--epsilon", "0.3"])
    with pytest.raises(click.UsageError):
        check_command(["generate"])


def test_the_tutorials_table(tmp_path):
    for name, top1, knn in (("none", 0.97, 0.96), ("none-seed1", 0.98, 0.96), ("A2", 0.98125, 0.9667)):
        (tmp_path / name).mkdir()
        document = {"top1": top1, "top1_sd": 0.0012, "knn5_top1": knn}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(document))
    (tmp_path / "A2-seed1").mkdir()  # a training that has not ended
    found = subprocess.run(
        [sys.executable, ROOT / "docs/scripts/table.py", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[2:] == [
        "| none | 2 | 97.50 ± 0.71 | 96.00 ± 0.00 |",  # over the trainings: |97 - 98| / √2
        "| A2 | 1 | 98.12 ± 0.12 | 96.67 |",  # over the probe's seeds
    ]
    assert "A2-seed1 has no evaluation.json" in found.stderr


@pytest.fixture
def run_cost(monkeypatch, capsys) -> Callable[..., dict[str, float]]:
    """Return a function that runs docs/scripts/cost.py, in this process, and returns what it printed."""

    def run(*options: object) -> dict[str, float]:
        monkeypatch.setattr(sys, "argv", ["cost.py", *map(str, options)])
        runpy.run_path(str(ROOT / "docs/scripts/cost.py"), run_name="__main__")
        return json.loads(capsys.readouterr().out)

    return run


def test_the_cost_of_a_cache(run_cost, digits_cache):
    """Storage exactly, work from FLOPs, and the seconds of a finished cache."""
    cost = run_cost("--dataset", "digits", "--images", 50_000, "--cache", digits_cache)
    assert cost["cache_gb"] == pytest.approx(50_000 * 8 * 3 * 32 * 32 / 1e9, rel=1e-3)
    assert cost["shards"] == 98
    assert cost["measured_updates_per_image"] == 0, "expert views need no updates"
    assert cost["measured_worker_seconds_per_view"] > 0
    gflop = 13.2 * cost["computed_gflop_per_pass"]
    assert cost["computed_gpu_hours"] * 3600 * 1e14 == pytest.approx(50_000 * 8 * gflop * 1e9, rel=1e-2)


def test_the_cost_of_networks_whose_flops_are_known(run_cost):
    """ResNet18 takes 0.557 G multiplications at 32 px, and three times that to train."""
    cost = run_cost("--dataset", "cifar10", "--images", 1, "--epochs", 1)
    training_flop = cost["computed_training_gpu_hours"] * 3600 * 1e14
    assert training_flop == pytest.approx(3 * 3 * 2 * 0.557e9, rel=0.02)
