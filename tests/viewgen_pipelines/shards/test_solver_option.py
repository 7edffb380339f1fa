"""`viewgen cache --solver`: part of a cache's configuration, and of its identity."""

import json
import re

import pytest

from viewgen.cli import main
from viewgen.errors import CacheMismatchError
from viewgen.store import open_storage, read_spec
from viewgen_pipelines.cache import cache

BRIEF = {"limit": 2, "views": 2, "max_steps": 1, "invert.max_steps": 1, "executor": "local"}


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["cache", "--dataset=digits", "--limit=2", *words])
    return int(ending.value.code or 0)


def test_a_dry_run_names_the_solver(tmp_path, capsys):
    out = f"--out={tmp_path / 'c.zarr'}"
    for solver in ("adam", "newton"):
        assert run(out, f"--solver={solver}", "--dry-run", "--json") == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["num_images"] == 2
        assert f"solver={solver}" in printed.err
    assert run(out, "--solver=lbfgs", "--dry-run") == 2
    assert "wsearch: solver is 'lbfgs'; expected 'newton', 'adam' or 'boundary'" in capsys.readouterr().err
    assert run(out, "--solver=fast", "--dry-run") == 2
    assert "'fast' is not one of" in capsys.readouterr().err
    assert run(out, "--method=invert", "--solver=newton", "--dry-run") == 2
    assert "invert: solver is 'newton'; expected 'lbfgs' or 'adam'" in capsys.readouterr().err
    for solver in ("lbfgs", "adam"):
        assert run(out, "--method=invert", f"--solver={solver}", "--dry-run") == 0
        assert (f"solver={solver}" in capsys.readouterr().err) or solver == "adam"
    assert list(tmp_path.iterdir()) == []


def test_other_methods_have_no_solver(tmp_path, capsys):
    assert run(f"--out={tmp_path / 'c.zarr'}", "--method=wperturb", "--solver=newton", "--dry-run") == 2
    assert "solver" in capsys.readouterr().err


def test_a_cache_of_the_other_solver_is_another_cache(tmp_path):
    out = str(tmp_path / "c.zarr")
    assert cache("digits", out=out, solver="newton", **BRIEF).complete
    spec = read_spec(open_storage(out))
    assert spec.config["solver"] == "newton"
    assert cache("digits", out=out, solver="newton", **BRIEF).complete, "the same command again"
    with pytest.raises(CacheMismatchError, match="solver"):
        cache("digits", out=out, solver="adam", **BRIEF)


def test_a_strength_becomes_the_sigma_of_the_cache(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("viewgen.views.strength.NUM_IMAGES", 8)
    out = f"--out={tmp_path / 'c.zarr'}"
    brief = "--set=invert.max_steps=1"
    assert run(out, "--method=wperturb", "--strength=distance:0.2", brief, "--dry-run") == 0
    said = capsys.readouterr().err
    sigma = float(re.search(r"^σ = (\S+)$", said, re.MULTILINE)[1])
    assert f"sigma={sigma}" in said
    assert run(out, "--method=wperturb", "--strength=far", "--dry-run") == 2
    assert "strength" in capsys.readouterr().err
