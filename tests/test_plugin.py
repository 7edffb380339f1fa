"""An installed package adds one of each kind by entry points: no import by the user, one file for each."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from viewgen.store import CacheReader, verify_cache

FOLDER = Path(__file__).parent / "plugin"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text("utf-8"))["project"]
ADDED = {
    "views": "blocks",
    "objectives": "margin",
    "diagnostics": "contrast",
    "datasets": "stripes",
    "generators": "linear",
}
SETTINGS = {
    "blocks": "count",
    "margin": "margin",
    "contrast": "num_images",
    "stripes": "size",
    "linear": "code_dim",
}
WEIGHTS = """
import torch
from plugin_generators import Linear, LinearConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
torch.manual_seed(0)
save_model(Linear(LinearConfig(code_dim=7)), FOLDER + "/generator.safetensors")
encoder = Encoder(EncoderConfig(image_size=32, width=8, projection_dim=16))
save_model(encoder, FOLDER + "/encoder.safetensors")
"""

# a line of JSON with a command's words, or with Python, comes in; one with exit code and output goes out
COMMANDS = """
import contextlib, io, json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from viewgen.cli import main
for line in sys.stdin:
    asked, code, out, err = json.loads(line), 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(asked, {}) if isinstance(asked, str) else main(asked)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


class Output(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


Run = Callable[..., Output]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for path in FOLDER.iterdir():
        if path.is_file():  # building writes beside the sources
            (source / path.name).write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--target", str(target), str(source)], check=True, timeout=300)
    return target


@pytest.fixture(scope="module")
def environment(installed: Path) -> dict[str, str]:
    """The environment of processes in which the package is installed, and which join Ray sessions here."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    ray = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return os.environ | ray | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100"}


@pytest.fixture(scope="module")
def viewgen(environment: dict[str, str]) -> Iterator[Run]:
    """Return a function that runs the command line, or Python, there: one process for all."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*words: str | Path, code: int = 0, python: str = "") -> Output:
        process.stdin.write(json.dumps(python or [str(word) for word in words]) + "\n")
        process.stdin.flush()
        found, stdout, stderr = json.loads(process.stdout.readline())
        assert found == code, stderr
        return Output(stdout, stderr)

    yield run
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=60)


@pytest.mark.parametrize("noun", ADDED)
def test_names_are_listed_with_their_package(viewgen, noun):
    rows = {row["name"]: row for row in json.loads(viewgen("list", noun, "--json").stdout)[noun]}
    assert rows[ADDED[noun]]["origin"] == PROJECT["name"]
    assert all(row["origin"] == "built-in" for name, row in rows.items() if name != ADDED[noun])


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_listed(viewgen, name):
    # an objective has the name of the plug-in's generator
    of = ("--of", "generators") if name == "linear" else ()
    schema = json.loads(viewgen("list", "settings", name, *of, "--json").stdout)
    assert schema["properties"][SETTINGS[name]]["description"]


CACHE = ("cache", "--dataset", "stripes:16", "--method", "blocks", "--views", "3")


def check(url: str) -> None:
    assert verify_cache(url).ok
    reader = CacheReader(url)
    assert reader.spec.dataset["name"] == "stripes:16"
    assert (reader.spec.method, reader.spec.config) == ("blocks", {"count": 4})
    assert reader.array("moved").shape == (48, 3)
    assert 10 < reader.array("moved").mean() < 16


def test_a_cache_of_its_data_set_by_its_method(viewgen, tmp_path):
    url = str(tmp_path / "blocks.zarr")
    viewgen(*CACHE, "--out", url, "--set", "count=4", "--executor", "local")
    check(url)
    viewgen(*CACHE, "--out", url, "--set", "count=2", "--executor", "local", code=3)


@pytest.fixture
def cluster(shared_ray: None, ray_site: Path, installed: Path) -> Iterator[str]:
    """The address of a Ray session whose workers have the package."""
    import ray

    shutil.copytree(installed, ray_site, dirs_exist_ok=True)
    yield ray.get_runtime_context().gcs_address
    shutil.rmtree(ray_site)
    ray_site.mkdir()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own code warns
def test_the_same_on_ray(viewgen, cluster, tmp_path):
    url = str(tmp_path / "blocks.zarr")
    viewgen(*CACHE, "--out", url, "--set", "count=4", "--workers", "1", "--ray-address", cluster)
    check(url)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "count=1"), "blocks: count is 1; expected greater than or equal to 2"),
        (("--set", "sigma=1"), "sigma is a setting of wperturb, frequency; view method 'blocks' ignores it"),
        (("--set", "cuont=4"), "no setting 'cuont'; did you mean 'count'"),
    ],
)
def test_its_settings_are_checked_before_anything_is_made(viewgen, tmp_path, words, message):
    done = viewgen("cache", "--dataset", "stripes", "--method", "blocks", *words, "--dry-run", code=2)
    assert message in done.stderr


def test_its_generator_goes_from_weights_to_views(viewgen, tmp_path):
    viewgen(python=f"FOLDER = {str(tmp_path)!r}\n{WEIGHTS}")
    url = tmp_path / "p.zarr"
    networks = (f"--{kind}={tmp_path}/{kind}.safetensors" for kind in ("generator", "encoder"))
    few = ("--limit", "6", "--views", "2", "--set", "invert.max_steps=2", "--set", "invert.perceptual=none")
    shared = ("--dataset", "stripes", "--method", "wperturb", "--executor", "local", "--keep-latents")
    viewgen("cache", *shared, *few, *networks, "--out", url)
    assert verify_cache(str(url)).ok
    assert CacheReader(str(url)).array("w_plus").shape == (6, 2, 7)


def test_a_training_by_its_objective(viewgen, tmp_path):
    run = tmp_path / "run"
    kind = ("--objective", "margin", "--assimilation", "none", "--generated", "expert")
    words = ("train", "--dataset", "stripes", *kind, "--set")
    small = ("--set", "network.width=4", "--epochs", "1", "--batch-size", "16", "--no-evaluate")
    viewgen(*words, "objective.margin=0.7", *small, "--out", run, "--device", "cpu")
    losses = (run / "metrics.csv").read_text("utf-8").splitlines()
    assert len(losses) > 1
    refused = viewgen(*words, "objective.margin=7", "--dry-run", code=2)
    assert "margin: margin is 7; expected less than or equal to 2" in refused.stderr


def test_a_measure_by_its_diagnostic(viewgen):
    words = ("measure", "stripes", "--diagnostic", "contrast", "--set", "contrast.num_images=5", "--json")
    document = json.loads(viewgen(*words).stdout)
    (found,) = (measure for measure in document["measures"] if measure["name"] == "contrast")
    assert found["on"] == "5 test images"
    assert 10 < found["value"] < 128


def test_it_keeps_the_contracts(viewgen, tmp_path):
    (tmp_path / "contracts.py").write_bytes((FOLDER / "tests/contracts.py").read_bytes())
    words = ["-q", "-p", "no:cacheprovider", str(tmp_path / "contracts.py")]
    done = viewgen(python=f"import pytest\nraise SystemExit(int(pytest.main({words!r})))")
    assert "failed" not in done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 40


def test_one_of_a_kind_is_one_file():
    """Every entry point names a file of its own, and no file of the package needs another."""
    points = {
        group: [value.partition(":")[0] for value in table.values()]
        for group, table in PROJECT["entry-points"].items()
    }
    assert {group.removeprefix("viewgen.") for group in points} == ADDED.keys()
    modules = [module for named in points.values() for module in named]
    assert sorted(modules) == sorted(path.stem for path in FOLDER.glob("*.py"))
    for path in FOLDER.glob("*.py"):
        imported = {
            node.module if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not imported & set(modules), path.name
