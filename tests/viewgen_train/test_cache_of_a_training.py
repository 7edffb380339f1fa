"""The cache of a training: which one is taken, and which are refused."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewgen.datasets import load_dataset
from viewgen.errors import (
    CacheMismatchError,
    CorruptDataError,
    IncompleteError,
    MissingFileError,
    StorageError,
    UsageError,
)
from viewgen.store import CacheReader, open_storage, read_spec
from viewgen_train.caches import check_cache, find_cache, no_cache, recorded_name

pytestmark = pytest.mark.usefixtures("_no_pictures", "caches")


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
        check_cache(reader, tiny)


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


def test_a_cache_in_a_folder_of_the_working_directory_is_found(tiny, cache_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VIEWGEN_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_cache(tiny.name, "train") is None
    (tmp_path / "demo").mkdir()
    url = cache_of(tiny, url=str(tmp_path / "demo" / "views.zarr"))
    found = find_cache(tiny.name, "train")
    assert found is not None
    assert found.url == url
    assert "working directory" in str(no_cache("digits", "train"))
    monkeypatch.setenv("VIEWGEN_CACHE", str(tmp_path / "elsewhere"))
    assert find_cache(tiny.name, "train") is None, "a folder that is named is the only one"


def test_an_unreadable_folder_of_the_working_directory_ends_no_search(tiny, cache_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VIEWGEN_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    url = cache_of(tiny, url=str(tmp_path / "demo" / "views.zarr"))
    (tmp_path / "demo" / "other.zarr" / "zarr.json").mkdir(parents=True)
    found = find_cache(tiny.name, "train")
    assert found is not None
    assert found.url == url
    monkeypatch.setenv("VIEWGEN_CACHE", str(tmp_path / "demo"))
    with pytest.raises(StorageError):
        find_cache(tiny.name, "train")


def test_a_data_set_is_found_under_any_of_its_names(cache_of, caches, plan_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    np.savez("s.npz", train_images=pixels, train_labels=np.arange(24) % 2)
    url = cache_of(load_dataset("npz:s.npz", data_root=tmp_path), url=f"{caches}/s.zarr")
    plan, _ = plan_of(dataset="npz:s.npz", data_root=str(tmp_path))
    assert plan.cache["url"] == url
    assert recorded_name("overlay", "train", None) == "overlay:trifeature:32?size=32"
    assert recorded_name("trifeature:64", "train", None) == load_dataset("trifeature:64").name


def test_names_in_printed_commands_are_quoted():
    text = str(no_cache("folder:/p?size=32&test=0.2", "train"))
    assert "viewgen cache --dataset 'folder:/p?size=32&test=0.2' --method wsearch" in text
