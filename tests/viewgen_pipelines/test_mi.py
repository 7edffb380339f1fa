"""`viewgen mi`: pairs, resuming, reports, refusals, the command line, Ray against local."""

import csv
import dataclasses
import io
import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from viewgen.cli import main
from viewgen.datasets import load_dataset
from viewgen.errors import DataError, MissingFileError, UsageError, ViewgenError
from viewgen.recipes import recipe
from viewgen.store import ShardCommit, create_cache, open_storage, write_shard
from viewgen.store import commit_shard as commit
from viewgen.views import VIEWS
from viewgen_pipelines import view_pairs
from viewgen_pipelines.mutual_information import _pairs, mi

NUM_IMAGES = 60
SETTINGS = {"steps": 3, "batch_size": 16, "executor": "local", "quiet": True}


@pytest.fixture(autouse=True)
def _small_estimates(monkeypatch):
    """Let the recipe of every data set have a narrow network, few draws and few resamplings."""
    small = {"width": 2, "num_draws": 1, "num_checks": 1, "num_resamplings": 40}
    monkeypatch.setattr(
        "viewgen_pipelines.mutual_information.recipe",
        lambda dataset, part: recipe(dataset, part) | (small if part == "mutual_information" else {}),
    )


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def cache(tmp_path, digits, make_spec, shard_arrays, no_flushing):
    """Return a function that writes a cache of noisy digits; its URL."""

    def make(name="ws.zarr", method="wsearch", num_images=NUM_IMAGES, constant=False, **changes):
        keys = {
            "dataset": {"name": "digits", "split": "train", "digest": digits.digest},
            "method": method,
            "num_images": num_images,
            "height": 32,
            "width": 32,
            "shard_images": 64,
        }
        spec = make_spec(**(keys | changes))
        storage = open_storage(str(tmp_path / name))
        create_cache(storage, spec)
        for shard_id in range(spec.num_shards):
            arrays = shard_arrays(spec, shard_id)
            if constant:
                arrays["views"] = np.full_like(arrays["views"], 9)
            elif spec.height == 32:
                images = digits.images(arrays["source_index"])[:, None]
                arrays["views"] = images // 2 + arrays["views"] // 2
            objects = write_shard(storage, spec, shard_id, arrays)
            commit(
                storage,
                ShardCommit(
                    shard_id=shard_id, identity=spec.identity, objects=objects, status=arrays["status"]
                ),
            )
        return str(tmp_path / name)

    return make


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture(scope="module")
def any_result():
    """The result of one pair, measured once, for tests of what is done with results."""
    known = []

    def run(task, place, tell):
        if not known:
            known.append(view_pairs.run_pair(task, place, tell))
        return dataclasses.replace(known[0], x=task.x.label, y=task.y.label)

    return run


@pytest.fixture
def measured(monkeypatch, any_result):
    """Record the pairs that are measured, and let one end the run. `until["run"]` measures."""
    pairs = []
    pairs_until = {"stop": None, "run": any_result}

    def recording(task, place, tell):
        name = (task.x.label, task.y.label)
        if name == pairs_until["stop"]:
            raise KeyboardInterrupt
        pairs.append(name)
        return pairs_until["run"](task, place, tell)

    monkeypatch.setattr("viewgen_pipelines.mutual_information.run_pair", recording)
    recording.pairs, recording.until = pairs, pairs_until
    return recording


PAIRS_OF_TWO = [
    ("original", "expert"),
    ("original", "wsearch"),
    ("wsearch", "expert"),
    ("original", "wperturb"),
    ("wperturb", "expert"),
]


def test_views_of_different_roles_are_measured_with_a_trunk_each(out, monkeypatch):
    tasks = []

    def stop(found, *_, **__):
        tasks.extend(found)
        raise InterruptedError

    monkeypatch.setattr("viewgen_pipelines.mutual_information._measure", stop)
    with pytest.raises(InterruptedError):
        mi("digits", pair=["frequency", "patches"], out=out, **SETTINGS)
    assert [task.config.shared_trunk for task in tasks] == [False, True]
    roles = VIEWS.entry("frequency").roles
    spec = SimpleNamespace(roles=roles, method="frequency", identity="sha256:a")
    *_, (x, y, found) = _pairs(["memory://a.zarr"], [SimpleNamespace(spec=spec)])
    assert (x.label, y.label, found) == ("frequency low", "frequency high", roles)


def test_pairs_of_every_cache_with_reports(cache, out):
    urls = [cache(), cache("wp.zarr", "wperturb", num_images=70)]
    result = mi("digits", cache=urls, out=out, **SETTINGS)
    assert [(pair.x, pair.y) for pair in result.pairs] == PAIRS_OF_TWO
    assert result.num_images == NUM_IMAGES, "the images that both caches have"
    assert result.complete
    document = result.to_json()
    assert set(document) == {"estimator", "pairs"}
    for pair in document["pairs"]:
        assert set(pair) >= {"x", "y", "nats", "low", "high"}
        assert pair["low"] <= pair["nats"] <= pair["high"]
        assert set(pair["bounds"]) == {"mine", "infonce", "nwj", "smile"}
        assert 0 < pair["alignment"] < 4
        assert pair["uniformity_x"] < 0
    rows = list(csv.DictReader(io.StringIO(open_storage(out).read("mi.csv").decode())))
    assert [(row["x"], row["y"]) for row in rows] == PAIRS_OF_TWO
    assert float(rows[1]["nats"]) == pytest.approx(document["pairs"][1]["nats"], abs=1e-4)
    assert open_storage(out).read("mi.png").startswith(b"\x89PNG")


def test_bits_in_the_table_and_nats_in_json(cache, out):
    result = mi("digits", cache=[cache()], out=out, bits=True, **SETTINGS)
    rows = list(csv.DictReader(io.StringIO(open_storage(out).read("mi.csv").decode())))
    for row, pair in zip(rows, result.to_json()["pairs"], strict=True):
        assert row["unit"] == "bits"
        assert float(row["bits"]) == pytest.approx(pair["nats"] / np.log(2), abs=1e-4)


def test_an_interrupted_run_goes_on_pair_by_pair(cache, out, measured):
    urls = [cache(), cache("wp.zarr", "wperturb")]
    measured.until["stop"] = PAIRS_OF_TWO[3]
    with pytest.raises(KeyboardInterrupt):
        mi("digits", cache=urls, out=out, **SETTINGS)
    assert measured.pairs == PAIRS_OF_TWO[:3]
    measured.until["stop"] = None
    first = mi("digits", cache=urls, out=out, **SETTINGS)
    assert measured.pairs == PAIRS_OF_TWO
    assert mi("digits", cache=urls, out=out, **SETTINGS).to_json() == first.to_json()
    assert measured.pairs == PAIRS_OF_TWO
    mi("digits", cache=urls[:1], out=out, **SETTINGS | {"steps": 2})
    assert len(measured.pairs) == 8, "other settings measure anew"


def test_damaged_results_are_measured_again(cache, out, measured):
    expected = mi("digits", limit=NUM_IMAGES, out=out, **SETTINGS).to_json()
    storage = open_storage(out)
    (path,) = storage.paths("pairs")
    storage.write(path, storage.read(path)[:100])
    assert mi("digits", limit=NUM_IMAGES, out=out, **SETTINGS).to_json() == expected
    assert measured.pairs == [("original", "expert")] * 2
    mi("digits", limit=NUM_IMAGES, out=out, overwrite=True, **SETTINGS)
    assert len(measured.pairs) == 3


def test_a_pair_without_variation_is_refused_and_the_others_are_measured(cache, out, capsys):
    settings = SETTINGS | {"quiet": False}
    result = mi("digits", cache=[cache(constant=True)], out=out, **settings)
    assert [bool(pair.refused) for pair in result.pairs] == [False, True, True]
    assert not result.complete
    assert result.to_json()["pairs"][1]["nats"] is None
    err = capsys.readouterr().err
    assert "(original, wsearch): refused: all" in err
    assert "rows of y are the same" in err


def test_caches_of_one_method_are_told_apart_by_their_folders(cache, out, measured):
    urls = [cache("near.zarr", seed=1), cache("far.zarr", seed=2)]
    result = mi("digits", cache=urls, out=out, **SETTINGS)
    assert [pair.y for pair in result.pairs][1::2] == ["wsearch (near)", "wsearch (far)"]
    with pytest.raises(UsageError, match="name each cache once"):
        mi("digits", cache=[urls[0], urls[0]], out=out, **SETTINGS)
    named = mi("digits", cache=[cache("e.zarr", "expert")], out=out, **SETTINGS)
    assert named.pairs[1].y == "expert (e)"


def test_what_cannot_work_is_refused_before_anything_is_measured(cache, out, measured, tmp_path):
    with pytest.raises(DataError, match="divide into 33 for training"):
        mi("digits", cache=[cache()], out=out, **SETTINGS | {"batch_size": 64})
    with pytest.raises(DataError, match="have 32×32; the views of a pair must have one size"):
        mi("digits", cache=[cache("small.zarr", height=16, width=16, num_images=21)], out=out, **SETTINGS)
    with pytest.raises(MissingFileError):
        mi("digits", cache=[str(tmp_path / "nothing.zarr")], out=out, **SETTINGS)
    with pytest.raises(UsageError, match="did you mean"):
        mi("digits", estimator="minne", out=out, **SETTINGS)
    with pytest.raises(UsageError, match="--workers"):
        mi("digits", out=out, workers=2, **SETTINGS)
    with pytest.raises(UsageError, match="add --executor local"):
        mi("digits", cache=["memory://c.zarr"], out=out, **SETTINGS | {"executor": "ray"})
    with pytest.raises(UsageError, match="--limit 0"):
        mi("digits", limit=0, out=out, **SETTINGS)
    with pytest.raises(MissingFileError):
        mi("digits", encoder=str(tmp_path / "e.safetensors"), out=out, **SETTINGS)
    assert measured.pairs == []


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
def test_ray_measures_what_one_process_measures(cache, out, tmp_path, shared_ray):
    """Equal up to rounding: Ray's workers compute with one thread each."""
    url = cache()
    local = mi("digits", cache=[url], out=out, **SETTINGS).to_json()
    settings = SETTINGS | {"executor": "ray", "workers": 2}
    on_ray = mi("digits", cache=[url], out=str(tmp_path / "ray"), **settings).to_json()
    for one, other in zip(local["pairs"], on_ray["pairs"], strict=True):
        assert (one["x"], one["y"]) == (other["x"], other["y"])
        assert one["nats"] == pytest.approx(other["nats"], abs=1e-3)
        assert one["alignment"] == pytest.approx(other["alignment"], abs=1e-4)


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
def test_an_error_of_a_ray_task_comes_back_as_itself(cache, out, shared_ray, monkeypatch):
    url = cache()
    task_data = open_storage(url)
    (views,) = [path for path in task_data.paths("views") if path.startswith("views/c")]
    task_data.write(views, task_data.read(views)[:-7])
    with pytest.raises(ViewgenError, match="bytes"):
        mi("digits", cache=[url], out=out, **SETTINGS | {"executor": "ray", "workers": 1})


@pytest.fixture
def command(capsys):
    def run(*words):
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            main(["mi", "--dataset", "digits", "--executor", "local", "--batch-size", "16", *words])
        signal.signal(signal.SIGTERM, handler)
        return caught.value.code, *capsys.readouterr()

    return run


def test_command_prints_one_json_object(cache, out, command):
    code, text, err = command("--cache", cache(), "--steps", "2", "--out", out, "--json")
    assert code == 0
    assert [pair["y"] for pair in json.loads(text)["pairs"]] == ["expert", "wsearch", "expert"]
    assert "(original, expert) measured, 1 of 3 pairs" in err


def test_command_prints_tables_and_4_means_refused(cache, out, command):
    url = cache(constant=True)
    code, text, _ = command("--cache", url, "--steps", "2", "--out", out, "--estimator", "smile", "--bits")
    assert code == 4
    assert "SMILE, bits" in text
    assert "refused" in text
    assert "uniformity of x" in text
    assert f"{out}/mi.png" in text


def test_interrupting_the_command_says_how_to_go_on(out, command, monkeypatch):
    def interrupted(task, place, tell):
        raise KeyboardInterrupt

    monkeypatch.setattr("viewgen_pipelines.mutual_information.run_pair", interrupted)
    code, _, err = command("--out", out, "--limit", str(NUM_IMAGES), "--steps", "2")
    assert code == 130
    assert "run the same command again" in err


def test_pairs_that_one_source_makes(out, measured, digits):
    """Their two views are measured, without (original, expert), and kept under the settings of the images."""
    measured.until["run"] = view_pairs.run_pair
    names = ["frequency:0.7", "patches?distance=4&size=16"]
    options = {**SETTINGS, "out": out, "limit": NUM_IMAGES, "estimator": "infonce", "critic": "separable"}
    found = mi("digits", pair=names, **options)
    assert [(pair.x, pair.y) for pair in found.pairs] == [
        ("frequency:0.7 low", "frequency:0.7 high"),
        ("patches?distance=4&size=16 1", "patches?distance=4&size=16 2"),
    ]
    document = found.to_json()["pairs"][0]
    assert document["ceiling"] == pytest.approx(np.log(16))
    assert document["low"] <= document["nats"] <= document["high"]
    assert document["alignment"] is None
    measured_once = len(measured.pairs)
    assert mi("digits", pair=names[:1], **options).pairs == found.pairs[:1]
    assert len(measured.pairs) == measured_once
    assert len(mi("digits", pair=["frequency:0.9"], **options).pairs) == 1
    assert len(measured.pairs) == measured_once + 1
    with pytest.raises(DataError, match="is the same in all pixels of digits"):
        mi("digits", pair=["color:YDbDr"], **options)
    with pytest.raises(UsageError, match=r"wsearch views need generator.*\(--cache\)"):
        mi("digits", pair=["wsearch"], **options)
    with pytest.raises(UsageError, match="expected different pairs"):
        mi("digits", pair=["jigsaw", "jigsaw"], **options)
