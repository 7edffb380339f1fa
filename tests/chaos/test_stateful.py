"""A stateful model of a cache: writes, crashes, resumed runs, cleaning, damage and reads in any order.

The model is a dict of what was committed. In `make test` the storage is in memory; in `make chaos` it is an
S3 server that answers with 409, 412 or 500 after the write, 503, slowly, or with half of an object.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from viewgen.errors import CorruptDataError, StorageError
from viewgen.store import (
    CacheReader,
    ObjectExistsError,
    ShardCommit,
    commit_shard,
    compact_commits,
    create_cache,
    list_commits,
    open_storage,
    pending_shards,
    repair_cache,
    verify_cache,
    write_plain_copies,
    write_shard,
)
from viewgen.store import names as store_names
from viewgen.testing.caches import random_shard, small_spec
from viewgen_pipelines.shards.lease import Lease
from viewgen_pipelines.shards.ledger import AttemptLedger

SPEC = small_spec(num_images=20, shard_images=4)
SHARDS = st.integers(0, SPEC.num_shards - 1)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing in the packages catches it."""


class CacheMachine(RuleBasedStateMachine):
    """One cache; subclasses say where it is, and which faults its server has."""

    faults: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.url, self.options = self.place()
        self.storage = open_storage(self.url, self.options)
        create_cache(self.storage, SPEC)
        # shard → the seed of its committed contents; shards of damaged files are those that may go
        self.committed: dict[int, int] = {}
        self.damaged: set[int] = set()
        self.seeds = 0

    def place(self) -> tuple[str, dict[str, Any]]:
        return f"memory://{uuid.uuid4().hex}", {}

    def plan(self, faults: list[str]) -> None:
        """Let the next requests have these faults."""

    def teardown(self) -> None:
        self.plan([])
        self.storage.delete_tree("")

    def attempt(self, shard_id: int, life: int | None = None) -> None:
        """Make one shard as a worker does, up to its commit or to its death before a write."""
        storage = self.storage if life is None else _Mortal(self.url, self.options, life)
        self.seeds += 1
        seed = self.seeds
        arrays = random_shard(SPEC, shard_id, seed)
        record = None
        try:
            ledger = AttemptLedger(storage, f"run-{seed}", 100)
            attempt = ledger.begin(shard_id)
            objects = write_shard(storage, SPEC, shard_id, arrays)
            record = ShardCommit(
                shard_id=shard_id,
                identity=SPEC.identity,
                objects=objects,
                status=arrays["status"].tobytes(),
                attempt=attempt.number,
                run_id=f"run-{seed}",
            )
            commit_shard(storage, record)
        except ObjectExistsError:
            assert shard_id in self.committed or shard_id in self.damaged
            return
        except (_Killed, StorageError):
            # what was asked for last may have been done
            if record is not None and self._stands(record):
                self.committed[shard_id] = seed
            return
        assert shard_id not in self.committed, "a committed shard was committed again"
        self.committed[shard_id] = seed
        self.damaged.discard(shard_id)

    def _stands(self, record: ShardCommit) -> bool:
        self.plan([])
        found = list_commits(self.storage, SPEC).get(record.shard_id)
        return found is not None and found.objects == record.objects

    @rule(shard_id=SHARDS, data=st.data())
    def write(self, shard_id: int, data: st.DataObject) -> None:
        self.plan(data.draw(st.lists(st.sampled_from(self.faults), max_size=3)) if self.faults else [])
        self.attempt(shard_id)
        self.plan([])

    @rule(shard_id=SHARDS, life=st.integers(0, 9))
    def crash(self, shard_id: int, life: int) -> None:
        self.attempt(shard_id, life)

    @rule(data=st.data())
    def clean_up(self, data: st.DataObject) -> None:
        """Compaction, plain copies and the ledger's end, as at the end of a run, maybe under faults."""
        self.plan(data.draw(st.lists(st.sampled_from(self.faults), max_size=2)) if self.faults else [])
        try:
            with Lease(self.storage) as lease:
                ledger = AttemptLedger(self.storage, lease.run_id, 100)
                commits = list_commits(self.storage, SPEC)
                ledger.judge_earlier_runs(commits)
                compact_commits(self.storage, SPEC)
                ledger.forget(commits.__contains__)
                write_plain_copies(self.storage, SPEC, commits.values())
        except StorageError:
            pass
        self.plan([])

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        shard_id = data.draw(st.sampled_from(sorted(self.committed)))
        path = data.draw(st.sampled_from(sorted(list_commits(self.storage, SPEC)[shard_id].objects)))
        content = bytearray(self.storage.read(path))
        how = data.draw(st.sampled_from(["deleted", "cut", "flipped"]))
        if how == "deleted":
            self.storage.delete(path)
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1
            self.storage.write(path, bytes(content[:-1] if how == "cut" else content))
        report = verify_cache(self.url, self.options)
        assert {fault.shard for fault in report.faults} == {shard_id}
        with pytest.raises(CorruptDataError):
            CacheReader(self.url, self.options, check="digest").shard(shard_id)
        assert repair_cache(self.url, self.options, report) == [shard_id]
        del self.committed[shard_id]
        self.damaged.add(shard_id)

    @rule()
    def resume(self) -> None:
        """Finish the cache, as the same command run again does."""
        for shard_id in pending_shards(self.storage, SPEC):
            self.attempt(shard_id)
        assert self.committed.keys() == set(range(SPEC.num_shards))
        report = verify_cache(self.url, self.options)
        assert report.faults == []
        assert report.missing == []

    @invariant()
    def what_is_committed_is_read_and_nothing_else(self) -> None:
        reader = CacheReader(self.url, self.options, check="digest")
        assert set(reader.committed) == self.committed.keys()
        assert set(pending_shards(self.storage, SPEC)) == set(range(SPEC.num_shards)) - self.committed.keys()
        for shard_id, seed in self.committed.items():
            expected, found = random_shard(SPEC, shard_id, seed), reader.shard(shard_id)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


class _Mortal:
    """A storage that dies before its change number `life`."""

    def __init__(self, url: str, options: dict[str, Any], life: int) -> None:
        self._storage, self._life = open_storage(url, options), life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if name not in ("write", "write_new", "delete"):
            return found

        def mortal(*arguments: Any) -> Any:
            if self._life == 0:
                raise _Killed
            self._life -= 1
            return found(*arguments)

        return mortal


OPTIONS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)


def test_any_history_of_a_cache_in_memory(monkeypatch):
    monkeypatch.setattr(store_names, "_BLOCK_SHARDS", 2)
    run_state_machine_as_test(
        CacheMachine, settings=settings(OPTIONS, max_examples=3, stateful_step_count=12, derandomize=True)
    )


class FaultyServer:
    """An S3 look-alike whose next answers to writes and reads of objects are planned."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self.plan: list[str] = []
        self.struck: dict[str, int] = {}
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._app = self._server._server.app
        self._server._server.app = self._answer
        host, port = self._server.get_host_and_port()
        self.options: dict[str, Any] = {
            "key": "AKIAEXAMPLEKEY",
            "secret": "example-secret",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
        }

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        method = environ["REQUEST_METHOD"]
        body_follows = method == "PUT" and environ["PATH_INFO"].count("/") > 1
        fault = self.plan[0] if self.plan else ""
        if not (body_follows or (method == "GET" and fault in ("503", "slow", "half"))):
            return self._app(environ, start)
        if fault == "half" and method == "PUT":
            return self._app(environ, start)
        if fault:
            self.plan.pop(0)
            self.struck[fault] = self.struck.get(fault, 0) + 1
        if fault == "slow":
            time.sleep(0.3)
        if fault in ("503", "409"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            code = {"503": "SlowDown", "409": "ConditionalRequestConflict"}[fault]
            return _error(start, fault, code)
        if fault == "500 after the write":
            b"".join(self._app(environ, lambda *_, **__: lambda _: None))
            return _error(start, "500", "InternalError")
        if fault == "412 after the write":
            b"".join(self._app(environ, lambda *_, **__: lambda _: None))
            return _error(start, "412", "PreconditionFailed")
        if fault == "half":
            body = b"".join(self._app(environ, start))
            return [body[: len(body) // 2]]
        return self._app(environ, start)

    def close(self) -> None:
        self._server.stop()


def _error(start: Callable[..., Any], status: str, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
    start(f"{status} Planned", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    import logging

    pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    made = FaultyServer()
    yield made
    made.close()


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_any_history_of_a_cache_on_a_faulty_s3(server, monkeypatch, tally):
    import s3fs

    monkeypatch.setattr(store_names, "_BLOCK_SHARDS", 2)
    files = s3fs.S3FileSystem(**server.options)
    started = time.monotonic()

    class OnS3(CacheMachine):
        faults = ("409", "412 after the write", "500 after the write", "503", "slow", "half")

        def place(self) -> tuple[str, dict[str, Any]]:
            bucket = uuid.uuid4().hex
            files.mkdir(bucket)
            return f"s3://{bucket}/c.zarr", server.options

        def plan(self, faults: list[str]) -> None:
            server.plan[:] = faults

    run_state_machine_as_test(OnS3, settings=settings(OPTIONS, max_examples=25, stateful_step_count=12))
    assert len(server.struck) >= 5, server.struck
    seconds = time.monotonic() - started
    tally(f"25 histories on S3 in {seconds:.0f} s, faults {dict(sorted(server.struck.items()))}")
