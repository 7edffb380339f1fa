"""`verify` finds every fault, `--repair` makes faulty shards pending, `show` tells what is there."""

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewgen.cli import main
from viewgen.store import (
    LocalStorage,
    ShardCommit,
    commit_shard,
    compact_commits,
    create_cache,
    drop_commits,
    pending_shards,
    repair_cache,
    summarise_cache,
    verify_cache,
    write_shard,
)

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture
def spec(make_spec):
    return make_spec()


@pytest.fixture
def storage(tmp_path, spec, write_cache):
    storage = LocalStorage(tmp_path / "c.zarr")
    write_cache(storage, spec)
    return storage


def kinds(storage):
    return [(fault.shard, fault.kind) for fault in verify_cache(storage.url).faults]


def test_a_sound_cache(storage):
    report = verify_cache(storage.url)
    assert report.ok
    assert (report.num_shards, report.committed, report.exit_code) == (3, 3, 0)
    assert (report.faults, report.missing, report.quarantined, report.notes) == ([], [], [], [])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_and_any_cut_is_a_fault(tmp_path_factory, make_spec, write_cache, data):
    """Whatever file of the cache, whichever bit."""
    url = tmp_path_factory.getbasetemp() / "shared.zarr"
    storage, spec = LocalStorage(url), make_spec()
    if not url.exists():
        write_cache(storage, spec)
    path = data.draw(st.sampled_from(storage.paths()))
    sound = storage.read(path)
    damaged = bytearray(sound)
    place = data.draw(st.integers(0, len(sound) - 1))
    if data.draw(st.booleans()):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[place:]
    # in place, as a failing disk would: the store's own writes flush, which is slow
    storage.local_path(path).write_bytes(damaged)
    try:
        report = verify_cache(storage.url)
        assert report.exit_code == 5
        assert any(fault.path == path for fault in report.faults)
    finally:
        storage.local_path(path).write_bytes(sound)
    assert verify_cache(storage.url).ok


def test_sizes_alone_tell_what_is_gone_or_cut_and_read_no_object(storage, spec, monkeypatch):
    objects = {shard: spec.array_layout()["views"].object_path(shard) for shard in range(3)}
    storage.local_path(objects[0]).unlink()
    data = bytearray(storage.read(objects[1]))
    storage.local_path(objects[1]).write_bytes(data[:-1])
    flipped = bytearray(storage.read(objects[2]))
    flipped[5] ^= 1
    storage.local_path(objects[2]).write_bytes(flipped)
    assert kinds(storage) == [(0, "missing"), (1, "size"), (2, "digest")]
    monkeypatch.setattr(LocalStorage, "read_range", _no_object(LocalStorage.read_range))
    report = verify_cache(storage.url, contents=False)
    assert [(fault.shard, fault.kind, fault.path) for fault in report.faults] == [
        (0, "missing", objects[0]), (1, "size", objects[1]),
    ]  # fmt: skip
    assert report.missing == []


def _no_object(read_range):
    def read(self, path, start, length):
        assert "/c." not in path, path
        return read_range(self, path, start, length)

    return read


def test_a_shard_that_is_committed_after_the_listing_is_sound(storage, monkeypatch):
    monkeypatch.setattr(LocalStorage, "sizes", lambda self, prefix="": {})
    assert verify_cache(storage.url, contents=False).faults == []


def test_a_key_that_zarr_passes_over(storage):
    """One bit: the endianness is no longer said, and zarr takes its default."""
    path = "inversion_error/zarr.json"
    sound = storage.read(path)
    assert b"configuration" in sound
    codec = sound.index(b'"configuration"', sound.index(b'"codecs"'))
    storage.local_path(path).write_bytes(sound[:codec] + sound[codec:].replace(b"c", b"b", 1))
    (fault,) = verify_cache(storage.url).faults
    assert (fault.path, fault.kind) == (path, "metadata")
    # zarr 3.4 misses the key itself
    assert re.search("holds 'bonfiguration', which is no key of Zarr's|`endian` configuration", fault.detail)


def test_missing_shards_and_leftovers(storage, spec):
    drop_commits(storage, spec, [1])
    report = verify_cache(storage.url)
    assert (report.ok, report.exit_code, report.missing, report.faults) == (False, 4, [1], [])
    assert report.notes == ["7 objects of uncommitted shards, left by a run that was stopped"]
    storage.write("views/notes.txt", b"")
    assert verify_cache(storage.url).notes[1] == "1 objects that are not the cache's: views/notes.txt"


def test_a_missing_object(storage, spec):
    storage.delete(spec.array_layout()["label"].object_path(2))
    assert kinds(storage) == [(2, "missing")]


def test_a_record_of_another_cache(storage, make_spec, shard_arrays):
    other = make_spec(seed=8)
    commit = ShardCommit.from_bytes(storage.read("commits/00000001.json"), "")
    changed = json.loads(commit.to_bytes()) | {"identity": other.identity}
    del changed["digest"]
    changed["status"] = bytes(map(int, changed["status"]))
    storage.write("commits/00000001.json", ShardCommit(**changed).to_bytes())
    report = verify_cache(storage.url)
    assert [(fault.shard, fault.kind) for fault in report.faults] == [(1, "identity")]
    assert report.missing == [1]


def test_a_record_under_another_name(storage):
    storage.write("commits/00000002.json", storage.read("commits/00000001.json"))
    assert kinds(storage) == [(2, "commit")]


def rewrite(storage, spec, shard_id, name, data, **changes):
    """Replace an object and make the record agree with it: the fault is in the contents alone."""
    commit = ShardCommit.from_bytes(storage.read(f"commits/{shard_id:08d}.json"), "")
    path = spec.array_layout()[name].object_path(shard_id)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document = {name: getattr(commit, name) for name in ShardCommit.__dataclass_fields__}
    document |= {"objects": {**commit.objects, path: entry}, **changes}
    storage.write(path, data)
    storage.write(f"commits/{shard_id:08d}.json", ShardCommit(**document).to_bytes())


def test_an_index_that_leads_elsewhere(storage, spec):
    path = spec.array_layout()["views"].object_path(1)
    data = bytearray(storage.read(path))
    data[-12] ^= 1
    rewrite(storage, spec, 1, "views", bytes(data))
    assert kinds(storage) == [(1, "index")]


def test_a_status_that_differs_from_the_record(storage, spec):
    path = spec.array_layout()["status"].object_path(1)
    rewrite(storage, spec, 1, "status", storage.read(path), status=[1, 1, 1, 1, 1, 1, 1, 2])
    assert kinds(storage) == [(1, "status")]


def test_an_image_that_occurs_twice(tmp_path, make_spec, shard_arrays):
    spec, storage = make_spec(), LocalStorage(tmp_path)
    create_cache(storage, spec)
    for shard_id in range(3):
        arrays = shard_arrays(spec, shard_id)
        if shard_id == 2:
            arrays["source_index"][1] = 3
        objects = write_shard(storage, spec, shard_id, arrays)
        commit_shard(
            storage,
            ShardCommit(shard_id=shard_id, identity=spec.identity, objects=objects, status=arrays["status"]),
        )
    report = verify_cache(str(tmp_path))
    assert [(fault.shard, fault.kind) for fault in report.faults] == [(2, "duplicate")]
    assert "[3]" in report.faults[0].detail


@pytest.mark.parametrize("compacted", [False, True])
def test_repair_makes_faulty_shards_pending(storage, spec, write_cache, compacted):
    if compacted:
        compact_commits(storage, spec)
    storage.delete(spec.array_layout()["label"].object_path(2))
    storage.write(spec.array_layout()["views"].object_path(0), b"")
    report = verify_cache(storage.url)
    assert repair_cache(storage.url, None, report) == [0, 2]
    assert pending_shards(storage, spec) == [0, 2]
    assert verify_cache(storage.url).faults == []


def test_repair_of_a_damaged_line_in_a_compacted_block(storage, spec):
    compact_commits(storage, spec)
    path = "commits/compacted-00000000.jsonl"
    storage.write(path, storage.read(path).replace(b'"shard_id":1', b'"shard_id":2', 1))
    report = verify_cache(storage.url)
    assert [(fault.shard, fault.kind) for fault in report.faults] == [(None, "commit")]
    assert repair_cache(storage.url, None, report) == []
    assert pending_shards(storage, spec) == [1]
    assert verify_cache(storage.url).faults == []


def test_progress_is_told(storage):
    told = []
    verify_cache(storage.url, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def run(capsys, *words):
    """Run the command line; return exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_the_verify_command(storage, spec, capsys):
    code, out, _ = run(capsys, "verify", storage.url)
    assert code == 0
    assert "3 of 3 shards committed, 0 faults" in out
    code, out, _ = run(capsys, "verify", storage.url, "--json")
    assert code == 0
    assert {key: json.loads(out)[key] for key in ("ok", "shards", "faults")} == {
        "ok": True,
        "shards": 3,
        "faults": [],
    }

    storage.write(spec.array_layout()["views"].object_path(0), b"")
    code, out, _ = run(capsys, "verify", storage.url)
    assert code == 5
    assert "size" in out
    code, out, _ = run(capsys, "verify", storage.url, "--json")
    assert code == 5
    assert json.loads(out)["faults"][0]["kind"] == "size"
    code, out, _ = run(capsys, "verify", storage.url, "--repair")
    assert code == 5
    assert "run the same `viewgen cache` command again" in " ".join(out.split())
    code, out, _ = run(capsys, "verify", storage.url, "--json")
    assert code == 4
    assert json.loads(out)["missing"] == [0]

    code, out, err = run(capsys, "verify", f"{storage.url}x")
    assert (code, out) == (1, "")
    assert "no cache at" in err


def test_quarantined_images_are_exit_code_4(tmp_path, make_spec, write_cache, capsys):
    write_cache(LocalStorage(tmp_path), make_spec(), status=[1] * 9 + [3] + [1] * 11)
    code, out, _ = run(capsys, "verify", str(tmp_path), "--json")
    assert code == 4
    assert json.loads(out)["quarantined"] == [9]


def test_the_show_command(tmp_path, make_spec, write_cache, capsys):
    spec = make_spec(config={"epsilon_boundary": 0.5, "note": "[bold]"}, versions={"torch": "2.13"})
    status = [1] * 18 + [2, 2, 3]
    contents = write_cache(LocalStorage(tmp_path), spec, status=status)
    drop_commits(LocalStorage(tmp_path), spec, [0])
    code, out, _ = run(capsys, "show", str(tmp_path), "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary == summarise_cache(str(tmp_path))
    assert summary["images"] == {"ok": 10, "not_converged": 2, "failed": 1, "absent": 8}
    assert summary["shards"] == {"committed": 2, "expected": 3, "images_per_shard": 8}
    distance = contents["distance"][8:20].astype(float)
    assert summary["distance"]["mean"] == pytest.approx(distance.mean())
    assert summary["distance_ratio"] == pytest.approx(distance.mean() / 0.5)
    assert summary["mean_pairwise"] == pytest.approx(0.4)
    assert summary["views_per_second"] == pytest.approx(12 * 2 / 4)
    sizes = [path.stat().st_size for path in tmp_path.rglob("c.*") if not path.name.startswith("c.0")]
    assert summary["bytes"] == sum(sizes)
    code, out, _ = run(capsys, "show", str(tmp_path))
    assert code == 0
    for text in ("10 ok, 2 not converged, 1 failed, 8 absent", "wsearch", "note = [bold]", "ε₁ 0.5"):
        assert text in out


@pytest.mark.parametrize("command", ["verify", "show"])
def test_help_has_an_example(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"viewgen {command} views.zarr" in out
    assert "--storage-option KEY=VALUE" in out


WRITER = """
import os, sys
import numpy as np
from viewgen.store import *
url, seed = sys.argv[1], int(sys.argv[2])
spec = CacheSpec(dataset={}, method="test", config={}, models={}, seed=0, num_images=4000, num_views=8,
                 height=16, width=16, shard_images=50)
storage = open_storage(url)
import zarr  # what takes longest to begin with
print("ready", flush=True)
create_cache(storage, spec)
random = np.random.default_rng(seed)
for shard_id in pending_shards(storage, spec):
    arrays = {name: random.integers(0, 99, (50, *layout.row_shape)).astype(layout.dtype)
              for name, layout in spec.array_layout().items()}
    arrays["source_index"] = np.array(spec.shard_rows(shard_id))
    arrays["status"][:] = 1
    objects = write_shard(storage, spec, shard_id, arrays)
    commit_shard(storage, ShardCommit(shard_id=shard_id, identity=spec.identity, objects=objects,
                                      status=arrays["status"]))
"""


def test_sigkill_at_random_moments_never_leaves_a_torn_committed_shard(tmp_path):
    random = np.random.default_rng(0)
    url = str(tmp_path / "c.zarr")
    committed = 0
    for attempt in range(7):
        command = [sys.executable, "-c", WRITER, url, str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            if attempt == 6:
                # on a busy machine none of the others may have come so far
                deadline = time.monotonic() + 60
                while not list(Path(url).glob("commits/*.json")) and time.monotonic() < deadline:
                    time.sleep(0.05)
            try:
                writer.wait(timeout=float(random.uniform(0.001, 0.6)))
            except subprocess.TimeoutExpired:
                writer.kill()
        storage = LocalStorage(url)
        if storage.exists("zarr.json"):
            report = verify_cache(url)
            assert [fault for fault in report.faults if fault.kind != "metadata"] == []
            assert report.committed >= committed
            committed = report.committed
    assert committed > 0


def test_temporary_files_of_killed_writers_are_noted(tmp_path, write_cache, make_spec):
    url = str(tmp_path / "c.zarr")
    write_cache(LocalStorage(url), make_spec())
    (tmp_path / "c.zarr/steps/.c.2.77.abcd.viewgen-tmp").write_bytes(b"half")
    report = verify_cache(url)
    assert report.ok
    assert len(report.notes) == 1
    assert "1 temporary files of writers" in report.notes[0]
    assert "steps/.c.2.77.abcd.viewgen-tmp" in report.notes[0]
