"""Image folders: layouts, order, sizes, and every way in which a folder can be bad."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from viewgen.cli import main
from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.pictures import decode_picture
from viewgen.errors import (
    CorruptDataError,
    DataError,
    MissingFileError,
    StorageError,
    UsageError,
    ViewgenError,
)


def save(path: Path, color: object = 0, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Two classes, several formats, and files that are no pictures."""
    root = tmp_path / "flowers"
    save(root / "rose" / "b.png", (200, 0, 0))
    save(root / "rose" / "a.bmp", (100, 0, 0))
    save(root / "rose" / "deep" / "c.PNG", 7, mode="L")
    save(root / "daisy" / "z.gif", 250, mode="L")
    (root / "rose" / "notes.txt").write_text("no picture")
    save(root / "rose" / ".hidden.png")
    (root / ".cache").mkdir()
    return root


def load(path: Path, split: str = "train", suffix: str = "") -> ImageDataset:
    return load_dataset(f"folder:{path}{suffix}", split, data_root=path.parent / "data-root")


def test_images_and_labels_in_a_fixed_order(flowers: Path) -> None:
    dataset = load(flowers)
    assert dataset.class_names == ("daisy", "rose")
    assert dataset.labels(range(4)).tolist() == [0, 1, 1, 1]
    centres = dataset.images(range(4))[:, :, 8, 8].tolist()
    assert centres == [[250] * 3, [100, 0, 0], [200, 0, 0], [7] * 3]
    assert (dataset.image_size, dataset.num_classes) == (16, 2)
    assert dataset.name == f"folder:{flowers}"
    assert load_dataset(dataset.name, data_root=flowers.parent / "elsewhere").digest == dataset.digest


def test_a_changed_or_added_picture_is_seen(flowers: Path) -> None:
    first = load(flowers)
    assert load(flowers).digest == first.digest
    save(flowers / "rose" / "b.png", (201, 0, 0))
    os.utime(flowers / "rose" / "b.png", (1, 1))
    second = load(flowers)
    assert second.digest != first.digest
    save(flowers / "aster" / "new.png")
    third = load(flowers)
    assert (len(third), third.class_names) == (5, ("aster", "daisy", "rose"))


def test_train_and_held_out_directories(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, classes in (("train", "abc"), ("val", "ca")):
        for name in classes:
            save(root / split / name / "1.png", ord(name), mode="L")
    assert load(root).labels(range(3)).tolist() == [0, 1, 2]
    for split in ("val", "test"):
        held_out = load(root, split)
        assert held_out.split == "test"
        assert held_out.labels(range(2)).tolist() == [0, 2]
        assert held_out.class_names == ("a", "b", "c")
    save(root / "val" / "stranger" / "1.png")
    with pytest.raises(DataError, match="'stranger', which the train split has not"):
        load(root, "test")


def test_a_flat_folder_has_no_test_split(flowers: Path) -> None:
    with pytest.raises(UsageError, match="no split 'test'"):
        load(flowers, "test")


def test_size_scales_the_shorter_side_and_cuts_the_centre(tmp_path: Path) -> None:
    root = tmp_path / "data"
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    (root / "x").mkdir(parents=True)
    Image.fromarray(wide).save(root / "x" / "wide.png")
    save(root / "x" / "tall.png", (9, 9, 9), (30, 90))
    with pytest.raises(DataError, match=r"\?size=64"):
        load(root)
    dataset = load(root, suffix="?size=10")
    assert dataset.name.endswith("data?size=10")
    images = dataset.images([0, 1])
    assert images.shape == (2, 3, 10, 10)
    assert (images[0] == 9).all()
    assert (images[1, :, :, 1:9] == 255).all()
    assert load(root, suffix="?size=12").image_size == 12


@pytest.mark.parametrize("suffix", ["?size=7", "?size=99999"])
def test_size_out_of_range(flowers: Path, suffix: str) -> None:
    with pytest.raises(UsageError, match="takes 8 to 1024"):
        load(flowers, suffix=suffix)


def test_camera_orientation_is_obeyed(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 3  # turned by half a turn
    (tmp_path / "f" / "x").mkdir(parents=True)
    picture.save(tmp_path / "f" / "x" / "a.png", exif=exif)
    image = load(tmp_path / "f").images([0])[0]
    assert image[:, :8].max() == 0
    assert image[:, 8:].min() == 255


def bomb() -> bytes:
    """Return a PNG header that claims 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", bomb(), Path(__file__).read_bytes()],
    ids=["empty", "text", "bomb", "source"],
)
def test_a_corrupt_picture_is_named_and_leaves_nothing(flowers: Path, content: bytes) -> None:
    bad = flowers / "rose" / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"bad\.png") as caught:
        load(flowers)
    assert caught.value.exit_code == 5
    assert not list(flowers.parent.glob("data-root/**/images.npy"))
    bad.unlink()
    assert len(load(flowers)) == 4


def test_a_truncated_picture_is_corrupt(flowers: Path) -> None:
    path = flowers / "rose" / "b.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptDataError, match=r"b\.png cannot be decoded"):
        load(flowers)


@pytest.mark.filterwarnings("ignore")  # Pillow remarks on damage that it can live with
@settings(max_examples=100, deadline=None)
@given(format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]), data=st.data())
def test_damaged_pictures_give_an_image_or_a_deliberate_error(format: str, data: st.DataObject) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(out, format)
    content = bytearray(out.getvalue())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptDataError, DataError):
        image = decode_picture(bytes(content), "picture", 16)
        assert image.shape == (3, 16, 16)
        assert image.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    out = io.BytesIO()
    picture = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    if mode == "P":
        picture.save(out, "PNG", transparency=bytes(256))
    else:
        picture.save(out, "TIFF")
    assert (decode_picture(out.getvalue(), "picture", None) == 255).all()


def test_deep_pictures_are_refused(flowers: Path) -> None:
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(flowers / "rose" / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        load(flowers)


def test_an_unreadable_picture_is_named(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("viewgen.datasets.folder.open_regular", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*z\.gif: Permission denied"):
        load(flowers)


def test_bad_folders(tmp_path: Path) -> None:
    def refused(path: Path, kind: type[ViewgenError], message: str) -> None:
        with pytest.raises(kind, match=message):
            load(path)

    refused(tmp_path / "none", MissingFileError, "there is no directory .*none")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", DataError, "no class directories: it is empty")
    save(tmp_path / "loose" / "a.png")
    refused(tmp_path / "loose", DataError, "1 pictures lie in it without a class directory")
    (tmp_path / "hollow" / "x").mkdir(parents=True)
    refused(tmp_path / "hollow", DataError, "hollow/x holds no pictures")
    with pytest.raises(UsageError, match="needs a path"):
        load_dataset("folder:", data_root=tmp_path)


def test_command_gives_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["datasets", "--download", "folder:/x", "--data-root", str(tmp_path)])
    assert capsys.readouterr().err.startswith("error: folder:PATH is read from your disk")


@pytest.fixture
def spoilt(flowers: Path) -> Path:
    """The flowers with three pictures that cannot be used, the first one among them."""
    (flowers / "daisy" / "a.png").write_bytes(b"no picture")
    (flowers / "rose" / "c.png").write_bytes((flowers / "rose" / "b.png").read_bytes()[:40])
    save(flowers / "rose" / "wide.png", size=(32, 16))
    return flowers


def test_all_bad_pictures_are_listed_with_reasons(spoilt: Path) -> None:
    with pytest.raises(CorruptDataError, match=r"3 pictures cannot be used; .*damaged=skip") as error:
        load(spoilt)
    assert error.value.exit_code == 5
    lines = str(error.value).splitlines()
    assert [sum(name in line for line in lines) for name in ("a.png", "c.png", "wide.png")] == [1, 1, 1]
    assert "32×16" in str(error.value)
    assert not list((spoilt.parent / "data-root").rglob("*.npy"))


def test_bad_pictures_are_left_out_where_that_is_asked_for(
    spoilt: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = load(spoilt, suffix="?damaged=skip")
    assert dataset.labels(range(len(dataset))).tolist() == [0, 1, 1, 1]
    centres = dataset.images(range(4))[:, :, 8, 8].tolist()
    assert centres == [[250] * 3, [100, 0, 0], [200, 0, 0], [7] * 3]
    assert dataset.name == f"folder:{spoilt}?damaged=skip"
    assert "left out: 3 pictures" in caplog.text
    assert "a.png" in caplog.text
    assert load(spoilt, suffix="?size=8&damaged=skip").image_size == 8


def test_all_of_many_bad_pictures_are_listed_and_of_very_many_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x" / "a").mkdir(parents=True)
    names = [f"{number}.png" for number in range(200)]
    for name in names:
        (tmp_path / "x" / "a" / name).write_bytes(b"no")
    with pytest.raises(CorruptDataError, match="200 pictures") as error:
        load(tmp_path / "x")
    assert all(sum(f"/{name} " in line for line in str(error.value).splitlines()) == 1 for name in names)
    monkeypatch.setattr("viewgen.datasets.folder.MOST_LISTED", 190)
    with pytest.raises(CorruptDataError, match="… and 10 more"):
        load(tmp_path / "x")


def test_a_pipe_is_no_picture(flowers: Path) -> None:
    os.mkfifo(flowers / "rose" / "pipe.png")  # is no file, and so no picture
    assert len(load(flowers)) == 4
    (flowers / "rose" / "zero.png").symlink_to("/dev/zero")
    assert len(load(flowers)) == 4


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "input/output error")])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    flowers: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Not fewer pictures, which would be another data set, but an error."""
    scan = os.scandir

    def failing(path: object) -> object:
        if str(path).endswith("deep"):
            raise error
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(StorageError, match="cannot list"):
        load(flowers)
