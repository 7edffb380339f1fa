"""A deterministic world for the protocol: processes, a clock, a storage with faults, one thread at a time.

Every storage request, every look at a clock and every wait is a step: the thread hands over a baton and goes
on when the scheduler, drawn by a seed, gives it back. The code under test is the real one. Between two steps
anything may happen to it: other processes go on, it is killed, or stopped for minutes.
"""

import heapq
import itertools
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_STEPS = 30_000


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the packages catches it."""


class BrokenPromiseError(AssertionError):
    """The protocol failed."""


@dataclass(eq=False)
class Process:
    """A simulated process.

    Attributes:
        name: name in the trace.
        host: name of its machine; processes of two machines cannot see each other.
        skew: seconds by which the clock of the machine is ahead.
        parent: process that started it.
        fate: number of a step, or negative number of a write → "kill", or seconds for which the process is
            stopped before it.
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
        except (Killed, BrokenPromiseError) as error:
            self.error = error
            if isinstance(error, BrokenPromiseError):
                self.world.fail(error)
        except BaseException as error:
            self.error = error
            stack = "".join(traceback.format_exception(error))
            self.world.fail(BrokenPromiseError(f"{self.process.name} meets an error without a type: {stack}"))
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
        self.failure: BrokenPromiseError | None = None
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
            except BrokenPromiseError as error:
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
                    self.fail(BrokenPromiseError("it never ends"))
                return self.random.choice(ready)
            moments = [max(task.wake, task.process.stopped_until) for task in self.tasks]
            self.now = min(moments + [event[0] for event in self.events[:1]])
        return None

    def fail(self, error: BrokenPromiseError) -> None:
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
            for child in [task.process for task in self.tasks if task.process.parent is process]:
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
        except BrokenPromiseError as error:
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
