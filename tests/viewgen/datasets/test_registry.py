"""The registry of data sets: names with settings, data sets of plug-ins, attributes of images."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from viewgen.cli import main
from viewgen.datasets import DATASETS, DatasetEntry, DatasetInfo, ImageDataset, list_datasets, load_dataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.errors import UsageError
from viewgen.settings import Settings, setting


class DotsSettings(Settings):
    """What the dots are like."""

    title: ClassVar[str] = "dots"
    size: int = setting(8, "side, in pixels", ge=4)
    noise: float = setting(0.0, "deviation of the noise", ge=0)
    palette: str = setting("grey", "name of the colours")


def build(settings: DotsSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Return images of two channels with a class of two, a class of three and two real numbers."""
    random = np.random.default_rng(5)
    count, size = 12, settings.size
    labels = np.stack([random.integers(0, classes, count) for classes in (2, 3)], axis=1)
    return ImageDataset(
        name=f"dots:{size}?noise={settings.noise:g}&palette={settings.palette}",
        split=split,
        image_size=size,
        channels=2,
        num_classes=3,
        class_names=(),
        pixels=MemoryImages(random.integers(0, 256, (count, 2, size, size), dtype=np.uint8)),
        targets=labels,
        attribute_names=("filled", "shade"),
        attribute_values=(("no", "yes"), ("dark", "mid", "light")),
        real_targets=random.random((count, 2), dtype=np.float32),
        real_names=("x", "y"),
    )


INFO = DatasetInfo(
    name="dots", image_size=8, num_classes=3, num_images={"train": 12}, source="drawn", licence="none"
)
DOTS = DatasetEntry(name="dots", summary="dots", settings=DotsSettings, build=build, info=INFO)


@pytest.fixture
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the data set as a script does."""
    monkeypatch.setattr(DATASETS, "_registered", {})
    DATASETS.register(DOTS)


@pytest.mark.parametrize(
    ("name", "size", "noise", "palette"),
    [
        ("dots", 8, "0", "grey"),
        ("dots:16", 16, "0", "grey"),
        ("dots:16?noise=0.5", 16, "0.5", "grey"),
        ("dots?noise=1&size=4", 4, "1", "grey"),
        ("dots?palette=7", 8, "0", "7"),
    ],
)
def test_settings_stand_in_the_name(dots: None, name: str, size: int, noise: str, palette: str) -> None:
    dataset = load_dataset(name)
    assert dataset.name == f"dots:{size}?noise={noise}&palette={palette}"
    assert load_dataset(dataset.name).digest == dataset.digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dots:2", "dots: size is 2; expected greater than or equal to 4"),
        ("dots:big", "dots: size is 'big'"),
        ("dots?nois=1", "dots: no setting 'nois'; did you mean 'noise'"),
        ("dotz", "no data set 'dotz'; did you mean 'dots'"),
        ("digits:5", "takes nothing after a colon"),
        ("digits?size=5", "no setting 'size'"),
        ("trifeature:15", "trifeature: size is 15; expected greater than or equal to 16"),
        ("trifeature:32?x=1", "trifeature: size is "),
    ],
)
def test_impossible_names_are_refused(dots: None, name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset(name)
    assert message in str(caught.value)


def test_a_question_mark_may_belong_to_a_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no directory .*/a\?b=c;"):
        load_dataset(f"folder:{tmp_path}/a?b=c")


def test_a_registered_data_set_is_listed(dots: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert {info.name: info.present for info in list_datasets()}["dots"] is True
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["datasets"])
    assert "drawn" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["datasets", "--download", "dots:16", "--json"])


def test_every_built_in_entry_has_its_name_and_a_summary() -> None:
    for name in DATASETS.built_in:
        entry = DATASETS.entry(name)
        assert entry.name == name == entry.info.name.partition(":")[0]
        assert entry.summary


def test_attributes_have_their_own_numbers_of_classes_and_real_numbers_none(dots: None) -> None:
    dataset = load_dataset("dots")
    assert [(a.name, a.kind, a.num_classes) for a in dataset.attributes] == [
        ("filled", "class", 2),
        ("shade", "class", 3),
        ("x", "real", None),
        ("y", "real", None),
    ]
    assert dataset.label_text([1, 2]) == "yes, light"
    np.testing.assert_array_equal(dataset.target("shade"), dataset.targets[:, 1])
    assert dataset.target("shade").dtype == np.int64
    assert dataset.target("y").dtype == np.float32
    np.testing.assert_array_equal(dataset.target("y"), dataset.real_targets[:, 1])
    assert dataset.images([0, 1]).shape == (2, dataset.channels, 8, 8)
    with pytest.raises(UsageError, match="no attribute 'shape'; did you mean 'shade'"):
        dataset.target("shape")


def test_the_digest_covers_real_targets(dots: None) -> None:
    moved = load_dataset("dots")
    assert moved.real_targets is not None
    before = load_dataset("dots").digest
    moved.real_targets[3, 1] += 1
    assert moved.digest != before


def test_one_label_is_one_attribute() -> None:
    (attribute,) = load_dataset("digits").attributes
    assert (attribute.name, attribute.kind, attribute.num_classes) == ("class", "class", 10)
    assert attribute.values == tuple("0123456789")
    assert load_dataset("digits").channels == 3
