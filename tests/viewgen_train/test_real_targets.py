"""A data set with real-valued targets: cached, trained on, read out."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from viewgen.cli import main
from viewgen.datasets import DATASETS, DatasetEntry, DatasetInfo, ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Subject
from viewgen.errors import CorruptDataError, DataError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.settings import Settings
from viewgen.store import CacheReader, open_storage
from viewgen.testing import DatasetContract
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.inputs import fetch_dataset, publish
from viewgen_train.caches import check_cache
from viewgen_train.evaluate import evaluate
from viewgen_train.training import train

COUNTS = {"train": 60, "test": 30}
SMALL = {"width": 2, "projection_dim": 4, "batch_size": 16, "epochs": 1, "precision": "float32"}


class SpotsSettings(Settings):
    """No settings."""

    title = "spots"


def spots(settings, split, root, download, *, classes=True) -> ImageDataset:
    """A bright spot at (x, y): its position is known, and two attributes of two and three classes."""
    random = np.random.default_rng([7, list(COUNTS).index(split)])
    count = COUNTS[split]
    places = random.uniform(1, 7, (count, 2)).astype(np.float32)
    grid = np.arange(8) + 0.5
    away = (grid[None, None, :] - places[:, 0, None, None]) ** 2 + (
        grid[None, :, None] - places[:, 1, None, None]
    ) ** 2
    pixels = np.repeat((255 * np.exp(-away / 2))[:, None], 3, axis=1).astype(np.uint8)
    labels = np.stack([places[:, 0] > 4, np.minimum(places[:, 1] // 2.34, 2)], axis=1).astype(np.int64)
    return ImageDataset(
        name="spots" if classes else "places",
        split=split,
        image_size=8,
        num_classes=3 if classes else 0,
        class_names=(),
        pixels=MemoryImages(pixels),
        targets=labels if classes else np.full(count, -1),
        attribute_names=("side", "row") if classes else (),
        real_targets=places,
        real_names=("x", "y"),
    )


def places(settings, split, root, download) -> ImageDataset:
    """The same without classes."""
    return spots(settings, split, root, download, classes=False)


def entry(name, build) -> DatasetEntry:
    info = DatasetInfo(
        name=name, image_size=8, num_classes=None, num_images=COUNTS, source="s", licence="CC0"
    )
    return DatasetEntry(name=name, summary="s", settings=SpotsSettings, build=build, info=info)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for name, build in (("spots", spots), ("places", places)):
        monkeypatch.setitem(DATASETS._registered, name, entry(name, build))


class TestSpots(DatasetContract):
    entry = entry("spots", spots)


class TestPlaces(DatasetContract):
    entry = entry("places", places)


def test_attributes_are_classes_and_real_numbers():
    found = spots(None, "train", None, False)
    assert [(one.name, one.kind, one.num_classes) for one in found.attributes] == [
        ("side", "class", 2),
        ("row", "class", 3),
        ("x", "real", None),
        ("y", "real", None),
    ]
    assert found.label_text(np.array([1, 2])) == "side 1, row 2"
    assert [one.name for one in places(None, "train", None, False).attributes] == ["x", "y"]
    assert (
        spots(None, "train", None, False).has_classes,
        places(None, "train", None, False).has_classes,
    ) == (True, False)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A cache of spots."""
    DATASETS._registered["spots"] = entry("spots", spots)
    path = str(tmp_path_factory.mktemp("spots") / "c.zarr")
    cache("spots", method="original", views=2, out=path, executor="local", quiet=True)
    return path


def test_a_cache_keeps_them(url):
    dataset, reader = spots(None, "train", None, False), CacheReader(url)
    assert np.array_equal(reader.real_targets, dataset.real_targets)
    assert reader.spec.dataset["real_names"] == ["x", "y"]
    check_cache(reader, dataset)
    moved = dataclasses.replace(dataset, real_targets=dataset.real_targets + 1, stored_digest=dataset.digest)
    with pytest.raises(CorruptDataError, match="60 rows"):
        check_cache(reader, moved)


def test_a_cache_without_them_is_as_it_was(tiny_cache):
    reader = CacheReader(tiny_cache)
    assert reader.real_targets is None
    assert "real_target" not in reader.spec.array_layout()
    assert "real_names" not in reader.spec.dataset


def test_workers_elsewhere_get_them(url, tmp_path, monkeypatch):
    monkeypatch.setenv("VIEWGEN_DATA", str(tmp_path / "data"))
    dataset, storage = spots(None, "train", None, False), open_storage(str(tmp_path / "other.zarr"))
    inputs = publish(storage, dataset, 10, {})
    there = fetch_dataset(storage, CacheReader(url).spec, inputs)
    assert np.array_equal(there.reals([3, 1]), dataset.reals([3, 1]))
    assert there.real_names == ("x", "y")


@pytest.mark.usefixtures("_no_pictures")
def test_a_training_and_its_readouts(url, tmp_path, capsys):
    run = str(tmp_path / "run")
    train("spots", cache=url, out=run, settings=SMALL, evaluate=False, quiet=True, device="cpu")
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    assert {"knn5_top1", "knn5_r2_top1", "knn5_r2_heldout"} <= set(header.split(","))
    document = evaluate(run, settings={"epochs": 2, "num_seeds": 1}, device="cpu")
    assert document["attributes"].keys() == {"side", "row"}
    assert document["reals"].keys() == {"x", "y"}
    assert document["reals"]["x"].keys() == {"r2", "rmse", "knn_r2"}
    with pytest.raises(SystemExit) as ended:
        main(["eval", run, "--probe-epochs", "1"])
    assert ended.value.code == 0
    assert "linear regression R²" in capsys.readouterr().out


def subject(build) -> Subject:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=8, width=4, projection_dim=4)).eval()
    parts = {
        "encoder": encoder,
        "train": build(None, "train", None, False),
        "test": build(None, "test", None, False),
    }
    return Subject({name: lambda part=part: part for name, part in {**parts, "expert": None}.items()})


def test_images_with_real_numbers_only_have_no_accuracy(monkeypatch):
    def measures(name, **settings):
        found = DIAGNOSTICS.resolve(name, "places", settings).build().measure(subject(places), 0)
        return {(one.name, one.group): one.value for one in found}

    assert measures("knn").keys() == {
        (f"knn5_r2[{m}]", name) for m in ("cosine", "euclidean") for name in "xy"
    }
    probe = measures("probe")
    of_each = {(f"probe_{key}", name) for key in ("r2", "rmse") for name in "xy"}
    assert probe.keys() == of_each | {("probe_distance", "")}
    # the mean length of the error is below its root mean square
    assert 0 < probe["probe_distance", ""] <= np.hypot(*(probe["probe_rmse", name] for name in "xy"))
    assert measures("probe") == measures("probe")


def test_an_unlabelled_image_is_still_refused():
    found = spots(None, "test", None, False)
    found.targets[2] = -1
    broken = subject(lambda *_: found)
    with pytest.raises(DataError, match="images without a label"):
        broken.features  # noqa: B018
    assert json.dumps(found.has_classes) == "false"
