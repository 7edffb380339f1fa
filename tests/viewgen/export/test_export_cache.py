"""A cache as files of other tools, read back by those tools where they are installed."""

import gc
import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

import viewgen
from viewgen.cli import main
from viewgen.datasets import load_dataset
from viewgen.errors import DataError, IncompleteError, MissingExtraError, UsageError
from viewgen.export import FORMATS, export_cache
from viewgen.store import open_storage
from viewgen.store.quality import write_report, write_scores
from viewgen.testing.caches import small_spec, write_random_cache
from viewgen.views import VIEWS

STATUS = np.array([1] * 5 + [2, 3] + [1] * 14)
USED = np.delete(np.arange(21), [5, 6])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """(URL, contents) of a cache of 21 rows of digits, 8 px."""
    url = str(tmp_path_factory.mktemp("cache") / "views.zarr")
    digits = load_dataset("digits")
    made_of = {"name": "digits", "split": "train", "digest": digits.digest}
    spec = small_spec(height=32, width=32, dataset=made_of)
    labels = digits.labels(np.arange(21))
    contents = write_random_cache(open_storage(url), spec, status=STATUS, label=labels)
    write_scores(open_storage(url), spec, {"label_margin": np.ones((21, 2), np.float32)})
    return url, contents


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def test_tars_hold_all_views(cache, tmp_path):
    url, contents = cache
    result = export_cache(url, str(tmp_path / "tars"), "webdataset", originals=True, quiet=True)
    assert (result.images, result.written, result.views) == (19, 19, 2)
    found = {}
    for tar in sorted((tmp_path / "tars").glob("*.tar")):
        with tarfile.open(tar) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
    digits = load_dataset("digits")
    for row in USED:
        for view in range(2):
            stored = pixels(found[f"{row:08d}.view{view}.png"])
            np.testing.assert_array_equal(stored, contents["views"][row, view])
        np.testing.assert_array_equal(pixels(found[f"{row:08d}.image.png"]), digits.images([row])[0])
        document = json.loads(found[f"{row:08d}.json"])
        assert document["label"] == int(found[f"{row:08d}.cls"]) == contents["label"][row]
        assert document["label_margin"] == [1, 1]
        np.testing.assert_allclose(document["distance"], contents["distance"][row])
    # ours reads them back as a data set
    name = f"webdataset:{tmp_path}/tars/views-{{000000..000002}}.tar?image=view1.png&label=cls"
    again = load_dataset(name, data_root=tmp_path / "data")
    np.testing.assert_array_equal(again.images(np.arange(19)), contents["views"][USED, 1])


@pytest.mark.filterwarnings("ignore")  # it leaves its files to the garbage collector
def test_the_webdataset_library_reads_the_tars(cache, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    url, contents = cache
    export_cache(url, str(tmp_path), "webdataset", quiet=True)
    shards = f"{tmp_path}/views-{{000000..000002}}.tar"
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    gc.collect()
    assert [int(sample["__key__"]) for sample in samples] == USED.tolist()
    np.testing.assert_array_equal(pixels(samples[3]["view1.png"]), contents["views"][USED[3], 1])


def test_hugging_faces_library_reads_its_files(cache, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    url, contents = cache
    export_cache(url, str(tmp_path / "hf"), "hf", originals=True, quiet=True)
    table = datasets.load_dataset(str(tmp_path / "hf"), split="train", streaming=True)
    rows = list(table)
    assert table.features["label"].names == [str(digit) for digit in range(10)]
    assert [row["row"] for row in rows] == USED.tolist()
    np.testing.assert_array_equal(
        np.asarray(rows[4]["views"][1]).transpose(2, 0, 1), contents["views"][USED[4], 1]
    )
    assert rows[4]["label"] == contents["label"][USED[4]]
    assert np.asarray(rows[4]["image"]).shape == (32, 32, 3)
    again = load_dataset(f"hf:{tmp_path}/hf?image=image", data_root=tmp_path / "data")
    assert len(again) == 19


def test_parquet_and_folders(cache, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    url, contents = cache
    export_cache(url, str(tmp_path / "parquet"), "parquet", picture="webp", quiet=True)
    rows = pq.read_table(tmp_path / "parquet/data").to_pylist()
    assert [row["row"] for row in rows] == USED.tolist()
    np.testing.assert_array_equal(pixels(rows[2]["views"][0]), contents["views"][USED[2], 0])
    assert rows[2]["class"] == str(contents["label"][USED[2]])
    export_cache(url, str(tmp_path / "folder"), "folder", use_unconverged=True, quiet=True)
    files = sorted((tmp_path / "folder").glob("*/*.png"))
    assert len(files) == 2 * 20
    data = load_dataset(f"folder:{tmp_path}/folder", data_root=tmp_path / "data")
    assert len(data) == 40
    assert set(data.class_names) == {str(label) for label in contents["label"][np.delete(np.arange(21), 6)]}
    with Image.open(tmp_path / f"folder/{contents['label'][20]}/00000020-view1.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture).transpose(2, 0, 1), contents["views"][20, 1])


def test_image_folder_of_torchvision_reads_a_folder(cache, tmp_path):
    from viewgen.networks.torchvision_import import import_torchvision

    try:
        datasets = import_torchvision("datasets")
    except ImportError:
        pytest.skip("torchvision is not installed")
    url, _ = cache
    export_cache(url, str(tmp_path / "folder"), "folder", quiet=True)
    assert len(datasets.ImageFolder(str(tmp_path / "folder"))) == 2 * 19


def test_pictures_have_the_channels_of_their_role(tmp_path):
    """With the stored values: neither view shows what the other one has."""
    url, out = str(tmp_path / "colors.zarr"), tmp_path / "out"
    spec = small_spec(height=8, width=8, method="color", roles=VIEWS.entry("color").roles)
    contents = write_random_cache(open_storage(url), spec)
    export_cache(url, str(out), "folder", quiet=True)
    for row in range(3):
        first, rest = (
            np.asarray(Image.open(next(out.glob(f"*/{row:08d}-view{view}.png")))) for view in (0, 1)
        )
        np.testing.assert_array_equal(first, contents["views"][row, 0, 0])
        np.testing.assert_array_equal(rest[..., 1:].transpose(2, 0, 1), contents["views"][row, 1, 1:])
        assert (rest[..., 0] == 128).all()
    card = (out / "README.md").read_text("utf-8")
    for text in (
        "view 0 is `first`, channel 0, with 127.5 for zero; ",
        "view 1 is `rest`, channel 1 and 2, ",
    ):
        assert text in card
    # an export of all channels, as there was one before, is not gone on with
    mark = json.loads((out / ".viewgen-export.json").read_text())
    (out / ".viewgen-export.json").write_text(json.dumps({**mark, "roles": None}))
    with pytest.raises(UsageError, match=r"another export:\n  roles: there None, asked \['first', 'rest'\]"):
        export_cache(url, str(out), "folder", quiet=True)


def test_tars_of_attributes_and_of_shards_without_images(tmp_path):
    """They are read back by the line in the card."""
    url, out = str(tmp_path / "views.zarr"), tmp_path / "tars"
    status = np.array([1] * 8 + [2] * 8 + [1] * 5)
    spec = small_spec(height=8, width=8, label_shape=(2,))
    contents = write_random_cache(open_storage(url), spec, status=status)
    assert export_cache(url, str(out), "webdataset", quiet=True).written == 13
    card = (out / "README.md").read_text("utf-8")
    assert "`cls`" not in card
    name = re.search("webdataset:[^']+", card)[0].replace("PATH", str(out))
    again = load_dataset(name, data_root=tmp_path / "data")
    words = ["-".join(map(str, label)) for label in contents["label"][status == 1].tolist()]
    assert [again.class_names[target] for target in again.targets] == words
    assert export_cache(url, str(out), "webdataset", quiet=True).written == 0


@pytest.mark.parametrize("to", FORMATS)
def test_an_interrupted_export_goes_on(cache, tmp_path, monkeypatch, to):
    """Parts that are there are neither made nor written again."""
    if to in ("hf", "parquet"):
        pytest.importorskip({"hf": "datasets", "parquet": "pyarrow"}[to])
    from viewgen.export import rows

    url, _ = cache
    out = f"memory://export/{to}/{tmp_path.name}"
    shard, made = rows.Rows.shard, []

    def stop_at_2(self, shard_id):
        made.append(shard_id)
        if shard_id == 2 and len(made) == 3:
            raise KeyboardInterrupt
        return shard(self, shard_id)

    monkeypatch.setattr(rows.Rows, "shard", stop_at_2)
    with pytest.raises(KeyboardInterrupt):
        export_cache(url, out, to, quiet=True)
    assert not open_storage(out).exists("README.md"), "the card comes last"
    result = export_cache(url, out, to, quiet=True)
    assert made == [0, 1, 2, 2]
    assert (result.images, result.written) == (19, 5)
    with pytest.raises(UsageError, match=r"another export:\n  originals: there False, asked True"):
        export_cache(url, out, to, originals=True, quiet=True)
    assert export_cache(url, out, to, originals=True, overwrite=True, quiet=True).written == 19


def test_the_card_tells_provenance_quality_and_licence(cache, tmp_path):
    url, _ = cache
    reader = viewgen.open(url)
    measure = {"diagnostic": "reach", "seed": 0, "name": "reach", "value": 0.25, "low": 0.2, "high": 0.3}
    report = {
        "measures": [measure | {"on": "256 | images", "group": ""}],
        "verdict": ["too far"],
        "notes": [],
    }
    write_report(open_storage(url), reader.spec, report)
    export_cache(url, str(tmp_path / "out"), "folder", quiet=True)
    card = (tmp_path / "out/README.md").read_text("utf-8")
    for text in (
        "license: cc-by-4.0",
        f"`{reader.spec.identity}`",
        reader.spec.dataset["digest"],
        "| network generator | `sha256:11` |",
        "- too far",
        "| reach | 0.25 (0.2 … 0.3) | 256 \\| images |",
        "The images' terms: ",
        "ε₁ 0.3",
    ):
        assert text in card
    from viewgen.datasets.digits import ENTRY

    assert ENTRY.info.licence in card


def test_what_cannot_be_exported(cache, tmp_path, monkeypatch):
    url, _ = cache
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"not empty and no export of viewgen \(it holds thesis.tex\)"):
        export_cache(url, str(tmp_path / "full"), "folder", overwrite=True)
    two = str(tmp_path / "two.zarr")
    write_random_cache(open_storage(two), small_spec(channels=2))
    with pytest.raises(DataError, match="2 channels"):
        export_cache(two, str(tmp_path / "out"), "folder")
    part = str(tmp_path / "part.zarr")
    write_random_cache(open_storage(part), small_spec())
    (tmp_path / "part.zarr/commits/00000001.json").unlink()
    with pytest.raises(IncompleteError, match="lacks 1 of 3 shards"):
        export_cache(part, str(tmp_path / "out"), "folder")
    other = str(tmp_path / "other.zarr")
    write_random_cache(open_storage(other), small_spec())
    with pytest.raises(DataError, match="other images than digits train"):
        export_cache(other, str(tmp_path / "out"), "folder", originals=True)
    monkeypatch.setattr("viewgen.extras.installed", lambda extra: False)
    with pytest.raises(MissingExtraError, match=r"viewgen\[hf\]"):
        export_cache(url, str(tmp_path / "out"), "hf")
    assert not (tmp_path / "out").exists()


def test_the_command(cache, tmp_path, capsys):
    url, _ = cache

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            main(["export", *words])
        text = capsys.readouterr()
        return int(ending.value.code or 0), text.out, text.err

    code, out, _ = run(url, "--to", "folder", "--out", str(tmp_path / "a"), "--json")
    assert (code, json.loads(out)["written"]) == (0, 19)
    code, out, _ = run(url, "--to", "folder", "--out", str(tmp_path / "a"))
    assert (code, "19 of them were there already" in out) == (0, True)
    code, _, err = run(url, "--out", str(tmp_path / "b"))
    assert (code, "is a cache; give --to webdataset, hf, folder or parquet" in err) == (2, True)
    code, _, err = run(url, "--to", "folder", "--weights", "best", "--out", str(tmp_path / "b"))
    assert (code, "--weights is of a training" in err) == (2, True)
    code, _, err = run(str(tmp_path), "--to", "folder", "--out", str(tmp_path / "b"))
    assert (code, "is no cache" in err) == (2, True)
    code, _, err = run(str(tmp_path), "--originals", "--out", str(tmp_path / "b"))
    assert (code, "--originals is for caches" in err) == (2, True)
    code, _, err = run(str(tmp_path), "--out", "s3://bucket/x")
    assert (code, "is no folder; export the training to a folder" in err) == (2, True)
    code, _, err = run(str(tmp_path / "none"), "--out", str(tmp_path / "b"))
    assert (code, "does not exist" in err) == (2, True)
