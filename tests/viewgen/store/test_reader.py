"""The reader gives what was written, only what was committed, and nothing that was damaged."""

import dataclasses
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.store import (
    CacheReader,
    LocalStorage,
    ShardCommit,
    compact_commits,
    create_cache,
    open_storage,
)
from viewgen.store.encoding import encode_object

pytestmark = pytest.mark.usefixtures("no_flushing")
SHAPE = {"num_images": 37, "shard_images": 12, "height": 112, "width": 112, "num_views": 3}
"""Three inner chunks of four images per shard, one row in the last shard."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory, make_spec, write_cache):
    """A cache on disk and, equal, in memory; every fifth row failed, every seventh did not converge."""
    spec = make_spec(**SHAPE, arrays=("w_plus", "anchor_w_plus"), latent_shape=(3, 512), label_shape=(2,))
    views = spec.array_layout()["views"]
    assert spec.shard_images // views.chunk_rows > 1
    status = np.ones(37, np.uint8)
    status[::7], status[4::5] = 2, 3
    url = str(tmp_path_factory.mktemp("cache"))
    contents = write_cache(LocalStorage(url), spec, status=status)
    memory = f"memory://{url}"
    write_cache(open_storage(memory), spec, status=status)
    yield {"local": url, "remote": memory, "contents": contents, "status": status, "spec": spec}
    open_storage(memory).delete_tree("")


@pytest.fixture(params=["local", "remote", "mirror"])
def open_reader(request, cache, tmp_path):
    """Return a function that opens the cache: memory-mapped, by range requests, through a mirror."""

    def make(**options):
        if request.param == "mirror":
            return CacheReader(cache["remote"], mirror=tmp_path / "mirror", **options)
        return CacheReader(cache[request.param], **options)

    return make


def test_rows_are_those_with_views(open_reader, cache):
    reader = open_reader()
    np.testing.assert_array_equal(reader.rows, np.flatnonzero(cache["status"] < 3))
    assert len(reader) == len(reader.rows)
    assert reader.committed == [0, 1, 2, 3]
    np.testing.assert_array_equal(reader.status, cache["status"])
    failed = open_reader(statuses=[3])
    np.testing.assert_array_equal(failed.rows, np.flatnonzero(cache["status"] == 3))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["local", "remote"])
def test_any_rows_in_any_order(kind, cache, data):
    reader, views = CacheReader(cache[kind]), cache["contents"]["views"]
    rows = data.draw(st.lists(st.sampled_from(reader.rows.tolist()), max_size=20))
    index = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    np.testing.assert_array_equal(reader.views(rows), views[rows])
    np.testing.assert_array_equal(reader.views(rows, np.array(index, np.int64)), views[rows, index])
    np.testing.assert_array_equal(reader.views(np.array(rows, np.uint32), 2), views[rows, 2])
    for name, expected in cache["contents"].items():
        found = reader.array(name, rows)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected[rows])


def test_single_rows(open_reader, cache):
    reader, views = open_reader(), cache["contents"]["views"]
    for row in reader.rows:
        np.testing.assert_array_equal(reader.views(int(row)), views[row])
        np.testing.assert_array_equal(reader.views(row, 1), views[row, 1])


def test_results_belong_to_the_caller(open_reader, cache):
    reader = open_reader()
    for read in (
        lambda: reader.views(0),
        lambda: reader.views([0]),
        lambda: reader.shard(0)["label"],
        lambda: reader.labels,
    ):
        before = read().copy()
        read()[...] = 9
        np.testing.assert_array_equal(read(), before)


def test_a_buffer_is_filled_in_place(open_reader, cache):
    reader = open_reader()
    out = np.zeros((3, 3, 3, 112, 112), np.uint8)
    assert reader.views([0, 1, 36], out=out) is out
    np.testing.assert_array_equal(out, cache["contents"]["views"][[0, 1, 36]])
    one = np.zeros((3, 112, 112), np.uint8)
    reader.views(36, 2, out=one)
    np.testing.assert_array_equal(one, cache["contents"]["views"][36, 2])
    for wrong in (out[:2], out.astype(np.int8), out[..., ::-1]):
        with pytest.raises(UsageError, match="out is"):
            reader.views([0, 1, 36], out=wrong)


def test_columns_are_aligned_with_rows(open_reader, cache):
    reader, contents = open_reader(), cache["contents"]
    np.testing.assert_array_equal(reader.labels, contents["label"][reader.rows])
    np.testing.assert_array_equal(reader.source_index, reader.rows)
    np.testing.assert_array_equal(reader.distance, contents["distance"][reader.rows])
    np.testing.assert_array_equal(reader.array("w_plus"), contents["w_plus"][reader.rows])


def test_shards_in_any_order(open_reader, cache):
    reader, contents = open_reader(), cache["contents"]
    seen = []
    for shard in reader.iter_shards(order=[2, 0, 3, 1]):
        seen.append(shard["row"])
        assert set(shard) == {"row", *contents} - {"w_plus", "anchor_w_plus"}
        for name, values in shard.items():
            if name != "row":
                np.testing.assert_array_equal(values, contents[name][shard["row"]])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), reader.rows)
    only = reader.shard(1, ["w_plus", "label"])
    assert list(only) == ["row", "w_plus", "label"]
    np.testing.assert_array_equal(only["w_plus"], contents["w_plus"][only["row"]])


@pytest.mark.parametrize(
    ("rows", "view", "message"),
    [
        ([0, 4], None, "row 4 is absent or failed"),
        (4, None, "row 4 is absent or failed"),
        (-1, None, "outside 0 … 36"),
        ([37], None, "outside 0 … 36"),
        ([0.5], None, "expected integers"),
        ([[0]], None, "expected integers"),
        ([0], 3, "view index is outside 0 … 2"),
        (0, -1, "view index is outside 0 … 2"),
        ([0, 1, 2], [0, 1], r"expected an integer or integers \(3,\)"),
        ([0], 0.5, "view_index is float64"),
    ],
)
def test_what_cannot_be_read_is_named(open_reader, rows, view, message):
    with pytest.raises(UsageError, match=message):
        open_reader().views(rows, view)


def test_unknown_names_are_named(open_reader):
    reader = open_reader()
    with pytest.raises(UsageError, match="did you mean 'distance'"):
        reader.array("distanse")
    with pytest.raises(UsageError, match="distanse"):
        reader.shard(0, ["distanse"])
    with pytest.raises(UsageError, match="shard 4 is not committed"):
        reader.shard(4)
    with pytest.raises(UsageError, match="check is 'everything'"):
        open_reader(check="everything")


def test_it_travels_by_pickle(open_reader, cache):
    reader = open_reader()
    reader.views([0])
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(reader)).views([36]), cache["contents"]["views"][[36]]
    )


def test_more_shards_than_open_files(cache, monkeypatch):
    reader = CacheReader(cache["local"])
    monkeypatch.setattr(reader._views, "_most_maps", 1)
    for rows in ([0, 12, 25, 36], [36, 12, 0, 26]):
        np.testing.assert_array_equal(reader.views(rows), cache["contents"]["views"][rows])
    assert len(reader._views._maps) == 1


def test_a_mirror_is_filled_once_and_then_read_without_the_source(tmp_path, make_spec, write_cache):
    spec, url = make_spec(**SHAPE), f"memory://{tmp_path}/mirrored"
    contents = write_cache(open_storage(url), spec)
    CacheReader(url, mirror=tmp_path / "mirror").views([0, 12])
    for shard in (0, 1):
        open_storage(url).delete(spec.array_layout()["views"].object_path(shard))
    again = CacheReader(url, mirror=tmp_path / "mirror")
    np.testing.assert_array_equal(again.views([1, 13]), contents["views"][[1, 13]])
    copy = next((tmp_path / "mirror").rglob("c.0.0*"))
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match="is missing"):
        CacheReader(url, mirror=tmp_path / "mirror").views([0])


@pytest.fixture(scope="module")
def small_spec(make_spec):
    return make_spec(**SHAPE)


@pytest.fixture(scope="module", params=["local", "remote", "mirror"])
def url(request, tmp_path_factory, small_spec, write_cache):
    """One cache for all; every test puts back what it damages."""
    folder = tmp_path_factory.mktemp(request.param)
    url = str(folder / "c") if request.param == "local" else f"memory://{folder}"
    write_cache(open_storage(url), small_spec)
    yield url
    if request.param != "local":
        open_storage(url).delete_tree("")


@pytest.fixture
def storage(url):
    return open_storage(url)


@pytest.fixture
def open_damaged(url, tmp_path):
    mirror = tmp_path if "mirror" in url else None
    return lambda **options: CacheReader(url, mirror=mirror, **options)


@pytest.fixture
def damage(storage):
    """Return a function that replaces an object, or deletes it, until the test ends."""
    sound = {}

    def replace(path, data):
        sound[path] = storage.read(path)
        storage.delete(path)
        if data is not None:
            storage.write(path, data)

    yield replace
    for path, data in sound.items():
        storage.write(path, data)


@pytest.mark.parametrize("check", ["size", "crc", "digest"])
@pytest.mark.parametrize("name", ["views", "label"])
@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "longer"])
def test_missing_and_truncated_objects(storage, open_damaged, damage, small_spec, name, fault, check):
    path = small_spec.array_layout()[name].object_path(1)
    data = storage.read(path)
    damage(path, {"missing": None, "empty": b"", "truncated": data[:-1], "longer": data + b"\0"}[fault])
    reader = open_damaged(check=check)
    reader.array(name, [0, 24])
    with pytest.raises(CorruptDataError, match=r"(is missing|bytes).*verify --repair"):
        reader.array(name, [0, 13])
    with pytest.raises(CorruptDataError):
        list(reader.iter_shards())


@pytest.mark.parametrize("check", ["crc", "digest"])
@pytest.mark.parametrize("name", ["views", "label", "distance"])
def test_flipped_bits(storage, open_damaged, damage, small_spec, name, check):
    path = small_spec.array_layout()[name].object_path(1)
    data = bytearray(storage.read(path))
    data[5] ^= 64
    damage(path, bytes(data))
    reader = open_damaged(check=check)
    reader.array(name, [0, 24])
    for _ in range(2):
        with pytest.raises(CorruptDataError, match=path):
            reader.array(name, [12])
    with pytest.raises(CorruptDataError, match=path):
        reader.shard(1)


EVERY_ARRAY = ["views", "source_index", "label", "distance", "steps", "inversion_error", "status"]


@pytest.mark.parametrize("origin", ["another shard", "another cache"])
@pytest.mark.parametrize("name", EVERY_ARRAY)
def test_an_exchanged_object(storage, open_damaged, damage, small_spec, shard_arrays, name, origin):
    """Sound objects at the wrong place: their checksums are not those of the commit record."""
    layout = small_spec.array_layout()[name]
    theirs = storage.read(layout.object_path(0))
    if origin == "another cache":
        arrays = shard_arrays(small_spec, 1, seed=99)
        arrays["status"] = np.full_like(arrays["status"], 2)
        arrays["source_index"] = arrays["source_index"][::-1]
        theirs = encode_object(layout, arrays[name])
    path = layout.object_path(1)
    same = theirs == storage.read(path)
    damage(path, theirs)
    for check in ("crc", "digest"):
        reader = open_damaged(check=check)
        reader.array(name, [0, 24])
        if same:
            assert (name, origin) == ("status", "another shard"), "all rows of both are ok"
            continue
        with pytest.raises(CorruptDataError, match=path):
            reader.array(name, [0, 13])
        with pytest.raises(CorruptDataError, match=path):
            reader.shard(1, [name])
        if name == "views":
            with pytest.raises(CorruptDataError, match=path):
                reader.views([13], 1)
            with pytest.raises(CorruptDataError, match=path):
                reader.views(13)


def test_chunks_exchanged_within_an_object(cache):
    """Three chunks of a shard in another order."""
    spec, storage = cache["spec"], open_storage(cache["local"])
    layout = spec.array_layout()["views"]
    path = layout.object_path(1)
    sound = storage.read(path)
    size = layout.chunk_rows * layout.row_bytes + 4
    storage.write(path, sound[size : 2 * size] + sound[:size] + sound[2 * size :])
    try:
        reader = CacheReader(cache["local"])
        reader.views([0, 32], 0)
        with pytest.raises(CorruptDataError, match="not the object that was committed there"):
            reader.views([12], 0)
    finally:
        storage.write(path, sound)


def test_records_without_checksums_are_read_as_before(storage, open_damaged, damage, small_spec):
    """Records of 0.1.0: the digest tells an exchanged object, the checksums alone do not."""
    path = "commits/00000001.json"
    commit = ShardCommit.from_bytes(storage.read(path), path)
    old = {name: {"bytes": e["bytes"], "sha256": e["sha256"]} for name, e in commit.objects.items()}
    damage(path, dataclasses.replace(commit, objects=old).to_bytes())
    before = open_damaged().distance
    assert len(before) == small_spec.num_images
    theirs = storage.read("distance/c.0.0")
    damage("distance/c.1.0", theirs)
    np.testing.assert_array_equal(open_damaged().array("distance", [12]), before[:1])
    with pytest.raises(CorruptDataError):
        open_damaged(check="digest").array("distance", [12])


def test_damaged_records_are_left_out_with_a_warning(storage, open_damaged, damage, small_spec):
    path = "commits/00000001.json"
    damage(path, storage.read(path).replace(b"1", b"2", 1))
    with pytest.warns(UserWarning, match="1 commit records are damaged"):
        reader = open_damaged()
    assert reader.committed == [0, 2, 3]
    assert not set(reader.rows) & set(small_spec.shard_rows(1))


def test_uncommitted_objects_are_not_there(open_damaged, damage):
    damage("commits/00000001.json", None)
    reader = open_damaged()
    assert reader.committed == [0, 2, 3]
    with pytest.raises(UsageError, match="row 13 is absent"):
        reader.views([13])


def test_a_damaged_index_on_disk(tmp_path, make_spec, write_cache):
    spec = make_spec()
    write_cache(LocalStorage(tmp_path), spec)
    path = tmp_path / spec.array_layout()["views"].object_path(0)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="shard index is damaged"):
        CacheReader(str(tmp_path), check="size").views(0)


def test_a_compacted_log_reads_alike(make_spec, write_cache):
    url, spec = "memory://compacted", make_spec()
    write_cache(open_storage(url), spec)
    before = CacheReader(url).commits
    compact_commits(open_storage(url), spec)
    assert CacheReader(url).commits == before
    open_storage(url).delete_tree("")


def test_no_cache(tmp_path):
    with pytest.raises(MissingFileError, match="no cache at"):
        CacheReader(str(tmp_path))


def test_an_empty_cache(tmp_path, make_spec):
    create_cache(LocalStorage(tmp_path), make_spec())
    reader = CacheReader(str(tmp_path))
    assert len(reader) == 0
    assert reader.views([]).shape == (0, 2, 3, 4, 4)
    assert reader.distance.shape == (0, 2)
    assert list(reader.iter_shards()) == []
    assert os.listdir(tmp_path / "views") == ["zarr.json"]
