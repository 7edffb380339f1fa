"""A deterministic world for the protocol: processes, a clock, a storage with faults, one thread at a time.

Every storage request, every look at a clock and every wait is a step: the thread hands over a baton and goes
on when the scheduler, drawn by a seed, gives it back. The code under test is the real one. Between two steps
anything may happen to it: other processes go on, it is killed, or stopped for minutes.
"""

import errno
import heapq
import itertools
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from viewgen.errors import MissingFileError, StorageError
from viewgen.store import ObjectExistsError, Storage
from viewgen.store.remote import FsspecStorage

MAX_STEPS = 30_000


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the packages catches it."""


class BrokenPromise(AssertionError):
    """The protocol failed."""


@dataclass(eq=False)
class Process:
    """A simulated process.

    Attributes:
        name: name in the trace.
        host: name of its machine; processes of two machines cannot see each other.
        skew: seconds by which the clock of the machine is ahead.
        parent: process that started it.
        fate: step, or its number among the writes as a negative one → "kill", or seconds for which the process
            is stopped before it.
    """

    name: str
    host: str
    pid: int
    skew: float = 0.0
    parent: "Process | None" = None
    fate: dict[int, Any] = field(default_factory=dict)
    killed: bool = False
    ended: bool = False
    stopped_until: float = 0.0
    steps: int = 0
    writes: int = 0


class Task:
    """One thread of a process; `work` runs when the scheduler lets it."""

    def __init__(self, world: "World", process: Process, work: Callable[[], object]) -> None:
        self.world, self.process, self.work = world, process, work
        self.wake = world.now
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.world.local.task = self
        self.turn.acquire()
        try:
            if not self.process.killed:
                self.result = self.work()
        except (Killed, BrokenPromise) as error:
            self.error = error
            if isinstance(error, BrokenPromise):
                self.world.fail(error)
        except BaseException as error:
            self.error = error
            stack = "".join(traceback.format_exception(error))
            self.world.fail(BrokenPromise(f"{self.process.name} meets an error without a type: {stack}"))
        self.done = True
        self.world.hand_over()

    def may_run(self, now: float) -> bool:
        process = self.process
        return not self.done and (process.killed or (self.wake <= now and process.stopped_until <= now))


class World:
    """The machines, the storage and the clock of one schedule.

    Args:
        seed: seed of the schedule.
        faults: kind of fault of a request → probability.
        conditional: True for an object store with conditional PUTs, False for a local file system.
    """

    def __init__(self, seed: int, faults: dict[str, float], *, conditional: bool) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.conditional = conditional
        self.now = 1.7e9
        self.objects: dict[str, bytes] = {}
        self.tasks: list[Task] = []
        self.trace: list[str] = []
        self.tally: Counter[str] = Counter()
        self.local = threading.local()
        self.baton = threading.Lock()
        self.baton.acquire()
        self.failure: BrokenPromise | None = None
        self.ending = False
        self.until: Callable[[], bool] = lambda: False
        self.numbers = itertools.count(1)
        self.events: list[tuple[float, int, Callable[[], object]]] = []
        self.watch: Callable[[str], object] = lambda path: None
        self.stopped: Callable[[Process, float], object] = lambda process, seconds: None
        self.num_steps = 0

    # the scheduler

    def start(self, process: Process, work: Callable[[], object]) -> Task:
        task = Task(self, process, work)
        self.tasks.append(task)
        return task

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), act))

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Let everything run until all tasks are done; raise what a watcher found."""
        self.until = until
        self.hand_over()
        self.baton.acquire()
        if self.failure is not None:
            raise self.failure

    def hand_over(self, mine: Task | None = None) -> None:
        """Let the next task go on, or the scheduler's own thread when there is none."""
        task = self._next()
        if task is not mine or task is None:
            (self.baton if task is None else task.turn).release()
            if mine is not None:
                mine.turn.acquire()

    def _next(self) -> Task | None:
        while self.failure is None or self.ending:
            try:
                while self.events and self.events[0][0] <= self.now:
                    heapq.heappop(self.events)[2]()
            except BrokenPromise as error:
                self.fail(error)
                continue
            self.tasks = [task for task in self.tasks if not task.done]
            if not self.tasks or self.until():
                return None
            ready = [task for task in self.tasks if task.may_run(self.now)]
            if ready:
                self.num_steps += 1
                self.now += self.random.choice((0.001, 0.01, 0.1))
                if self.num_steps > MAX_STEPS and not self.ending:
                    self.fail(BrokenPromise("it never ends"))
                return self.random.choice(ready)
            moments = [max(task.wake, task.process.stopped_until) for task in self.tasks]
            self.now = min(moments + [event[0] for event in self.events[:1]])
        return None

    def fail(self, error: BrokenPromise) -> None:
        """Record the first failure: the code under test may catch the exception."""
        self.failure = self.failure or error

    def finish(self) -> None:
        """Kill what is left, so that no thread outlives the schedule."""
        self.ending, self.events = True, []
        for task in self.tasks:
            task.process.killed = True
        self.until = lambda: False
        self.hand_over()
        self.baton.acquire()

    # what the code under test sees

    @property
    def process(self) -> Process:
        task: Task = self.local.task
        return task.process

    def step(self, label: str = "", seconds: float = 0.0) -> None:
        """Hand over the baton; come back at the earliest after `seconds`, or be killed."""
        task: Task = self.local.task
        process = task.process
        process.steps += 1
        task.wake = self.now + seconds
        fate = process.fate.get(process.steps)
        if label.startswith(("create", "put", "delete")):
            process.writes += 1
            fate = process.fate.get(-process.writes, fate)
        if fate == "kill":
            self.kill(process)
        elif fate is not None and not process.killed:
            self.note(f"{process.name} is stopped for {fate:.0f} s before: {label}")
            self.tally["stop"] += 1
            process.stopped_until = self.now + fate
            self.stopped(process, fate)
        self.hand_over(task)
        if process.killed:
            raise Killed
        if label:
            self.note(f"{process.name}: {label}")

    def kill(self, process: Process) -> None:
        if not process.killed:
            self.note(f"{process.name} is killed")
            self.tally["kill"] += 1
            process.killed = True
            for child in {task.process for task in self.tasks if task.process.parent is process}:
                # as Ray ends the workers of a dead driver: after a while
                self.later(self.random.uniform(0, 20), lambda child=child: self.kill(child))

    def note(self, line: str) -> None:
        self.trace.append(f"{self.now - 1.7e9:9.3f} {line}")

    def lives(self, process: dict[str, Any]) -> bool | None:
        """`process_is_alive` of this world."""
        if process.get("host") != self.process.host:
            return None
        return any(
            task.process.pid == process["pid"] and not task.process.killed and not task.process.ended
            for task in self.tasks
            if not task.done
        )

    def identify(self) -> dict[str, Any]:
        """`this_process` of this world."""
        return {"host": self.process.host, "pid": self.process.pid, "process_start": "1"}

    def sleep(self, seconds: float) -> None:
        self.step("", seconds)

    def draw(self, kinds: tuple[str, ...]) -> str:
        """Return the fault that strikes a request, or an empty text."""
        for kind in kinds:
            if self.random.random() < self.faults.get(kind, 0.0):
                self.tally[kind] += 1
                return kind
        return ""

    # the storage itself

    def put(self, path: str, data: bytes, create: bool, who: str = "") -> bool:
        """Do one write; return False if it must not replace an object."""
        if create and path in self.objects:
            return False
        self.objects[path] = data
        if who:
            self.note(f"{who} lands at {path}")
        self._tell(path)
        return True

    def remove(self, path: str) -> None:
        if self.objects.pop(path, None) is not None:
            self._tell(path)

    def _tell(self, path: str) -> None:
        try:
            self.watch(path)
        except BrokenPromise as error:
            self.fail(error)
            raise


class Clock:
    """Stands for the module `time`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sleep = world.sleep

    def time(self) -> float:
        self.world.step()
        return self.world.now + self.world.process.skew

    def monotonic(self) -> float:
        self.world.step()
        return self.world.now - 1e9 + self.world.process.pid

    perf_counter = monotonic


class Event:
    """Stands for `threading.Event`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def wait(self, seconds: float) -> bool:
        end = self.world.now + seconds
        while not self.is_set and self.world.now < end:
            # in small pieces: whoever sets it need not know who waits
            self.world.sleep(min(1.0, end - self.world.now))
        return self.is_set


class Threading:
    """Stands for the module `threading`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def Event(self) -> Event:  # noqa: N802 as in threading
        return Event(self.world)

    def Thread(self, *, target: Callable[[], object], **_: Any) -> "Beat":  # noqa: N802 as in threading
        return Beat(self.world, target)


class Beat:
    """Stands for `threading.Thread`: another task of the same process."""

    def __init__(self, world: World, target: Callable[[], object]) -> None:
        self.world, self.target = world, target

    def start(self) -> None:
        self.task = self.world.start(self.world.process, self.target)

    def join(self, timeout: float) -> None:
        end = self.world.now + timeout
        while not self.task.done and self.world.now < end:
            self.world.sleep(0.5)


class FileSystem:
    """An object store behind fsspec's interface, with the faults of networks."""

    protocol = ("s3",)

    def __init__(self, world: World) -> None:
        self.world = world

    def invalidate_cache(self, place: str = "") -> None:
        pass

    def _strip_protocol(self, place: str) -> str:
        return place

    def pipe_file(self, place: str, data: bytes, mode: str = "overwrite") -> None:
        world, path, create = self.world, place.removeprefix("c/"), mode == "create"
        world.step(f"{'create' if create else 'put'} {path}")
        fault = world.draw(("503", "409", "lost", "lost and sent again", "late", "twice"))
        if fault:
            world.note(f"  fault: {fault}")
        if fault == "503":
            raise OSError(errno.EBUSY, "SlowDown")
        if fault == "409" and create:
            raise OSError(errno.EIO, "An error occurred (ConditionalRequestConflict) on PutObject")
        if fault == "late":
            who = f"the late request of {world.process.name}"
            world.later(world.random.expovariate(0.1), lambda: world.put(path, data, create, who))
            raise TimeoutError("no answer")
        landed = world.put(path, data, create)
        if fault == "twice":
            who = f"the second copy of a request of {world.process.name}"
            world.later(world.random.expovariate(0.1), lambda: world.put(path, data, create, who))
        if fault == "lost and sent again":
            world.step(f"{'create' if create else 'put'} {path} (again)")
            landed = world.put(path, data, create)
        if fault == "lost":
            raise ConnectionError("no answer")
        if not landed:
            raise OSError(errno.EINVAL, "An error occurred (PreconditionFailed) on PutObject")

    def cat_file(self, place: str, start: int | None = None, end: int | None = None) -> bytes:
        return self._ask(place, "read")[start:end]

    def info(self, place: str) -> dict[str, Any]:
        return {"size": len(self._ask(place, "look at"))}

    def find(self, place: str) -> list[str]:
        folder = place.removeprefix("c").lstrip("/")
        self.world.step(f"list {folder}")
        self._may_fail()
        return [f"c/{path}" for path in self.world.objects if not folder or path.startswith(f"{folder}/")]

    def ls(self, place: str, detail: bool) -> list[str]:
        return sorted({f"c/{path.split('/')[1]}" for path in self.find(place)})

    def rm_file(self, place: str) -> None:
        path = place.removeprefix("c/")
        self.world.step(f"delete {path}")
        self._may_fail()
        self.world.remove(path)

    def _ask(self, place: str, verb: str) -> bytes:
        path = place.removeprefix("c/")
        self.world.step(f"{verb} {path}")
        self._may_fail()
        if path not in self.world.objects:
            raise FileNotFoundError(path)
        return self.world.objects[path]

    def _may_fail(self) -> None:
        if self.world.draw(("read 503",)):
            raise OSError(errno.EBUSY, "SlowDown")


class ObjectStore(FsspecStorage):
    """The real storage of object stores, over the simulated file system."""

    parallel_reads = 1

    def __init__(self, world: World) -> None:
        self.url = "s3://c"
        self._secrets = []
        self._fs = FileSystem(world)
        self._root = "c"
        self._protocols = {"s3"}


class Folder(Storage):
    """A local file system: no request gets lost, and creation is atomic. Without a world's steps: a look."""

    def __init__(self, world: World, *, stepping: bool = True) -> None:
        self.url = "/c"
        self.world = world
        self._step = world.step if stepping else (lambda label: None)

    def read(self, path: str) -> bytes:
        self._step(f"read {path}")
        if path not in self.world.objects:
            raise MissingFileError(path)
        return self.world.objects[path]

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self.read(path)[start : start + length]

    def write_new(self, path: str, data: bytes) -> None:
        self._step(f"create {path}")
        if self.world.draw(("503",)):
            raise StorageError("no space left on device")
        if not self.world.put(path, data, create=True):
            raise ObjectExistsError(path)

    def write(self, path: str, data: bytes) -> None:
        self._step(f"put {path}")
        if self.world.draw(("503",)):
            raise StorageError("no space left on device")
        self.world.put(path, data, create=False)

    def size(self, path: str) -> int | None:
        self._step(f"look at {path}")
        return len(self.world.objects[path]) if path in self.world.objects else None

    def paths(self, prefix: str = "") -> list[str]:
        self._step(f"list {prefix}")
        return sorted(path for path in self.world.objects if not prefix or path.startswith(f"{prefix}/"))

    def entries(self) -> list[str]:
        self._step("list")
        return sorted({path.split("/")[0] for path in self.world.objects})

    def delete(self, path: str) -> None:
        self._step(f"delete {path}")
        self.world.remove(path)

    def delete_tree(self, prefix: str) -> None:
        for path in self.paths(prefix):
            self.delete(path)
