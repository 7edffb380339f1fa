"""Optional parts: each is named, with its extra, by the command that needs it."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from viewgen.cli import main
from viewgen.errors import MissingExtraError
from viewgen.extras import EXTRAS, installed, need

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


# services that few use, and large libraries
NOT_EVERYWHERE = {"hf", "mlflow", "wandb", "xarray"}


def requirements(names: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in names}


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a module look as if it were not installed."""
    return lambda module: monkeypatch.setitem(sys.modules, module, None)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ending:
        main(list(words))
    return int(ending.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_is_declared_and_named_where_it_is_missing(extra, hide):
    if extra in NOT_EVERYWHERE:
        for module in EXTRAS[extra][1]:
            pytest.importorskip(module)
    packages = metadata.packages_distributions()
    for module in EXTRAS[extra][1]:
        assert requirements(packages[module]) & requirements(PROJECT["optional-dependencies"][extra])
        assert not requirements(packages[module]) & requirements(PROJECT["dependencies"])
    assert installed(extra)
    need(extra)
    for module in EXTRAS[extra][1]:
        hide(module)
        assert not installed(extra)
        with pytest.raises(MissingExtraError, match=rf"pip install 'viewgen\[{extra}\]', or wait"):
            need(extra, "wait")


def test_all_extras_are_in_all():
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == set(EXTRAS) - {"mlflow", "wandb"}
    assert "viewgen[all]" in PROJECT["optional-dependencies"]["test"]


IMPORT_ALL = """
import pkgutil, sys
for module in {hidden!r}:
    sys.modules[module] = None
for package in ("viewgen", "viewgen_pipelines", "viewgen_train", "viewgen_pretrained"):
    for found in pkgutil.walk_packages(__import__(package).__path__, package + "."):
        if found.name not in ("viewgen.__main__", "viewgen_pipelines.gallery.app"):
            __import__(found.name)
"""


def test_a_plain_installation_loads_every_module_but_the_gallerys_server():
    hidden = ["sklearn", *(module for _, modules in EXTRAS.values() for module in modules)]
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(hidden=hidden)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_cache_without_ray_names_both_ways_out(hide, capsys, tmp_path):
    hide("ray")
    out = str(tmp_path / "c.zarr")
    code, error = run(
        capsys, "cache", "--dataset", "digits", "--method", "expert", "--limit", "2", "--out", out
    )
    assert code == 1
    assert (
        "error: viewgen cache needs Ray: pip install 'viewgen[ray]', or add --executor local"
        in error.splitlines()
    )


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("jinja2", "viewgen inspect needs FastAPI and Jinja: pip install 'viewgen[gallery]'"),
        ("ray", "viewgen inspect needs Ray: pip install 'viewgen[ray]', or write plain files with --static"),
    ],
)
def test_inspect_names_what_is_missing(hide, capsys, tmp_path, module, message):
    hide(module)
    code, error = run(capsys, "inspect", str(tmp_path))
    assert code == 1
    assert message in error


def test_training_goes_on_without_tensorboard(hide, tmp_path, caplog):
    from viewgen_train.curves import CurveWriter
    from viewgen_train.loggers import chosen_loggers

    hide("tensorboard")
    writer = CurveWriter(steps_per_epoch=2, loggers=chosen_loggers(None))
    writer.start(tmp_path, 0)
    writer.log(0, {"loss": 1.0})
    writer.checkpoint()
    writer.close()
    assert "pip install 'viewgen[tensorboard]'" in caplog.text
