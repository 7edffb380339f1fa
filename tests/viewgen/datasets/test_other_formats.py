"""Data sets of other formats: Hugging Face's library, WebDataset's tars, NumPy files; on disk and at URLs."""

import io
import json
import subprocess
import tarfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from viewgen import redaction
from viewgen.datasets import load_dataset
from viewgen.datasets.files import expanded, open_file
from viewgen.datasets.registry import chosen_dataset, known_side
from viewgen.errors import CorruptDataError, DataError, MissingExtraError, MissingFileError, UsageError
from viewgen.store import open_storage

SIDE = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
NAMES = ["cat", "dog", "cat", "ant", "dog", "cat"]
LABELS = [1, 2, 1, 0, 2, 1]


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def tar_of(samples) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in samples:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def write_tars(write):
    """Write two tars of the six pictures, words as labels."""
    for tar, numbers in enumerate([(0, 1, 2, 3), (4, 5)]):
        samples = []
        for number in numbers:
            samples.append((f"x/{number:04d}.png", png(PIXELS[number])))
            samples.append((f"x/{number:04d}.cls", NAMES[number].encode()))
        write(f"train-{tar:03d}.tar", tar_of(samples))


def check(dataset, *, class_names=("ant", "cat", "dog"), labels=LABELS):
    assert dataset.class_names == class_names
    np.testing.assert_array_equal(dataset.targets, labels)
    np.testing.assert_array_equal(dataset.images(np.arange(6)), PIXELS.transpose(0, 3, 1, 2))


@pytest.fixture(params=["disk", "URL"])
def place(request, tmp_path):
    """(where, write): a folder or URL, and a function that writes a file there."""
    if request.param == "disk":
        (tmp_path / "files").mkdir()
        return str(tmp_path / "files"), lambda name, data: (tmp_path / "files" / name).write_bytes(data)
    url = f"memory://{tmp_path.name}"
    return url, open_storage(url).write


def test_tars(place, tmp_path):
    where, write = place
    write_tars(write)
    name = f"webdataset:{where}/{{split}}-{{000..001}}.tar"
    dataset = load_dataset(name, data_root=tmp_path / "data")
    check(dataset)
    assert load_dataset(dataset.name, data_root=tmp_path / "data").digest == dataset.digest
    with pytest.raises(MissingFileError, match=r"test-000\.tar"):
        load_dataset(name, "test", data_root=tmp_path / "data")
    small = load_dataset(f"webdataset:{where}/*.tar?size=8", data_root=tmp_path / "data")
    assert small.images([0]).shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="no split 'test'"):
        load_dataset(f"webdataset:{where}/*.tar", "test", data_root=tmp_path / "data")
    # a tar that changed is read again
    write("train-001.tar", tar_of([("4.png", png(PIXELS[0])), ("4.cls", b"ant"), ("5.png", png(PIXELS[1]))]))
    assert load_dataset(name, data_root=tmp_path / "data").targets.tolist() == [1, 2, 1, 0, 0, -1]


def test_sizes_are_known_before_pictures_are_decoded(place, tmp_path):
    where, write = place
    write_tars(write)
    write("a.npz", npz(train_images=PIXELS, test_images=PIXELS[:2, ..., 0]))
    names = {f"webdataset:{where}/train-{{000..001}}.tar": 6, f"npz:{where}/a.npz": 6}
    for name, count in names.items():
        choice = chosen_dataset(name)
        raw_sizes, resized_name = choice.entry.raw_sizes, choice.entry.resized_name
        assert raw_sizes(choice.settings, "train", 100, tmp_path) == [(SIDE, SIDE)] * count
        assert len(raw_sizes(choice.settings, "train", 2, tmp_path)) == 2
        assert known_side(name) == SIDE
        assert known_side(f"{name}?size=8") == 8
        small = load_dataset(resized_name(choice.settings, 8), data_root=tmp_path / "data")
        assert small.image_size == 8
        assert small.name == resized_name(choice.settings, 8)
    wide = tmp_path / "wide.npz"
    wide.write_bytes(npz(x=np.zeros((3, 5, 7), np.uint8)))
    choice = chosen_dataset(f"npz:{wide}")
    assert choice.entry.raw_sizes(choice.settings, "train", 9, tmp_path) == [(7, 5)] * 3


def test_fields_of_a_sample(tmp_path):
    """Those of an exported cache: several pictures, a JSON document."""
    tar = tmp_path / "a.tar"
    samples = []
    for number in range(2):
        samples += [
            (f"{number}.view0.png", png(PIXELS[number])),
            (f"{number}.view1.png", png(PIXELS[number + 2])),
            (f"{number}.json", json.dumps({"label": 7 + number, "other": "b"}).encode()),
        ]
    tar.write_bytes(tar_of(samples))
    dataset = load_dataset(f"webdataset:{tar}?image=view1.png", data_root=tmp_path / "data")
    assert dataset.class_names == ("7", "8")
    np.testing.assert_array_equal(dataset.images([0])[0], PIXELS[2].transpose(2, 0, 1))
    other = load_dataset(f"webdataset:{tar}?label=json.other", data_root=tmp_path / "data")
    assert other.class_names == ("b",)
    with pytest.raises(DataError, match=r"no picture; it has json, view0.png"):
        load_dataset(f"webdataset:{tar}?image=jpg", data_root=tmp_path / "data")
    with pytest.raises(DataError, match="has no 'cls'"):
        load_dataset(f"webdataset:{tar}?label=cls", data_root=tmp_path / "data")


def test_damaged_tars_and_pictures(tmp_path):
    tar = tmp_path / "a.tar"
    tar.write_bytes(b"no tar")
    with pytest.raises(CorruptDataError, match=r"a\.tar is no tar file"):
        load_dataset(f"webdataset:{tar}", data_root=tmp_path / "data")
    tar.write_bytes(tar_of([("1.png", png(PIXELS[0])[:60])]))
    with pytest.raises(CorruptDataError, match=r"a\.tar: 1\.png cannot be decoded"):
        load_dataset(f"webdataset:{tar}", data_root=tmp_path / "data")
    many = [(f"1.{number}", b"x") for number in range(1001)]
    label = ("1.json", b"[" * 50_000)
    for samples, message in ((many, "more than 1000 fields"), ([label, ("1.png", b"")], "hundreds deep")):
        tar.write_bytes(tar_of(samples))
        with pytest.raises(CorruptDataError, match=message):
            load_dataset(f"webdataset:{tar}", data_root=tmp_path / "data")
    tar.write_bytes(tar_of([("1.png", png(PIXELS[0])), ("2.png", png(PIXELS[0][:, :5]))]))
    with pytest.raises(DataError, match=r"2\.png is 5×12 pixels.*\?size=64"):
        load_dataset(f"webdataset:{tar}", data_root=tmp_path / "data")


def npz(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def test_numpy_files(place, tmp_path):
    where, write = place
    forms = {
        "medmnist": {
            "train_images": PIXELS,
            "train_labels": np.array(LABELS)[:, None],
            "test_images": PIXELS[:2],
        },
        "keras": {"x_train": PIXELS, "y_train": np.array(LABELS), "x_test": PIXELS[:2]},
        "plain": {"images": PIXELS.transpose(0, 3, 1, 2), "labels": np.array(NAMES)},
        "floats": {"x": PIXELS / 255, "y": np.array(LABELS)},
    }
    for form, arrays in forms.items():
        write(f"{form}.npz", npz(**arrays))
        dataset = load_dataset(f"npz:{where}/{form}.npz", data_root=tmp_path / "data")
        check(dataset, class_names=("ant", "cat", "dog") if form == "plain" else ("0", "1", "2"))
    test = load_dataset(f"npz:{where}/keras.npz", "val", data_root=tmp_path / "data")
    assert (len(test), test.targets.tolist(), test.split) == (2, [-1, -1], "test")
    with pytest.raises(UsageError, match="no split 'test'"):
        load_dataset(f"npz:{where}/plain.npz", "test", data_root=tmp_path / "data")


def test_gray_images_and_other_arrays(tmp_path):
    file = tmp_path / "a.npz"
    file.write_bytes(npz(images=PIXELS[..., 0]))
    gray = load_dataset(f"npz:{file}", data_root=tmp_path / "data").images([3])[0]
    assert (gray == PIXELS[3, ..., 0]).all()
    for arrays, message in (
        ({"weights": PIXELS}, "expected train_images"),
        ({"x": PIXELS[0, 0]}, "expected \\(N, H, W\\)"),
        ({"x": PIXELS * 2.0}, "outside of 0 … 1"),
        ({"x": PIXELS[..., :2]}, "C 1, 3 or 4"),
        ({"x": PIXELS, "y": np.zeros((6, 2))}, "expected one of each"),
        ({"x": PIXELS, "y": np.zeros(6)}, "expected whole numbers or words"),
    ):
        file.write_bytes(npz(**arrays))
        with pytest.raises(DataError, match=message):
            load_dataset(f"npz:{file}", data_root=tmp_path / "data")
    file.write_bytes(b"rubbish")
    with pytest.raises(CorruptDataError, match=r"is no \.npz file"):
        load_dataset(f"npz:{file}", data_root=tmp_path / "data")
    with pytest.raises(MissingFileError, match="there is no file"):
        load_dataset(f"npz:{tmp_path}/none.npz", data_root=tmp_path / "data")


def picture_table(file, labels):
    """Write pictures with words as labels, without the library's own types."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [{"bytes": png(PIXELS[number]), "path": None} for number in range(len(labels))]
    pq.write_table(pa.table({"image": pictures, "label": labels}), file)


def test_classes_are_those_of_the_train_split(tmp_path):
    """A test split that lacks a class, or has them in another order, keeps the indices."""
    data = tmp_path / "data"
    samples = {"train": ["9", "10", "11"], "test": ["11", "9", "-1"]}
    for split, labels in samples.items():
        files = [(f"{n}.png", png(PIXELS[n])) for n in range(3)]
        files += [(f"{n}.cls", label.encode()) for n, label in enumerate(labels)]
        (tmp_path / f"{split}.tar").write_bytes(tar_of(sorted(files)))
    numbers = {split: np.array([int(label) for label in labels]) for split, labels in samples.items()}
    file = tmp_path / "a.npz"
    file.write_bytes(
        npz(x_train=PIXELS[:3], y_train=numbers["train"], x_val=PIXELS[:3], y_val=numbers["test"])
    )
    for name in (f"webdataset:{tmp_path}/{{split}}.tar", f"npz:{file}"):
        test = load_dataset(name, "test", data_root=data)
        assert (test.class_names, test.targets.tolist()) == (("9", "10", "11"), [2, 0, -1]), name
        assert load_dataset(name, data_root=data).targets.tolist() == [0, 1, 2], name
    file.write_bytes(npz(x_train=PIXELS, y_train=np.array(LABELS), x_test=PIXELS[:1], y_test=np.array([7])))
    with pytest.raises(DataError, match="class '7', which its train split has not"):
        load_dataset(f"npz:{file}", "test", data_root=data)
    # unlabelled pictures to train on, labelled ones to measure with
    file.write_bytes(npz(x_train=PIXELS, x_test=PIXELS, y_test=np.array(NAMES)))
    check(load_dataset(f"npz:{file}", "test", data_root=data))


def test_words_in_tables_and_damaged_tables(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    tables = tmp_path / "train-test"
    tables.mkdir()
    picture_table(tables / "train.parquet", NAMES)
    picture_table(tables / "test.parquet", ["dog", "cat"])
    test = load_dataset(f"hf:{tables}", "test", data_root=tmp_path / "data")
    assert (test.class_names, test.targets.tolist()) == (("ant", "cat", "dog"), [2, 1])
    assert len(load_dataset(f"hf:{tables}", data_root=tmp_path / "data")) == 6
    choice = chosen_dataset(f"hf:{tables}")
    sizes = partial(choice.entry.raw_sizes, choice.settings)
    assert sizes("test", 9, tmp_path / "none") == [(SIDE, SIDE)] * 2
    assert choice.entry.resized_name(choice.settings, 8) == f"hf:{tables}?size=8"
    with monkeypatch.context() as without_library:
        without_library.setattr("viewgen.datasets.huggingface.installed", lambda extra: False)
        assert sizes("train", 5, tmp_path / "data") == [(SIDE, SIDE)] * 5, "of the decoded copy"
        assert sizes("train", 5, tmp_path / "none") == []
    whole = (tables / "train.parquet").read_bytes()
    (tables / "train-2.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptDataError, match="a file is damaged"):
        load_dataset(f"hf:{tables}", data_root=tmp_path / "data")


def test_damaged_numpy_files(tmp_path):
    file = tmp_path / "a.npz"
    damaged = bytearray(npz(x=PIXELS))
    damaged[60:400] = bytes(340)  # the compressed stream
    file.write_bytes(damaged)
    with pytest.raises(CorruptDataError, match="damaged"):
        load_dataset(f"npz:{file}", data_root=tmp_path / "data")
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(DataError, match="one array without a name"):
        load_dataset(f"npz:{tmp_path}/a.npy", data_root=tmp_path / "data")


SECRET = "c4naryS3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/f.npz",
        f"https://{SECRET}@host/f.npz",
        f"https://host/f.npz?token={SECRET}&size=8",
        f"https://host/f.npz?X-Amz-Signature={SECRET}",
        f"s3://KEY:{SECRET}@bucket/f.npz",
        f"https://host/f.npz#{SECRET}{SECRET}",
    ],
)
@pytest.mark.parametrize("form", ["npz:{}", "overlay:npz:{}?size=16"])
def test_a_name_with_a_credential_is_refused(url, form, monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())
    with pytest.raises(UsageError, match="holds a password or a token") as caught:
        chosen_dataset(form.format(url))
    assert SECRET not in str(caught.value)
    assert SECRET not in redaction.redacted(f"cannot read {url}")


def test_other_urls_are_no_credentials():
    for name in (
        "npz:https://host/f.npz?download=true?size=8",
        "webdataset:abfs://container@account/a-*.tar",
        "npz:sftp://user@host/f.npz",
        "hf:someone/flowers?label=key&revision=token",
    ):
        chosen_dataset(name)


def test_local_data_sets_of_hugging_face(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    features = datasets.Features(
        {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "cat", "dog"])}
    )
    rows = {"img": [Image.fromarray(pixels) for pixels in PIXELS], "kind": LABELS}
    table = datasets.Dataset.from_dict(rows, features=features)
    data = tmp_path / "data"
    table.save_to_disk(str(tmp_path / "saved"))
    check(load_dataset(f"hf:{tmp_path}/saved", data_root=data))
    datasets.DatasetDict({"train": table, "validation": table.select([0, 1])}).save_to_disk(
        str(tmp_path / "dict")
    )
    check(load_dataset(f"hf:{tmp_path}/dict", data_root=data))
    assert load_dataset(f"hf:{tmp_path}/dict", "test", data_root=data).targets.tolist() == [1, 2]
    (tmp_path / "parquet").mkdir()
    table.to_parquet(str(tmp_path / "parquet/train-00000-of-00001.parquet"))
    table.select([0]).to_parquet(str(tmp_path / "parquet/test-00000-of-00001.parquet"))
    check(load_dataset(f"hf:{tmp_path}/parquet", data_root=data))
    assert len(load_dataset(f"hf:{tmp_path}/parquet", "test", data_root=data)) == 1
    check(load_dataset(f"hf:{tmp_path}/parquet/train-00000-of-00001.parquet?label=kind", data_root=data))
    with pytest.raises(UsageError, match="no column 'name'; it has img, kind"):
        load_dataset(f"hf:{tmp_path}/parquet?label=name", data_root=data)
    with pytest.raises(UsageError, match="no split 'unlabeled'"):
        load_dataset(f"hf:{tmp_path}/parquet", "unlabeled", data_root=data)
    assert not list((tmp_path / "hf").rglob("*.arrow")), (
        "local files are not copied into the library's folder"
    )
    # a decoded copy needs no library
    monkeypatch.setattr("viewgen.extras.installed", lambda extra: False)
    check(load_dataset(f"hf:{tmp_path}/saved", data_root=data))


def test_hugging_faces_library_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("viewgen.extras.installed", lambda extra: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'viewgen\[hf\]'"):
        load_dataset("hf:someone/flowers", data_root=tmp_path)
    with pytest.raises(MissingFileError, match=r"there is no /not/there"):
        load_dataset("hf:/not/there", data_root=tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="folder:"):
        load_dataset(f"hf:{tmp_path}/pictures", data_root=tmp_path)


def test_a_hub_out_of_reach(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        MissingFileError, match=r"hf:flowers is no local path, and cannot be had from the hub.*no network"
    ):
        load_dataset("hf:flowers", data_root=tmp_path)


def test_patterns(tmp_path):
    for name in ("a-1.tar", "a-2.tar", "b-1.tar"):
        (tmp_path / name).write_bytes(b"1234567890")
    assert [file[-7:] for file in expanded(f"{tmp_path}/a-{{1..2}}.tar")] == ["a-1.tar", "a-2.tar"]
    assert [file[-7:] for file in expanded(f"{tmp_path}/{{b,a}}-*.tar")] == ["b-1.tar", "a-1.tar", "a-2.tar"]
    with pytest.raises(DataError, match="names no file"):
        expanded(f"{tmp_path}/c-*.tar")
    with pytest.raises(DataError, match="more than"):
        expanded("x-{0..99999999}.tar")
    (tmp_path / "m[1].tar").write_bytes(b"")
    assert expanded(f"{tmp_path}/m[1].tar") == [f"{tmp_path}/m[1].tar"]
    assert expanded("https://host/a.tar?download=true&path=x/y") == [
        "https://host/a.tar?download=true&path=x/y"
    ]


def test_a_remote_file_can_seek(tmp_path):
    open_storage("memory://seek").write("a.bin", bytes(range(200)))
    with open_file("memory://seek/a.bin") as file:
        file.seek(-3, 2)
        assert file.read() == bytes([197, 198, 199])
        file.seek(10)
        assert file.read(2) == bytes([10, 11])
        assert file.tell() == 12
    with pytest.raises(MissingFileError):
        open_file("memory://seek/b.bin")
    subprocess.run(["mkfifo", str(tmp_path / "pipe")], check=True)
    with pytest.raises(CorruptDataError, match="not a regular file"):
        open_file(str(tmp_path / "pipe"))
