"""`viewgen cache` measures a sample of its views, says whether they can be trusted, and remembers it."""

import json
import os

import numpy as np
import pytest
import torch

from viewgen.cli import main
from viewgen.networks.batched import project
from viewgen.networks.files import load_model
from viewgen.networks.weights import find_models
from viewgen.store import CacheReader, open_storage
from viewgen.store.quality import read_report, read_scores
from viewgen_pipelines import quality
from viewgen_pipelines.cache import cache
from viewgen_pipelines.gallery.pages import Pages
from viewgen_pipelines.gallery.sources import CacheSource

pytestmark = pytest.mark.usefixtures("no_flushing")

# the faulty method turns digits into noise, without networks
OPTIONS = {"method": "faulty", "executor": "local", "views": 2, "limit": 24}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setenv("VIEWGEN_CACHE", str(tmp_path_factory.getbasetemp() / "quality-of-digits"))


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "c.zarr")


def command(capsys, url, *words):
    capsys.readouterr()
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    with pytest.raises(SystemExit) as caught:
        main(["cache", "--dataset=digits", f"--out={url}", *options, *words])
    return caught.value.code or 0, *capsys.readouterr()


def test_a_report_is_printed_written_and_used_again(capsys, url, faults, monkeypatch):
    code, out, err = command(capsys, url, "--quality", "--json")
    assert code == 0, "without --strict a verdict is words"
    document = json.loads(out)
    names = {row["name"] for row in document["quality"]}
    assert {"label_kept", "classifier_accuracy", "kernel_distance[patches]", "pixel_diversity"} <= names
    assert "label kept by" in err
    assert "verdict: " in err
    kept = read_report(open_storage(url), CacheReader(url).spec)
    assert kept is not None
    assert kept["verdict"] == document["verdict"]
    assert quality.ViewQuality.from_json(kept).to_json() == kept

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(quality, "view_quality", never)
    code, out, _ = command(capsys, url, "--quality", "--json")
    assert json.loads(out)["quality"] == document["quality"]
    page = Pages(CacheSource(url=url)).overview()
    assert "What the views are worth" in page
    assert "label_kept" in page


def test_scores_are_written_on_request_and_belong_to_a_cache(capsys, url, faults):
    command(capsys, url, "--no-quality")
    with pytest.raises(SystemExit) as caught:
        main(["measure", url, "--write-columns", "--json"])
    assert not caught.value.code
    rows = json.loads(capsys.readouterr().out)["measures"]
    assert [(row["diagnostic"], row["name"]) for row in rows] == [
        ("scores", "density"), ("scores", "label_margin"), ("scores", "nearest_view")
    ]  # fmt: skip
    assert rows[0]["on"] == "48 of 48 views"
    scores = read_scores(open_storage(url), CacheReader(url).spec)
    assert scores["density"].shape == (24, 2)
    assert np.isfinite(scores["density"]).all()
    assert scores["density"].mean() < 1, "changed digits are not as real as digits"
    nearest = scores["nearest_view"]
    assert (nearest[:, 0] == nearest[:, 1]).all(), "each of two views is the other's nearest"
    views = torch.from_numpy(CacheReader(url).views([7])[0])
    z = project(load_model(find_models("digits", {"encoder"})["encoder"], "encoder"), views, 2)
    assert nearest[7, 0] == pytest.approx(float((z[0] - z[1]).norm()), abs=1e-4)
    for option in ("--write-columns", "--inversions=x"):
        with pytest.raises(SystemExit) as caught:
            main(["measure", "digits", option])
        assert caught.value.code == 2
        assert "belongs to a cache" in capsys.readouterr().err


def test_main_parts_are_written_beside_the_scores(capsys, url, faults):
    command(capsys, url, "--no-quality")
    words = ["measure", url, "--write-columns", "-d", "concentration", "--set", "num_pooled=0", "--json"]
    for extra, there in (["--set", "concentration.views=expert"], False), ([], True):
        with pytest.raises(SystemExit) as caught:
            main([*words, *extra])
        assert not caught.value.code
        measured = {row["name"] for row in json.loads(capsys.readouterr().out)["measures"]}
        assert "area" in measured
        scores = read_scores(open_storage(url), CacheReader(url).spec)
        assert {"density", "label_margin"} <= set(scores)
        assert ("main_part" in scores) == there, "those of expert views say nothing of the cache's"
        if there:
            inside = scores["main_part"]
            assert (inside[:, 0] == inside[:, 1]).all()
            assert set(np.unique(inside)) <= {0.0, 1.0}
            assert inside[:, 0].mean() >= 0.9, "the largest share that is searched"
    with pytest.raises(SystemExit):
        main(["measure", url, "--write-columns", "--json"])
    again = read_scores(open_storage(url), CacheReader(url).spec)
    np.testing.assert_array_equal(again["main_part"], inside)


def test_strict_turns_a_verdict_into_exit_code_1(capsys, url, faults, monkeypatch):
    monkeypatch.setattr(quality, "verdict", lambda measures: ["they are drawn by hand"])
    code, _, err = command(capsys, url, "--quality", "--strict")
    assert code == 1
    assert "verdict: these views cannot be trusted: they are drawn by hand" in err
    monkeypatch.setattr(quality, "verdict", lambda measures: [])
    assert command(capsys, f"{url}2", "--quality", "--strict")[0] == 0
    code, _, err = command(capsys, url, "--no-quality", "--strict")
    assert code == 2
    assert "--no-quality" in err
    # what is incomplete stays incomplete
    faults(**{"raise": [3]})
    monkeypatch.setattr(quality, "verdict", lambda measures: ["no"])
    assert command(capsys, f"{url}3", "--quality", "--strict")[0] == 4


def test_views_that_cannot_be_measured_are_not_trusted_by_strict(url, faults, monkeypatch):
    from viewgen.errors import DataError

    def refuse(*_, **__):
        raise DataError("too few")

    monkeypatch.setattr(quality, "view_quality", refuse)
    options = {**OPTIONS, "out": url, "quality": True, "quiet": True}
    lax = cache("digits", **options)
    assert (lax.verdict, lax.quality) == ([], [])
    assert "view quality was not measured: too few" in lax.notes
    assert cache("digits", strict=True, **options).verdict == ["none of their qualities could be measured"]
    assert cache("digits", **options | {"quality": False}).quality is None
