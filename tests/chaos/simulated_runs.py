"""Schedules of the protocol: commands on several machines make one cache in a simulated world.

    python tests/chaos/simulated_runs.py --seed 4711        # one schedule, with its trace
    python tests/chaos/simulated_runs.py --schedules 5000   # many, from a drawn seed on

The real code runs: `run_stage` with its lease, ledger, compaction and repair, `ShardWorker`, `write_shard`,
`commit_shard`, readers. What is not real: storage, clocks, processes, and the views, which are a formula with
another rounding on every machine. These hold at every moment, whatever is killed, stopped, lost or late:

- a row has one content: what is committed never changes, and is never lost, unless its file was damaged;
- a reader sees no byte that is not committed;
- a command that says that it is done has left nothing out;
- the same command, run again at the end, finds a way in, completes the cache and changes no committed byte.
"""

import argparse
import contextlib
import hashlib
import itertools
import random
import sys
import time as real_time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from simulated_storage import Folder, ObjectStore
from simulated_workers import HOSTS, LAYOUTS, SPEC, Pool, SimulatedWorker, contents, digests
from simulated_world import BrokenPromiseError, Clock, Process, Threading, World

import viewgen.store.remote as remote
import viewgen.store.shards as store_shards
import viewgen_pipelines.shards.driver as driver
import viewgen_pipelines.shards.lease as lease
import viewgen_pipelines.shards.ledger as ledger
import viewgen_pipelines.shards.worker as worker
from viewgen.errors import (
    CorruptDataError,
    LeaseError,
    MissingFileError,
    StorageError,
    ViewgenError,
)
from viewgen.store import CacheReader, CacheSpec, Storage, verify_cache
from viewgen.store.commits import scan_commits

CLOCKS = (0.0, -30.0, 45.0, 1e6)
NETWORK = ("503", "409", "lost", "lost and sent again", "late", "twice", "read 503")


class Schedule:
    """One seeded schedule.

    Args:
        seed: seed of everything.
        network: kinds of fault of the object store, by default a drawn selection; none on a local disk.
        damage: True if files are damaged.
        clocks: seconds by which the clocks of machines may be ahead.
    """

    def __init__(
        self,
        seed: int,
        *,
        network: tuple[str, ...] | None = None,
        damage: bool = True,
        clocks: tuple[float, ...] = CLOCKS,
    ) -> None:
        draw = random.Random(seed)
        conditional = bool(network) or draw.random() < 0.6
        kinds = network or draw.sample(NETWORK, draw.randrange(len(NETWORK) + 1))
        if not conditional:
            kinds = draw.choice(([], ["503"]))
        self.seed, self.damages = seed, damage
        self.world = World(seed, {kind: draw.choice((0.01, 0.05)) for kind in kinds}, conditional=conditional)
        self.random = self.world.random
        self.skews = {host: draw.choice(clocks) for host in HOSTS}
        self.hosts = draw.sample(HOSTS, draw.choice((1, 2, 3)))
        self.pids = itertools.count(100)
        self.peaceful = False
        self.only_conflicts = set(kinds) <= {"409", "lost and sent again"}
        self.storage_died = False
        self.committed: dict[int, dict[str, str]] = {}
        self.history: dict[int, list[dict[str, str]]] = {}
        self.damaged: set[int] = set()
        self.look = Folder(self.world, stepping=False)
        self.world.watch = self.check_write

    # the commands

    def storage(self, *_: Any, **__: Any) -> Storage:
        return ObjectStore(self.world) if self.world.conditional else Folder(self.world)

    def new_process(self, name: str, host: str, parent: Process | None = None) -> Process:
        pid = next(self.pids)
        process = Process(f"{name} {pid} on {host}", host, pid, self.skews[host], parent)
        if not self.peaceful and self.random.random() < 0.7:
            for _ in range(self.random.choice((1, 1, 2))):
                stop = self.random.choice((3.0, 30.0, 60.0, 200.0))
                fate = self.random.choice(("kill", stop, stop, stop))
                # before a write, where a look before it has lost its meaning; or before any step
                moment = self.random.choice((self.random.randrange(1, 250), -self.random.randrange(1, 45)))
                process.fate[moment] = fate
        return process

    def spawn(self, work: Callable[[int], object], slot: int, parent: Process) -> Any:
        process = self.new_process("worker", parent.host, parent)

        def run() -> None:
            try:
                work(slot)
            finally:
                process.ended = True

        return self.world.start(process, run)

    def command(self, host: str, num_workers: int) -> Any:
        process = self.new_process("command", host)

        def run() -> str:
            try:
                stage = driver.Stage(title="views", url="c", spec=SPEC, method=None, model_paths={})
                progress: Any = SimpleNamespace(
                    say=self.say, bar=lambda *_, **__: contextlib.nullcontext(bar)
                )
                bar = SimpleNamespace(advance=lambda rows: None)
                result = driver.run_stage(
                    stage,
                    Pool(self, num_workers),
                    dataset=None,
                    storage_options={},
                    progress=progress,
                    job_settings={},
                    max_attempts=1000,
                )
            except ViewgenError as error:
                self.world.note(f"{process.name} ends with {type(error).__name__}: {error}")
                self.judge_failure(error)
                return type(error).__name__
            finally:
                process.ended = True
            self.world.note(f"{process.name} is done")
            if missing := set(range(SPEC.num_shards)) - result.commits.keys() - self.damaged:
                raise BrokenPromiseError(f"a command says that it is done, and shards {missing} are missing")
            return "done"

        return self.world.start(process, run)

    def say(self, line: str) -> None:
        self.world.note(f"{self.world.process.name} says: {line}")

    def judge_failure(self, error: Exception) -> None:
        if "just now" in str(error):
            epochs = sorted(path for path in self.world.objects if path.startswith("run/lease/"))
            ruling = lease.parse_record(self.world.objects[epochs[-1]]) if epochs else None
            if ruling and ruling["holder"]["pid"] == self.world.process.pid:
                raise BrokenPromiseError("a command is refused by its own lease")
        if self.only_conflicts and isinstance(error, StorageError) and not isinstance(error, LeaseError):
            raise BrokenPromiseError(f"a conflict of two requests ends a command: {error}")

    def reader(self) -> None:
        """Read the cache as a training would that follows its growth."""
        while not self.peaceful:
            self.world.sleep(self.random.uniform(2, 40))
            with contextlib.suppress(StorageError, MissingFileError):
                self.read_once()

    def read_once(self) -> None:
        try:
            cache = CacheReader("c")
            for shard_id in cache.committed:
                expected = [self.expected(shard_id, objects) for objects in self.history.get(shard_id, [])]
                arrays = cache.shard(shard_id)
                if not any(
                    all(np.array_equal(arrays[name], other[name]) for name in other) for other in expected
                ):
                    raise BrokenPromiseError(f"a reader sees of shard {shard_id} what was never committed")
        except CorruptDataError as error:
            if not self.damaged:
                raise BrokenPromiseError(f"a reader is told of damage: {error}") from error

    def expected(self, shard_id: int, objects: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
        for host in HOSTS:
            if digests(shard_id, host) == set(objects.values()):
                return contents(np.asarray(SPEC.shard_rows(shard_id)), host)
        raise BrokenPromiseError(f"shard {shard_id} was committed with arrays of several machines")

    def damage(self) -> None:
        """Damage a committed object or record, or a lease, as a disk would."""
        paths = [path for objects in self.committed.values() for path in objects]
        paths += [path for path in self.world.objects if path.startswith(("commits/", "run/lease/"))]
        if self.peaceful or not paths:
            return
        path = self.random.choice(sorted(paths))
        if path not in self.world.objects or path.endswith(".void"):
            return
        self.world.note(f"{path} is damaged")
        self.world.tally["damage"] += 1
        self.damaged |= {shard for shard, objects in self.committed.items() if path in objects}
        if path.startswith("commits/"):
            self.damaged |= set(range(SPEC.num_shards))
        data = self.world.objects[path]
        cut = self.random.choice((0, len(data) // 2))
        self.world.objects[path] = data[:cut]

    # what must hold

    def check_write(self, path: str) -> None:
        for shard, objects in self.committed.items():
            if path in objects and shard not in self.damaged and self.digest(path) != objects[path]:
                raise BrokenPromiseError(f"{path}, committed, was changed or deleted")
        if path.startswith("commits/"):
            self.check_log()

    def check_log(self) -> None:
        commits = scan_commits(self.look, SPEC).commits
        for shard, objects in list(self.committed.items()):
            now = commits.get(shard)
            if now is not None and self.named(now) == objects:
                continue
            if shard not in self.damaged:
                raise BrokenPromiseError(
                    f"shard {shard} was committed and is {'lost' if now is None else 'another now'}"
                )
            del self.committed[shard]
        for shard, commit in commits.items():
            if shard not in self.committed:
                objects = self.named(commit)
                if any(self.digest(path) != digest for path, digest in objects.items()):
                    if shard in self.damaged:
                        continue
                    raise BrokenPromiseError(f"shard {shard} is committed without its objects")
                self.committed[shard] = objects
                self.history.setdefault(shard, []).append(objects)

    def named(self, commit: Any) -> dict[str, str]:
        return {path: entry["sha256"] for path, entry in commit.objects.items()}

    def digest(self, path: str) -> str | None:
        data = self.world.objects.get(path)
        return None if data is None else hashlib.sha256(data).hexdigest()

    # the whole

    def run(self) -> Counter[str]:
        """Run the schedule; raise `BrokenPromiseError` with seed and trace if something does not hold."""
        with self.patched():
            try:
                self._run()
            except BrokenPromiseError as error:
                trace = "\n".join(self.world.trace[-400:])
                raise BrokenPromiseError(
                    f"seed {self.seed}: {error}\n{trace}\nseed {self.seed}: {error}"
                ) from None
            finally:
                self.world.finish()
        return self.world.tally

    def _run(self) -> None:
        world = self.world
        commands: list[Any] = []

        def begin() -> None:
            if not self.peaceful:
                host = self.random.choice(self.hosts)
                commands.append(self.command(host, self.random.choice((0, 0, 1, 2))))
                world.tally["command"] += 1

        def begin_elsewhere(process: Process, seconds: float) -> None:
            # as somebody does who sees that nothing goes on
            if seconds > 20 and self.random.random() < 0.7:
                world.later(self.random.uniform(0, seconds - 15), begin)

        world.stopped = begin_elsewhere
        for _ in range(self.random.choice((2, 3))):
            world.later(self.random.choice((0.0, self.random.uniform(0, 90))), begin)
        for _ in range(self.random.choice((0, 0, 0, 1, 2)) if self.damages else 0):
            world.later(self.random.uniform(5, 60), self.damage)
        world.start(Process("reader", self.hosts[0], next(self.pids)), self.reader)
        end = world.now + 100
        world.later(100, lambda: None)
        world.run(until=lambda: world.now > end)
        self.peaceful, world.faults = True, {}
        world.run()
        while world.events:
            world.now = max(world.now, world.events[0][0])
            world.run()
        before = dict(self.committed)
        for host in (self.random.choice(self.hosts), self.random.choice(self.hosts)):
            last = self.command(host, 0)
            world.run()
            if last.error is not None:
                raise last.error
            if last.result != "done":
                raise BrokenPromiseError("the same command, run again, does not get in or does not finish")
        report = self.in_world(lambda: verify_cache("c"))
        if report.faults or report.missing:
            raise BrokenPromiseError(f"verify: {report}")
        self.in_world(self.read_once)
        for shard, objects in before.items():
            if shard not in self.damaged and self.committed[shard] != objects:
                raise BrokenPromiseError(f"shard {shard} changed")
        for shard, objects in self.committed.items():
            self.check_plain(shard, objects)
        world.tally["schedules"] += 1
        world.tally["names of attempts"] += sum(
            path.count("-") for objects in self.committed.values() for path in objects
        )

    def check_plain(self, shard: int, objects: dict[str, str]) -> None:
        """Plain Zarr finds the committed bytes."""
        for layout in LAYOUTS.values():
            plain = layout.object_path(shard)
            committed = next(d for p, d in objects.items() if p == plain or p.startswith(f"{plain}."))
            if self.digest(plain) != committed:
                raise BrokenPromiseError(f"{plain} is not what was committed, and plain Zarr reads it")

    def in_world(self, act: Callable[[], Any]) -> Any:
        task = self.world.start(Process("the end", self.hosts[0], next(self.pids)), act)
        self.world.run()
        if task.error is not None:
            raise task.error
        return task.result

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Let the code under test see this world."""
        world = self.world
        clock, threads = Clock(world), Threading(world)
        trace = SimpleNamespace(take=lambda *_: "", sweep=lambda *_: None)
        token = SimpleNamespace(token_hex=lambda size: f"{world.random.getrandbits(8 * size):0{2 * size}x}")
        ids = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=token.token_hex(16)))
        metrics = SimpleNamespace(left=lambda *_: None, failed=lambda *_: None)
        changes: list[tuple[Any, dict[str, Any]]] = [
            (lease, {"time": clock, "threading": threads, "uuid": ids}),
            (lease, {"this_process": world.identify, "process_is_alive": world.lives}),
            (ledger, {"this_process": world.identify, "process_is_alive": world.lives, "time": clock}),
            (ledger, {"CrashTrace": trace, "os": SimpleNamespace(getpid=lambda: world.process.pid)}),
            (worker, {"time": clock, "open_storage": self.storage}),
            (worker, {"CrashTrace": lambda *_: contextlib.nullcontext()}),
            (worker, {"Watchdog": lambda *_: contextlib.nullcontext()}),
            (driver, {"time": clock, "open_storage": self.storage, "CrashTrace": trace}),
            (driver, {"RunMetrics": lambda *_: metrics}),
            (driver, {"start_worker": lambda job, place: SimulatedWorker(job)}),
            (CacheSpec, {"array_layout": lambda spec: LAYOUTS}),
            (remote, {"time": clock, "random": world.random, "secrets": token}),
            (store_shards, {"secrets": token}),
            (sys.modules["viewgen.store.verification"], {"open_storage": self.storage}),
            (sys.modules["viewgen.store.reader"], {"open_storage": self.storage}),
        ]
        if world.random.random() < 0.5:
            # a block of two shards, kept short from the first one on
            changes.append((sys.modules["viewgen.store.names"], {"_BLOCK_SHARDS": 2}))
            changes.append((sys.modules["viewgen_pipelines.shards.log_keeper"], {"_COMPACT_FROM": 2}))
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(lease.Lease.acquire, "__defaults__", (world.sleep,)))
            for module, names in changes:
                stack.enter_context(mock.patch.multiple(module, **names))
            stack.enter_context(mock.patch.object(SimulatedWorker, "world", world))
            yield


def run_schedules(seeds: Any, **options: Any) -> Counter[str]:
    """Run the schedules of these seeds and return what happened in them."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        tally += Schedule(seed, **options).run()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description="Run schedules of the protocol in a simulated world.")
    parser.add_argument("--seed", type=int, default=None, help="one schedule, with its trace")
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=random.randrange(10**9))
    options = parser.parse_args()
    begin = real_time.monotonic()
    if options.seed is None:
        print(f"seeds from {options.first}", flush=True)
        tally = run_schedules(range(options.first, options.first + options.schedules))
    else:
        schedule = Schedule(options.seed)
        tally = schedule.run()
        print("\n".join(schedule.world.trace))
    print(f"{real_time.monotonic() - begin:.1f} s: {dict(sorted(tally.items()))}")


if __name__ == "__main__":
    main()
