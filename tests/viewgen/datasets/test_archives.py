"""CIFAR, STL-10 and TinyImageNet from small archives in the exact official layout, sound and damaged."""

import contextlib
import gzip
import hashlib
import io
import shutil
import struct
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from viewgen.datasets import load_dataset
from viewgen.datasets.archive import open_zip, read_maybe_gzip, read_zip_member, tar_members
from viewgen.datasets.archived import ArchivedDataset
from viewgen.datasets.cifar import CIFAR10, CIFAR100
from viewgen.datasets.dataset import ImageDataset
from viewgen.datasets.stl10 import STL10
from viewgen.datasets.tinyimagenet import TINYIMAGENET
from viewgen.errors import CorruptDataError, MissingFileError, UsageError

RNG = np.random.default_rng(7)


def tar_gz(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def put(dataset: ArchivedDataset, content: bytes, root: Path) -> ArchivedDataset:
    """Lay the archive into the data root and return the data set that expects exactly it."""
    file = replace(dataset.archive, num_bytes=len(content), md5=hashlib.md5(content).hexdigest())
    root.mkdir(parents=True, exist_ok=True)
    (root / file.name).write_bytes(content)
    return replace(dataset, archive=file)


def load(dataset: ArchivedDataset, split: str, root: Path) -> ImageDataset:
    return dataset.load(split, root, download=False)


def pixels(count: int, size: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3, size, size), np.uint8)


def cifar10_members(counts: tuple[int, ...] = (4, 1, 2, 3, 0, 5)) -> tuple[dict[str, bytes], list, list]:
    """Return members in an order unlike the split's, and the images and labels of each record file."""
    images = [pixels(count, 32) for count in counts]
    labels = [RNG.integers(0, 10, count) for count in counts]
    records = [
        b"".join(bytes([label]) + image.tobytes() for image, label in zip(*pair, strict=True))
        for pair in zip(images, labels, strict=True)
    ]
    names = [f"data_batch_{part}.bin" for part in range(1, 6)] + ["test_batch.bin"]
    files = dict(zip(names, records, strict=True))
    order = [names[part] for part in (3, 5, 0, 2, 1, 4)]
    members = {f"cifar-10-batches-bin/{name}": files[name] for name in order}
    members["cifar-10-batches-bin/readme.html"] = b"<html>"
    words = "airplane automobile bird cat deer dog frog horse ship truck"
    members["cifar-10-batches-bin/batches.meta.txt"] = words.replace(" ", "\n").encode() + b"\n\n"
    return members, images, labels


def test_cifar10(tmp_path: Path) -> None:
    members, images, labels = cifar10_members()
    dataset = put(CIFAR10, tar_gz(members), tmp_path / "cifar10")
    train, test = load(dataset, "train", tmp_path), load(dataset, "test", tmp_path)
    np.testing.assert_array_equal(train.images(range(10)), np.concatenate(images[:5]))
    np.testing.assert_array_equal(train.labels(range(10)), np.concatenate(labels[:5]))
    np.testing.assert_array_equal(test.images([4, 0, 4]), images[5][[4, 0, 4]])
    assert (train.name, train.split, len(train), len(test)) == ("cifar10", "train", 10, 5)
    assert (train.image_size, train.num_classes, train.label_shape) == (32, 10, ())
    assert train.class_names[3] == train.label_text(3) == "cat"


def test_cifar100_uses_the_fine_label(tmp_path: Path) -> None:
    images, coarse, fine = pixels(6, 32), RNG.integers(0, 20, 6), np.array([0, 99, 5, 42, 42, 7])
    records = [bytes([c, f]) + image.tobytes() for c, f, image in zip(coarse, fine, images, strict=True)]
    content = tar_gz(
        {
            "cifar-100-binary/train.bin": b"".join(records[:4]),
            "cifar-100-binary/test.bin": b"".join(records[4:]),
            "cifar-100-binary/fine_label_names.txt": b"".join(b"fine_%d\n" % number for number in range(100)),
            "cifar-100-binary/coarse_label_names.txt": b"".join(
                b"coarse_%d\n" % number for number in range(20)
            ),
        }
    )
    dataset = put(CIFAR100, content, tmp_path)
    train = load(dataset, "train", tmp_path)
    np.testing.assert_array_equal(train.images(range(4)), images[:4])
    assert train.labels(range(4)).tolist() == [0, 99, 5, 42]
    assert train.label_text(99) == "fine_99"
    assert load(dataset, "test", tmp_path).labels([1, 0]).tolist() == [7, 42]


def test_stl10_is_transposed_and_counts_from_zero(tmp_path: Path) -> None:
    train, test, unlabeled = pixels(3, 96), pixels(2, 96), pixels(300, 96)
    names = b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    columns = [images.swapaxes(2, 3).tobytes() for images in (train, test, unlabeled)]
    content = tar_gz(
        {
            "stl10_binary/test_X.bin": columns[1],
            "stl10_binary/test_y.bin": bytes([10, 1]),
            "stl10_binary/train_X.bin": columns[0],
            "stl10_binary/train_y.bin": bytes([1, 2, 10]),
            "stl10_binary/unlabeled_X.bin": columns[2],
            "stl10_binary/class_names.txt": names,
            "stl10_binary/fold_indices.txt": b"0 1 2\n",
        }
    )
    dataset = put(STL10, content, tmp_path)
    for split, images, labels in (
        ("train", train, [0, 1, 9]),
        ("test", test, [9, 0]),
        ("unlabeled", unlabeled, [-1] * 300),
    ):
        loaded = load(dataset, split, tmp_path)
        np.testing.assert_array_equal(loaded.images(range(len(images))), images)
        assert loaded.labels(range(len(images))).tolist() == labels
        assert loaded.image_size == 96
    assert loaded.label_text(loaded.labels([0])[0]) == "unlabeled"


def jpeg(color: tuple[int, int, int] | int, size: int = 64) -> bytes:
    out = io.BytesIO()
    Image.new("L" if isinstance(color, int) else "RGB", (size, size), color).save(out, "JPEG", quality=95)
    return out.getvalue()


def tinyimagenet_members() -> dict[str, bytes]:
    folder = "tiny-imagenet-200"
    return {
        f"{folder}/wnids.txt": b"n02\nn01\n",
        f"{folder}/words.txt": b"n01\tgoldfish, Carassius auratus\nn02\tbullfrog, frog\nn03\tnewt\n",
        f"{folder}/train/n02/images/n02_0.JPEG": jpeg((0, 0, 200)),
        f"{folder}/train/n02/n02_boxes.txt": b"n02_0.JPEG\t0\t0\t63\t63\n",
        f"{folder}/train/n01/images/n01_10.JPEG": jpeg((200, 0, 0)),
        f"{folder}/train/n01/images/n01_9.JPEG": jpeg(90),
        f"{folder}/val/val_annotations.txt": b"val_10.JPEG\tn01\t0\t0\t9\t9\nval_2.JPEG\tn02\t0\t0\t9\t9\n",
        f"{folder}/val/images/val_10.JPEG": jpeg((10, 10, 10)),
        f"{folder}/val/images/val_2.JPEG": jpeg((250, 250, 250)),
        f"{folder}/test/images/test_0.JPEG": jpeg((1, 2, 3)),
    }


def zip_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


def test_tinyimagenet(tmp_path: Path) -> None:
    dataset = put(TINYIMAGENET, zip_of(tinyimagenet_members()), tmp_path)
    train = load(dataset, "train", tmp_path)
    assert train.class_names == ("goldfish", "bullfrog")
    assert train.labels(range(3)).tolist() == [0, 0, 1]
    means = train.images(range(3)).mean((2, 3))
    np.testing.assert_allclose(means, [[90, 90, 90], [200, 0, 0], [0, 0, 200]], atol=2)  # JPEG's own rounding
    test = load(dataset, "val", tmp_path)
    assert (test.split, test.image_size) == ("test", 64)
    assert test.labels(range(2)).tolist() == [1, 0]
    np.testing.assert_allclose(test.images(range(2)).mean((1, 2, 3)), [250, 10], atol=2)


TINY = "tiny-imagenet-200"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{TINY}/train/n01/images/n01_9.JPEG": b"no picture"}, "cannot be decoded"),
        ({f"{TINY}/train/n01/images/n01_9.JPEG": jpeg(9)[:300]}, "cannot be decoded"),
        ({f"{TINY}/train/n01/images/n01_9.JPEG": jpeg(9, 65)}, "65×65 pixels, not 64×64"),
        ({f"{TINY}/train/n01/images/n01_9.JPEG": bytes(2 << 20)}, "bytes, at most"),
        ({f"{TINY}/train/n99/images/n99_0.JPEG": jpeg(9)}, "n99 is not in wnids.txt"),
        ({f"{TINY}/wnids.txt": None}, "has no .*wnids.txt"),
    ],
)
def test_tinyimagenet_damage(tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    members = {**tinyimagenet_members(), **change}
    dataset = put(TINYIMAGENET, zip_of({k: v for k, v in members.items() if v is not None}), tmp_path)
    with pytest.raises(CorruptDataError, match=message):
        load(dataset, "train", tmp_path)
    assert not list(tmp_path.glob("**/images.npy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_batch.bin": bytes(3072)}, "whole number of 3073-byte records"),
        ({"test_batch.bin": bytes([10]) + bytes(3072)}, "label 10, beyond the 10"),
        ({"test_batch.bin": None}, "has no cifar-10-batches-bin/test_batch.bin"),
        ({"batches.meta.txt": b"cat dog"}, "names 2 classes, not 10"),
    ],
)
def test_cifar_damage(tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    members, _, _ = cifar10_members()
    members |= {f"cifar-10-batches-bin/{name}": data for name, data in change.items()}
    dataset = put(
        CIFAR10, tar_gz({name: data for name, data in members.items() if data is not None}), tmp_path
    )
    with pytest.raises(CorruptDataError, match=message) as caught:
        load(dataset, "test", tmp_path)
    assert str(tmp_path / "cifar-10-binary.tar.gz") in str(caught.value)
    assert caught.value.exit_code == 5
    assert not (tmp_path / "cifar10" / "decoded" / "test").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [(bytes([1, 11]), "outside 1 to 10"), (bytes([0, 1]), "outside"), (bytes([1]), "2 images but 1")],
)
def test_stl10_damage(tmp_path: Path, labels: bytes, message: str) -> None:
    names = b" ".join(b"c%d" % number for number in range(10))
    members = {"class_names.txt": names, "test_X.bin": bytes(2 * 3 * 96 * 96), "test_y.bin": labels}
    dataset = put(STL10, tar_gz({f"stl10_binary/{name}": data for name, data in members.items()}), tmp_path)
    with pytest.raises(CorruptDataError, match=message):
        load(dataset, "test", tmp_path)


def test_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    dataset = put(CIFAR10, tar_gz(cifar10_members()[0]), tmp_path)
    path = tmp_path / "cifar-10-binary.tar.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match="is not the official file"):
        load(dataset, "train", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_absent_archive_names_file_url_and_place(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        load(CIFAR10, "train", tmp_path / "data")
    for part in ("cifar-10-binary.tar.gz", CIFAR10.archive.urls[0], str(tmp_path / "data" / "cifar10")):
        assert part in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_unknown_split_and_stray_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'tests'; did you mean 'test'\?"):
        load(CIFAR10, "tests", tmp_path)
    with pytest.raises(UsageError, match="takes nothing after a colon"):
        load_dataset("cifar10:32", data_root=tmp_path)


def wanted_of(path: Path, **limits: int) -> dict[str, bytes]:
    return {
        member.name: member.read()
        for member in tar_members(path, limits or {"a": 5000, "c": 5000}, cap=30_000)
    }


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), flip=st.integers(0, 7))
def test_tar_cut_or_flipped_anywhere_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, share: float, flip: int
) -> None:
    members = {"a": RNG.bytes(1500), "b": RNG.bytes(900), "c": RNG.bytes(2100)}
    content = tar_gz(members)
    path = tmp_path_factory.mktemp("tar") / "a.tar.gz"
    position = min(int(share * len(content)), len(content) - 1)
    path.write_bytes(content[:position])
    with contextlib.suppress(CorruptDataError):
        assert wanted_of(path) == {"a": members["a"], "c": members["c"]}
    flipped = bytearray(content)
    flipped[position] ^= 1 << flip
    path.write_bytes(flipped)
    # Wrong bytes are the checksum's business; here no other kind of error may come out.
    with contextlib.suppress(CorruptDataError):
        wanted_of(path)


def test_tar_bombs_and_tricks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_gz({"skipped": bytes(50_000), "a": b"x", "c": b"y"}))
    with pytest.raises(CorruptDataError, match="unpacks to more than 30000 bytes"):
        wanted_of(path)
    path.write_bytes(tar_gz({"a": bytes(5001), "c": b""}))
    with pytest.raises(CorruptDataError, match="a has 5001 bytes, at most 5000"):
        wanted_of(path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    path.write_bytes(packed.getvalue())
    with pytest.raises(CorruptDataError, match="a is not a regular file"):
        wanted_of(path)
    path.write_bytes(b"not gzip at all")
    with pytest.raises(CorruptDataError, match="is damaged"):
        wanted_of(path)


def test_tar_members_named_with_a_leading_dot(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_gz({"./c": b"2", "./../a": b"no", "./a": b"1"}))
    assert wanted_of(path) == {"a": b"1", "c": b"2"}


def test_zip_bombs_and_lies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    content = zip_of({"big": bytes(100_000), "lie": bytes(3000)})
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        with pytest.raises(CorruptDataError, match="at most 1000"):
            read_zip_member(archive, "big", cap=1000)
        assert read_zip_member(archive, "lie", cap=3000) == bytes(3000)
    entry = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: entry + 24] + struct.pack("<I", 10) + content[entry + 28 :])
    with zipfile.ZipFile(path) as archive, pytest.raises(CorruptDataError):
        read_zip_member(archive, "lie", cap=1000)


def test_archives_of_a_million_members_are_refused(tmp_path: Path) -> None:
    """Without reading them all: 10⁶ headers of a .tar.gz, 10⁶ entries in the directory of a .zip."""
    block = tarfile.TarInfo("x").tobuf() * 1000
    with gzip.open(tmp_path / "many.tar.gz", "wb", compresslevel=1) as file:
        for _ in range(21):
            file.write(block)
    started = time.process_time()
    with pytest.raises(CorruptDataError, match="more than 20000 members"):
        list(tar_members(tmp_path / "many.tar.gz", {"wanted": 5}, cap=10**9))
    assert time.process_time() - started < 10
    number = 10**6
    header = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 6, 0, 0, 0, 1, *[0] * 4, 0, 0) + b"x"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, number * len(header), 0, 0)
    with (tmp_path / "many.zip").open("wb") as packed:
        packed.write(header * number + end)
    started = time.process_time()
    with pytest.raises(CorruptDataError, match="a directory of 47000000 bytes"):
        open_zip(tmp_path / "many.zip")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "wanted"])
def test_no_member_reaches_the_disk(tmp_path: Path, kind: bytes, name: str) -> None:
    """Paths out of the folder, links and devices: nothing of an archive is ever written by its name."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with tarfile.open(folder / "evil.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "../../etc/passwd"
        archive.addfile(entry)
        plain = tarfile.TarInfo(f"{name}/through")
        plain.size = 4
        archive.addfile(plain, io.BytesIO(b"evil"))
    with pytest.raises(CorruptDataError, match=r"regular file|has no wanted"):
        list(tar_members(folder / "evil.tar.gz", {"wanted": 5}, cap=10**6))
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "evil.tar.gz"]


def test_gzip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(100_000)))
    assert len(read_maybe_gzip(path, cap=100_000)) == 100_000
    with pytest.raises(CorruptDataError, match="unpacks to more than 99999 bytes"):
        read_maybe_gzip(path, cap=99_999)


def test_digest_depends_on_pixels_labels_and_order(tmp_path: Path) -> None:
    members, _, _ = cifar10_members()
    digests = set()
    for number, flip in enumerate((None, 0, 1)):
        changed = dict(members)
        record = bytearray(changed["cifar-10-batches-bin/test_batch.bin"])
        if flip is not None:
            record[flip] ^= 1
        changed["cifar-10-batches-bin/test_batch.bin"] = bytes(record)
        root = tmp_path / str(number)
        digests.add(load(put(CIFAR10, tar_gz(changed), root), "test", root).digest)
        shutil.rmtree(root)
    assert len(digests) == 3
    assert all(digest.startswith("sha256:") for digest in digests)
