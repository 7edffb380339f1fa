"""Creating, resuming, refusing and replacing a cache; killed at every step."""

import json
import os

import numpy as np
import pytest

from viewgen.errors import CacheMismatchError, CorruptDataError, MissingFileError, StorageError
from viewgen.store import (
    CacheReader,
    Column,
    LocalStorage,
    create_cache,
    drop_commits,
    list_commits,
    open_storage,
    pending_shards,
    read_spec,
    verify_cache,
)
from viewgen.store.spec import identity_of

pytestmark = pytest.mark.usefixtures("no_flushing")


def test_the_group_is_plain_zarr(tmp_path, make_spec, write_cache):
    spec = make_spec(arrays=("w_plus", "anchor_w_plus"), latent_shape=(4, 512), label_shape=(3,))
    contents = write_cache(LocalStorage(tmp_path / "c.zarr"), spec)
    import zarr

    # by name: listing the group makes zarr warn about the folder of commit records
    for name, expected in contents.items():
        found = zarr.open_array(str(tmp_path / "c.zarr" / name), mode="r")
        assert found.metadata.dimension_names == spec.array_layout()[name].axes
        np.testing.assert_array_equal(found[...], expected)
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="r")
    assert group.attrs["viewgen"]["format_version"] == 1
    assert group.attrs["viewgen"]["spec"]["method"] == "wsearch"


COLUMNS = (
    Column(name="angle", per_view=True),
    Column(name="swap", dtype="<u1"),
    Column(name="box", per_view=True, dtype="<i2", shape=(4,)),
    Column(name="latent_map", codes=True, dtype="<f2"),
)


def test_columns_of_a_method_are_stored_verified_and_read(tmp_path, make_spec, write_cache):
    import zarr

    url = str(tmp_path / "c.zarr")
    spec = make_spec(columns=COLUMNS, latent_shape=(4, 2, 2))
    contents = write_cache(LocalStorage(url), spec)
    assert verify_cache(url).ok
    reader = CacheReader(url)
    assert reader.spec == spec
    rows = np.array([20, 3, 3, 9])
    for column in COLUMNS:
        np.testing.assert_array_equal(reader.array(column.name, rows), contents[column.name][rows])
        np.testing.assert_array_equal(reader.array(column.name), contents[column.name])
        found = zarr.open_array(f"{url}/{column.name}", mode="r")
        np.testing.assert_array_equal(found[...], contents[column.name])
    assert "latent_map" not in reader.shard(0), "codes are read where they are asked for"
    np.testing.assert_array_equal(reader.shard(0)["box"], contents["box"][:8])

    create_cache(LocalStorage(url), make_spec(), overwrite=True)
    assert not (tmp_path / "c.zarr/angle").exists()


def test_metadata_of_other_writers_is_taken_for_what_it_means(tmp_path, make_spec, write_cache):
    storage = LocalStorage(tmp_path)
    write_cache(storage, make_spec())
    path = "distance/zarr.json"
    document = json.loads(storage.read(path))
    # as 0.1.0 wrote it: keys in another order, defaults left out
    document.pop("storage_transformers", None)
    theirs = json.dumps(dict(sorted(document.items())), indent=2).encode()
    storage.write(path, theirs)
    create_cache(storage, make_spec())
    assert verify_cache(str(tmp_path)).ok
    assert storage.read(path) == theirs
    for change in (
        {"fill_value": 0},
        {"shape": [21, 3]},
        {"codecs": [{"name": "unheard of"}]},
        {"shape": -1},
    ):
        storage.write(path, json.dumps(document | change).encode())
        (fault,) = verify_cache(str(tmp_path)).faults
        assert (fault.kind, fault.path) == ("metadata", path)
        create_cache(storage, make_spec())
        assert verify_cache(str(tmp_path)).ok


def test_rows_that_were_never_written_read_as_fill(tmp_path, make_spec):
    import zarr

    create_cache(LocalStorage(tmp_path), make_spec())
    assert not zarr.open_array(str(tmp_path / "views"), mode="r")[...].any()
    assert not zarr.open_array(str(tmp_path / "status"), mode="r")[...].any()
    assert np.isnan(zarr.open_array(str(tmp_path / "distance"), mode="r")[...]).all()
    assert (zarr.open_array(str(tmp_path / "source_index"), mode="r")[...] == -1).all()


def test_the_same_command_resumes_and_keeps_what_is_there(tmp_path, make_spec, write_cache):
    storage, spec = LocalStorage(tmp_path), make_spec(versions={"torch": "1"})
    write_cache(storage, spec)
    storage.delete("views/zarr.json")
    storage.write("label/zarr.json", b"{torn")
    create_cache(storage, make_spec(versions={"torch": "2"}))
    assert read_spec(storage) == spec
    assert verify_cache(str(tmp_path)).ok


def test_a_cache_that_is_moved_or_touched_stays_what_it_is(tmp_path, make_spec, write_cache):
    """Identity and checks are of contents: neither the place nor the times of files count."""
    storage = open_storage(str(tmp_path / "c.zarr"))
    contents = write_cache(storage, make_spec())
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "c.zarr").rename(tmp_path / "elsewhere/d.zarr")
    for file in moved.rglob("*"):
        os.utime(file, (10, 2_000_000_000))
    storage = open_storage(str(moved))
    create_cache(storage, make_spec())
    assert pending_shards(storage, make_spec()) == []
    assert verify_cache(str(moved)).ok
    reader = CacheReader(str(moved), check="digest")
    np.testing.assert_array_equal(reader.views(reader.rows), contents["views"])


def test_another_configuration_is_refused_with_a_diff(tmp_path, make_spec):
    storage = LocalStorage(tmp_path)
    create_cache(storage, make_spec())
    asked = make_spec(config={"epsilon_boundary": 0.2, "optimiser": {"lr": 0.01}, "new": True}, num_views=4)
    with pytest.raises(CacheMismatchError) as caught:
        create_cache(storage, asked)
    assert caught.value.exit_code == 3
    lines = str(caught.value).splitlines()
    assert lines[0] == f"the cache at {tmp_path} was made with another configuration:"
    assert lines[1:-1] == [
        "  config.epsilon_boundary: the cache has 0.3, this command asks for 0.2",
        "  config.new: the cache has nothing, this command asks for true",
        "  num_views: the cache has 2, this command asks for 4",
    ]
    assert "--overwrite" in lines[-1]
    assert "--out" in lines[-1]


def test_overwrite_replaces_the_cache_but_not_the_lease(tmp_path, make_spec, write_cache):
    storage = LocalStorage(tmp_path)
    write_cache(storage, make_spec(arrays=("w_plus",), latent_shape=(2, 4)))
    storage.write("run/lease.json", b"mine")
    storage.write("run/attempts/3", b"1")
    create_cache(storage, make_spec(seed=8), overwrite=True)
    assert read_spec(storage) == make_spec(seed=8)
    folders = {path.partition("/")[0] for path in storage.paths()} - {"zarr.json"}
    assert folders == {"run", *make_spec().array_layout()}
    assert storage.paths("run") == ["run/lease.json"]
    assert storage.paths("views") == ["views/zarr.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["holiday.jpg", "views/c.0"])
def test_a_folder_that_is_no_cache_is_never_touched(tmp_path, make_spec, name, overwrite):
    storage = LocalStorage(tmp_path)
    storage.write(name, b"precious")
    with pytest.raises(StorageError, match="is not empty and no viewgen cache"):
        create_cache(storage, make_spec(), overwrite=overwrite)
    assert storage.paths() == [name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_zarr_group_is_never_touched(tmp_path, make_spec, overwrite):
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"title": "climate"}}
    storage = LocalStorage(tmp_path)
    storage.write("zarr.json", json.dumps(document).encode())
    with pytest.raises(StorageError, match="a Zarr group, but no viewgen cache"):
        create_cache(storage, make_spec(), overwrite=overwrite)
    assert storage.paths() == ["zarr.json"]


def test_overwrite_leaves_foreign_files_beside_the_arrays(tmp_path, make_spec, write_cache):
    storage = LocalStorage(tmp_path)
    write_cache(storage, make_spec())
    storage.write("notes.txt", b"precious")
    create_cache(storage, make_spec(seed=8), overwrite=True)
    assert storage.read("notes.txt") == b"precious"


def test_no_cache_and_a_newer_cache(tmp_path, make_spec):
    storage = LocalStorage(tmp_path)
    with pytest.raises(MissingFileError, match="no cache at"):
        read_spec(storage)
    create_cache(storage, make_spec())
    document = json.loads(storage.read("zarr.json"))
    entry = document["attributes"]["viewgen"]
    entry |= {"format_version": 2, "identity": identity_of(entry["spec"], 2)}
    storage.write("zarr.json", json.dumps(document).encode())
    with pytest.raises(StorageError, match="cache format 2"):
        read_spec(storage)


def test_any_flipped_bit_of_the_specification_is_found(tmp_path, make_spec, write_cache):
    storage, path = LocalStorage(tmp_path), tmp_path / "zarr.json"
    write_cache(storage, make_spec(versions={"torch": "2.13"}))
    sound = path.read_bytes()
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=r"zarr\.json is damaged"):
            read_spec(storage)
    path.write_bytes(sound)
    assert read_spec(storage).versions == {"torch": "2.13"}


def test_creation_killed_anywhere_is_taken_up(make_spec, kill_everywhere):
    spec = make_spec()
    states = 0
    for storage in kill_everywhere(lambda storage: create_cache(storage, spec)):
        create_cache(storage, spec)
        assert not verify_cache(storage.url).faults
        states += 1
    assert states == 1 + len(spec.array_layout())


def test_overwriting_killed_anywhere_is_taken_up(tmp_path, make_spec, write_cache, kill_everywhere):
    old, new = make_spec(), make_spec(seed=8)
    old_cache = LocalStorage(tmp_path / "old")
    write_cache(old_cache, old)

    def replace(storage):
        create_cache(storage, new, overwrite=True)

    for storage in kill_everywhere(replace, old_cache):
        if pending_shards(storage, old) == [0, 1, 2]:
            # once no record is trusted, at most the arrays' documents are gone
            assert {fault.kind for fault in verify_cache(storage.url).faults} <= {"metadata"}
        create_cache(storage, new, overwrite=True)
        assert read_spec(storage) == new
        assert pending_shards(storage, new) == [0, 1, 2]
        assert storage.paths("views") == ["views/zarr.json"]


def test_a_shard_killed_anywhere_is_not_there_and_can_be_written_again(
    tmp_path, make_spec, write_cache, kill_everywhere
):
    spec = make_spec()
    new_cache = LocalStorage(tmp_path / "new")
    create_cache(new_cache, spec)

    def write(storage):
        write_cache(storage, spec)

    for storage in kill_everywhere(write, new_cache):
        assert not verify_cache(storage.url).faults
        done = set(list_commits(storage, spec))
        assert {storage.exists(f"commits/{shard:08d}.json") for shard in done} <= {True}
        assert done | set(pending_shards(storage, spec)) == {0, 1, 2}
        drop_commits(storage, spec, done)
        write_cache(storage, spec)
        assert verify_cache(storage.url).ok
