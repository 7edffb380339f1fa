"""What holds for every data set, the list of them, digits, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.cli import main
from viewgen.datasets import ImageDataset, list_datasets, load_dataset, resolve_data_root
from viewgen.datasets.digits import bilinear_weights
from viewgen.errors import UsageError


@pytest.fixture
def any_dataset(request: pytest.FixtureRequest, tmp_path: Path) -> ImageDataset:
    if request.param == "folder":
        for number in range(40):
            path = tmp_path / "pictures" / f"class{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number, 2 * number, 3 * number)).save(path)
        return load_dataset(f"folder:{tmp_path / 'pictures'}", data_root=tmp_path / "data")
    return load_dataset(request.param, data_root=tmp_path)


@pytest.mark.parametrize("any_dataset", ["digits", "trifeature:32", "folder"], indirect=True)
class TestEveryDataset:
    def test_any_order_and_duplicates(self, any_dataset: ImageDataset) -> None:
        indices = np.random.default_rng(0).integers(0, len(any_dataset), 50)
        batch = any_dataset.batch(indices)
        size = any_dataset.image_size
        assert batch["image"].dtype == np.uint8
        assert batch["image"].shape == (50, 3, size, size)
        assert batch["label"].dtype == batch["source_index"].dtype == np.int64
        assert batch["label"].shape == (50, *any_dataset.label_shape)
        np.testing.assert_array_equal(batch["source_index"], indices)
        for row, index in enumerate(indices.tolist()):
            np.testing.assert_array_equal(batch["image"][row], any_dataset.images([index])[0])
            np.testing.assert_array_equal(batch["label"][row], any_dataset.labels([index])[0])

    def test_what_is_returned_is_the_callers(self, any_dataset: ImageDataset) -> None:
        before = any_dataset.images([1]).copy(), any_dataset.labels([1]).copy()
        any_dataset.images([1])[:] = 77
        any_dataset.labels([1])[:] = 77
        np.testing.assert_array_equal(any_dataset.images([1]), before[0])
        np.testing.assert_array_equal(any_dataset.labels([1]), before[1])

    def test_no_indices_and_bad_indices(self, any_dataset: ImageDataset) -> None:
        assert any_dataset.images([]).shape == (0, 3, any_dataset.image_size, any_dataset.image_size)
        assert any_dataset.labels(np.array([], np.int64)).shape == (0, *any_dataset.label_shape)
        for bad in ([-1], [len(any_dataset)]):
            with pytest.raises(IndexError, match=f"0 to {len(any_dataset) - 1}"):
                any_dataset.images(bad)
        with pytest.raises(IndexError, match="vector of integers"):
            any_dataset.labels([0.5])
        with pytest.raises(IndexError, match="vector of integers"):
            any_dataset.images(np.zeros((2, 2), np.int64))

    def test_labels_are_within_the_classes(self, any_dataset: ImageDataset) -> None:
        labels = any_dataset.labels(range(len(any_dataset)))
        assert labels.min() >= 0
        assert labels.max() < any_dataset.num_classes
        assert any_dataset.label_text(labels[0])

    def test_digest_and_name_are_stable(self, any_dataset: ImageDataset, tmp_path: Path) -> None:
        again = load_dataset(any_dataset.name, any_dataset.split, data_root=tmp_path / "data")
        assert again.digest == any_dataset.digest
        assert any_dataset.digest.startswith("sha256:")
        assert len(any_dataset.digest) == 71


def test_digits() -> None:
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    train, test = load_dataset("digits"), load_dataset("digits", "test")
    assert (len(train), len(test), train.num_classes) == (1437, 360, 10)
    np.testing.assert_array_equal(train.labels(range(1437)), labels[:1437])
    np.testing.assert_array_equal(test.labels(range(360)), labels[1437:])
    images = np.concatenate([train.images(range(1437)), test.images(range(360))])
    assert (images == images[:, :1]).all()
    small = torch.from_numpy(levels.reshape(-1, 1, 8, 8) * (255 / 16))
    oracle = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(images[:, :1], oracle.numpy(), atol=0.5 + 1e-9)  # rounding to a level
    assert images.max() == 255
    assert images.min() == 0


def test_enlargement_is_linear_interpolation_without_ringing() -> None:
    weights = bilinear_weights(8, 32)
    assert weights.min() >= 0
    np.testing.assert_array_equal(weights.sum(1), 1)
    centres = (np.arange(32) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(weights @ np.arange(8), np.clip(centres, 0, 7), atol=1e-12)


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    for name, meant in (("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("fashion-mnst", "fashion-mnist")):
        with pytest.raises(UsageError, match=f"did you mean '{meant}'") as caught:
            load_dataset(name, data_root=tmp_path)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="known: digits, mnist, fashion-mnist"):
        load_dataset("zzz", data_root=tmp_path)
    with pytest.raises(UsageError, match="no split 'tset'; did you mean 'test'"):
        load_dataset("digits", "tset", data_root=tmp_path)


def test_data_root_by_argument_environment_and_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWGEN_DATA", str(tmp_path / "env"))
    assert resolve_data_root(tmp_path / "arg") == tmp_path / "arg"
    assert resolve_data_root() == tmp_path / "env"
    monkeypatch.delenv("VIEWGEN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert resolve_data_root().is_absolute()
    assert "viewgen" in resolve_data_root().parts


EXPECTED = {
    "digits": (32, 10, {"train": 1437, "test": 360}, True),
    "mnist": (32, 10, {"train": 60_000, "test": 10_000}, False),
    "fashion-mnist": (32, 10, {"train": 60_000, "test": 10_000}, None),
    "cifar10": (32, 10, {"train": 50_000, "test": 10_000}, False),
    "cifar100": (32, 100, {"train": 50_000, "test": 10_000}, False),
    "tinyimagenet": (64, 200, {"train": 100_000, "test": 10_000}, False),
    "stl10": (96, 10, {"train": 5_000, "test": 8_000, "unlabeled": 100_000}, False),
    "folder:PATH": (None, None, {}, None),
    "hf:NAME_OR_PATH": (None, None, {}, None),
    "webdataset:URL": (None, None, {}, None),
    "npz:URL": (None, None, {}, None),
    "photos:PATH": (None, None, {}, None),
    "fairface:PATH": (None, 9, {}, None),
    "mpii:PATH": (64, 2, {}, None),
    "trifeature": (64, 10, {"train": 100_000, "test": 10_000}, True),
    "moving-digits": (64, 10, {"train": 50_000, "test": 5_000}, False),
    "overlay": (32, 10, {}, True),
    "colorful-digits": (64, 10, {}, False),
    "stl-digits": (96, 10, {}, False),
    "garment-digits": (32, 10, {}, None),
}


def test_list(tmp_path: Path) -> None:
    infos = {info.name: info for info in list_datasets(tmp_path)}
    assert set(infos) == set(EXPECTED)
    for name, (size, classes, images, present) in EXPECTED.items():
        info = infos[name]
        assert (info.image_size, info.num_classes, info.num_images) == (size, classes, images)
        if name not in ("fashion-mnist", "garment-digits"):  # present where Debian's package is
            assert info.present is present
        assert info.source
        assert info.licence
    assert list(tmp_path.iterdir()) == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "datasets", "--data-root", str(tmp_path))
    assert (code, err) == (0, "")
    for name in EXPECTED:
        assert name in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["cifar100"][1:5] == ["32×32", "100", "60,000", "no"]
    assert rows["digits"][1:5] == ["32×32", "10", "1,797", "yes"]
    assert max(map(len, out.splitlines())) <= 80


def test_command_prints_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "datasets", "--json", "--data-root", str(tmp_path))
    document = json.loads(out)
    assert code == 0
    assert document["data_root"] == str(tmp_path)
    assert [row["name"] for row in document["datasets"]] == list(EXPECTED)
    assert document["datasets"][7]["image_size"] is None


def test_command_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "datasets", "--help")
    assert code == 0
    assert "viewgen datasets --download cifar10" in out


def test_command_with_an_unknown_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "datasets", "--download", "cifar-10", "--data-root", str(tmp_path))
    assert (code, out) == (2, "")
    assert "did you mean 'cifar10'?" in err


def test_command_downloads_nothing_for_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "datasets", "--download", "digits", "--data-root", str(tmp_path))
    assert code == 0
    assert "digits" in out
    assert list(tmp_path.iterdir()) == []
