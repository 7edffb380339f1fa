"""Caches and weights go to other places and come back as they were."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import viewgen
from viewgen.cli import main
from viewgen.errors import (
    CacheMismatchError,
    CorruptDataError,
    MissingExtraError,
    MissingFileError,
    StorageError,
    UsageError,
)
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import read_state, save_model
from viewgen.sharing import pull, push
from viewgen.store import open_storage, verify_cache
from viewgen.store.quality import read_scores, write_scores
from viewgen.testing.caches import small_spec, write_random_cache


@pytest.fixture
def cache(tmp_path):
    """(URL, contents) of a cache with scores, one shard of which has objects of another name."""
    from viewgen.store import create_cache

    url = str(tmp_path / "views.zarr")
    storage, spec = open_storage(url), small_spec()
    create_cache(storage, spec)
    storage.write(spec.array_layout()["views"].object_path(1), b"rubbish of a dead attempt")
    contents = write_random_cache(storage, spec)
    write_scores(storage, spec, {"label_margin": np.ones((21, 2), np.float32)})
    storage.write("run/attempts", b"of this machine")
    return url, contents


def check(url: str, contents) -> None:
    reader = viewgen.open(url)
    for name, values in contents.items():
        np.testing.assert_array_equal(reader.array(name), values)
    assert verify_cache(url).ok
    storage = open_storage(url)
    assert (read_scores(storage, reader.spec)["label_margin"] == 1).all()
    assert "## Licence" in storage.read("README.md").decode()
    assert not storage.exists("run/attempts")


def test_a_cache_there_and_back(cache, tmp_path):
    url, contents = cache
    there = f"memory://push/{tmp_path.name}/views.zarr"
    first = push(url, there, quiet=True)
    assert (first.kind, first.copied, first.there) == ("cache", 3, 3)
    check(there, contents)
    assert push(url, there, quiet=True).copied == 0
    back = pull(there, str(tmp_path / "back.zarr"), quiet=True)
    assert back.copied == 3
    check(str(tmp_path / "back.zarr"), contents)


def test_an_interrupted_copy_lacks_shards_and_goes_on(cache, tmp_path, monkeypatch):
    from viewgen.sharing import copying

    url, contents = cache
    target = str(tmp_path / "copy.zarr")
    copy, calls = copying._copy_object, []

    def stop(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 12:
            raise KeyboardInterrupt
        copy(*arguments)

    monkeypatch.setattr(copying, "_copy_object", stop)
    with pytest.raises(KeyboardInterrupt):
        push(url, target, quiet=True)
    report = verify_cache(target)
    assert not report.faults
    assert report.missing == [1, 2]
    assert push(url, target, quiet=True).copied == 2
    check(target, contents)


def test_damage_and_other_caches_are_noticed(cache, tmp_path):
    url, _ = cache
    other = str(tmp_path / "other.zarr")
    write_random_cache(open_storage(other), small_spec(seed=8))
    with pytest.raises(CacheMismatchError, match="seed"):
        push(url, other, quiet=True)
    path = Path(url) / "views/c.0.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="differs from what was committed"):
        push(url, str(tmp_path / "copy.zarr"), quiet=True)
    assert verify_cache(str(tmp_path / "copy.zarr")).missing == [0, 1, 2]
    with pytest.raises(MissingFileError, match="neither a cache"):
        push(str(tmp_path), str(tmp_path / "copy"), quiet=True)
    for copy in (push, pull):
        with pytest.raises(UsageError, match=r"overwrite is for weights, and .* is a cache"):
            copy(url, str(tmp_path / "copy.zarr"), overwrite=True, quiet=True)


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    save_model(
        Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4)), folder / "encoder.safetensors"
    )
    card = {"dataset": {"name": "digits", "split": "train"}, "steps": 5, "measured": {"top1": 0.5}}
    (folder / "encoder.card.json").write_text(json.dumps(card))
    (folder / "checkpoint.pt").write_bytes(b"large, and of no use there")
    return folder


def test_weights_there_and_back(weights, tmp_path):
    there = f"memory://weights/{tmp_path.name}"
    assert push(str(weights), there).copied == 3
    assert open_storage(there).paths() == ["README.md", "encoder.card.json", "encoder.safetensors"]
    card = open_storage(there).read("README.md").decode()
    assert "| encoder | digits train | 5 | top1 0.5 |" in card
    assert "Terms of the images of digits: " in card
    assert push(str(weights), there).copied == 0
    (weights / "encoder.card.json").write_text("{}")
    with pytest.raises(UsageError, match=r"another encoder\.card\.json already"):
        push(str(weights), there)
    assert push(str(weights), there, overwrite=True).copied == 2, "and its card"
    assert pull(there, str(tmp_path / "back")).there == 3
    assert (tmp_path / "back/encoder.safetensors").read_bytes() == (
        weights / "encoder.safetensors"
    ).read_bytes()
    with pytest.raises(UsageError, match="private is for the hub"):
        push(str(weights), there, private=True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the hub, beside this file."""
    pytest.importorskip("huggingface_hub")
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hub_server", module)
    spec.loader.exec_module(module)
    with module.running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield running


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_a_cache_on_the_hub(hub, cache, tmp_path):
    url, contents = cache
    place = "hf://datasets/someone/views"
    result = push(url, place, private=True, quiet=True)
    files = hub.repositories["datasets/someone/views"]
    assert result.there == len(files)
    assert hub.private["datasets/someone/views"] in (True, "private")
    assert sum("/commit/" in request for request in hub.requests) == 1, "all of it, or nothing"
    assert b"viewgen pull hf://datasets/someone/views" in files["README.md"]
    assert not any(name.startswith("run/") for name in files)
    pull(place, str(tmp_path / "back.zarr"), quiet=True)
    check(str(tmp_path / "back.zarr"), contents)
    assert not list(tmp_path.glob(".*viewgen-pull"))
    with pytest.raises(UsageError, match="exists already"):
        pull(place, str(tmp_path / "back.zarr"))
    name = next(name for name in files if name.startswith("views/c.0"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    with pytest.raises(CorruptDataError, match="is damaged: 1 objects differ"):
        pull(place, str(tmp_path / "again.zarr"))
    assert not (tmp_path / "again.zarr").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_trainings_folder_is_sent_to_export_first(weights, tmp_path):
    (weights / "encoder.safetensors").rename(weights / "last.safetensors")
    (weights / "encoder.card.json").unlink()
    (weights / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is the folder of a training; write its encoder with a card first"):
        push(str(weights), f"memory://weights/{tmp_path.name}")


def test_weights_on_the_hub(hub, weights, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["push", str(weights), "hf://someone/encoder", "--json"])
    assert not ending.value.code
    assert json.loads(capsys.readouterr().out)["kind"] == "weights"
    assert set(hub.repositories["models/someone/encoder"]) == {
        "README.md",
        "encoder.card.json",
        "encoder.safetensors",
    }
    with pytest.raises(SystemExit) as ending:
        main(["pull", "hf://someone/encoder@main", str(tmp_path / "back")])
    assert not ending.value.code
    assert "3 files" in capsys.readouterr().out
    read_state(tmp_path / "back/encoder.safetensors")
    with pytest.raises(MissingFileError, match=r"cannot read hf://someone/other"):
        pull("hf://someone/other", str(tmp_path / "other"))


@pytest.fixture
def two_repositories(monkeypatch):
    """Downloads of a stand-in: the first of someone/a stops after a file, as a killed process does."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    started = []

    def snapshot(name, *, local_dir, **_):
        local_dir.mkdir(exist_ok=True)
        if name not in started and name.endswith("/a"):
            started.append(name)
            (local_dir / "a.json").write_text("{}")
            raise ConnectionError("gone")
        save_model(
            Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4)), local_dir / "encoder.safetensors"
        )
        (local_dir / "README.md").write_text(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)


def test_an_interrupted_pull_is_of_its_repository_alone(two_repositories, tmp_path):
    target = tmp_path / "weights"
    with pytest.raises(MissingFileError, match="gone"):
        pull("hf://someone/a", str(target))
    pull("hf://someone/b", str(target))
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "encoder.safetensors"]
    pull("hf://someone/a", str(tmp_path / "weights2"))
    with pytest.raises(UsageError, match="or --overwrite to replace weights"):
        pull("hf://someone/a", str(target))
    (target / "mine.txt").write_text("kept")
    pull("hf://someone/a", str(target), overwrite=True)
    assert (target / "README.md").read_text() == "someone/a"
    assert (target / "mine.txt").exists()
    with pytest.raises(UsageError, match="overwrite is for weights"):
        pull("hf://datasets/someone/a", str(target), overwrite=True)


def test_a_pull_into_the_working_folder(two_repositories, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pull("hf://someone/b", ".")
    assert Path("encoder.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_the_hub_is_an_extra_and_takes_each_in_its_place(cache, weights, tmp_path, monkeypatch):
    url, _ = cache
    with pytest.raises(UsageError, match="another kind; a source of this kind goes to hf://datasets/a/b"):
        push(url, "hf://a/b")
    with pytest.raises(UsageError, match="goes to hf://a/b"):
        push(str(weights), "hf://datasets/a/b")
    with pytest.raises(UsageError, match="names no repository"):
        push(url, "hf://a")
    monkeypatch.setattr("viewgen.extras.installed", lambda extra: False)
    with pytest.raises(MissingExtraError, match=r"viewgen\[hf\]"):
        push(url, "hf://datasets/a/b")


def test_a_hub_out_of_reach(weights, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot write hf://someone/encoder"):
        push(str(weights), "hf://someone/encoder")
