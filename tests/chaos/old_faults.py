"""The code of 0.1.0 before its faults were mended, put back one at a time: the simulation must find each."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import viewgen.store.commits as commits
import viewgen.store.remote as remote
import viewgen_pipelines.shards.lease as lease
import viewgen_pipelines.shards.worker as worker
from viewgen.errors import LeaseError
from viewgen.store import ObjectExistsError, Storage, write_shard
from viewgen.store.encoding import encode_object

__all__ = ["FAULTS", "put_back"]


def write_over(storage: Storage, spec: Any, shard_id: int, arrays: Any) -> dict[str, dict[str, Any]]:
    """Write the objects of a shard over whatever stands at their names."""
    if commits.standing_record(storage, spec.identity, shard_id)[0]:
        return write_shard(storage, spec, shard_id, arrays)
    layouts = spec.array_layout()
    encoded = {
        layout.object_path(shard_id): encode_object(layout, arrays[name]) for name, layout in layouts.items()
    }
    if record := commits.read_commit(storage, spec.identity, shard_id):
        raise ObjectExistsError(commits.taken_message(record))
    for path, data in encoded.items():
        storage.write(path, data)
    return {
        path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in encoded.items()
    }


def believe_the_answer(self: remote.FsspecStorage, path: str, data: bytes) -> None:
    """Take "exists" for an object of somebody else, and no answer for a request that failed."""
    with self._clear_errors("write", path):
        if self.size(path) is not None:
            raise FileExistsError(path)
        self._put(path, lambda place: self._fs.pipe_file(place, data, mode="create"))


def compare_clocks(
    self: lease.Lease,
    epoch: int,
    sleep: Any,
    parse: Any = lambda data: None if data is None else json.loads(data),
) -> None:
    """Believe in the death of a holder elsewhere by comparing its clock with the own one."""
    record = parse(lease._bytes(self.storage, epoch))
    if record is None or (alive := lease.process_is_alive(record["holder"])) is False:
        return
    age = lease.time.time() - record["heartbeat"]
    if alive is None and age > lease.EXPIRY_SECONDS:
        sleep(1.5 * lease.HEARTBEAT_SECONDS)
        again = parse(lease._bytes(self.storage, epoch))
        if again is None or again["heartbeat"] == record["heartbeat"]:
            return
    raise LeaseError(f"{self.storage.url} is being written by run {record['run_id']}")


def trust_every_lease(data: bytes | None) -> Any:
    """Read a lease file without any check."""
    return None if data is None else json.loads(data)


FAULTS: dict[str, tuple[list[tuple[Any, str, Any]], dict[str, Any]]] = {
    "a stopped process writes over a committed shard": (
        [(worker, "write_shard", write_over)],
        {"damage": False},
    ),
    "a lost answer is believed": (
        [(remote.FsspecStorage, "write_new", believe_the_answer)],
        {"damage": False, "network": ("lost and sent again",)},
    ),
    "a conflict is an error": (
        [(remote, "_CONFLICT_SECONDS", ())],
        {"damage": False, "network": ("409",)},
    ),
    "the clocks of two machines are compared": (
        [(lease.Lease, "_refuse_if_held", compare_clocks)],
        {"damage": False, "clocks": (0.0, 1e6)},
    ),
    "a damaged lease is trusted": ([(lease, "parse_record", trust_every_lease)], {}),
}
"""Name of the fault → (module or class, attribute, value) that put it back, and options of the schedules."""


@contextlib.contextmanager
def put_back(fault: str) -> Iterator[None]:
    """Put one fault back."""
    with contextlib.ExitStack() as stack:
        for place, name, value in FAULTS[fault][0]:
            stack.enter_context(mock.patch.object(place, name, value))
        yield
