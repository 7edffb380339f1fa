"""What was measured of a cache lies beside its arrays and belongs to its identity."""

import json

import numpy as np
import pytest

from viewgen.cli import main
from viewgen.errors import CorruptDataError
from viewgen.store import create_cache, open_storage, summarise_cache, verify_cache
from viewgen.store.quality import read_report, read_scores, write_report, write_scores

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture
def cached(tmp_path, make_spec, write_cache):
    storage, spec = open_storage(str(tmp_path / "c.zarr")), make_spec()
    write_cache(storage, spec)
    return storage, spec


def scores_of(spec):
    random = np.random.default_rng(0)
    margin = random.normal(size=(spec.num_images, spec.num_views)).astype(np.float32)
    margin[3] = np.nan
    return {"label_margin": margin, "density": margin**2, "unknown": np.full_like(margin, np.nan)}


def test_a_report_is_read_back_shown_and_no_foreign_object(cached, capsys):
    storage, spec = cached
    assert read_report(storage, spec) is None
    assert summarise_cache(storage.url)["quality"] is None
    row = {"diagnostic": "distinct", "seed": 0, "name": "distinct_views", "value": 1.5, "low": 1.0,
           "high": 2.0, "on": "", "group": ""}  # fmt: skip
    report = {"measures": [row], "verdict": ["half of them repeat"], "notes": []}
    write_report(storage, spec, report)
    assert read_report(storage, spec) == report == summarise_cache(storage.url)["quality"]
    assert verify_cache(storage.url).notes == []
    with pytest.raises(SystemExit):
        main(["show", storage.url])
    shown = " ".join(capsys.readouterr().out.split())
    assert "1.5 (1.0 to 2.0) distinct views of an image" in shown
    assert "verdict: these views cannot be trusted: half of them repeat" in shown


def test_scores_are_read_back_by_us_and_by_zarr(cached, tmp_path):
    import zarr

    storage, spec = cached
    assert read_scores(storage, spec) == {}
    expected = scores_of(spec)
    write_scores(storage, spec, {"old": expected["density"]})
    write_scores(storage, spec, expected)
    storage.write("quality/scores/.DS_Store", b"of somebody's file browser")
    found = read_scores(storage, spec)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        array = zarr.open_array(f"{storage.url}/quality/scores/{name}", mode="r")
        np.testing.assert_array_equal(array[...], values)
    assert verify_cache(storage.url).notes == []


def test_quality_of_another_cache_is_none_and_overwriting_removes_it(cached, make_spec):
    storage, spec = cached
    write_report(storage, spec, {"measures": [], "verdict": [], "notes": []})
    write_scores(storage, spec, scores_of(spec))
    other = make_spec(seed=spec.seed + 1)
    assert read_report(storage, other) is None
    assert read_scores(storage, other) == {}
    create_cache(storage, other, overwrite=True)
    assert storage.paths("quality") == []


def test_damage_is_found(cached):
    storage, spec = cached
    write_report(storage, spec, {})
    storage.write("quality/report.json", b"{")
    assert read_report(storage, spec) is None, "a report can be measured again"
    write_scores(storage, spec, scores_of(spec))
    document = json.loads(storage.read("quality/scores/zarr.json"))
    assert document["attributes"]["viewgen"]["identity"] == spec.identity
    chunk = storage.read("quality/scores/density/c/0/0")
    storage.write("quality/scores/density/c/0/0", chunk + b"\0")
    with pytest.raises(CorruptDataError, match="is larger than"):
        read_scores(storage, spec)
    for damaged in (chunk[1:], chunk[:-1] + bytes([chunk[-1] ^ 1])):
        storage.write("quality/scores/density/c/0/0", damaged)
        with pytest.raises(CorruptDataError, match="not those that were written"):
            read_scores(storage, spec)
    storage.delete("quality/scores/density/c/0/0")
    with pytest.raises(CorruptDataError, match="not those that were written"):
        read_scores(storage, spec)
    storage.write("quality/scores/density/zarr.json", b"{")
    with pytest.raises(CorruptDataError, match="--write-columns"):
        read_scores(storage, spec)
    storage.write("quality/scores/zarr.json", b"{")
    with pytest.raises(CorruptDataError, match="damaged"):
        read_scores(storage, spec)
