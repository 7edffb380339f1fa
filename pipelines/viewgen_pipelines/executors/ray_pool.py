"""A pool of Ray actors, each of which takes one number after another.

Plain actors, not Ray Data: its own three actors, and its import in every worker, took as long as the start of
the workers themselves. A number waits for any worker that is ready, so that a worker that gets no node holds
up nobody. The input is a number and the output a report; images and views never enter Ray's object store.
"""

import contextlib
import dataclasses
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from viewgen.errors import ViewgenError
from viewgen_pipelines.executors.executor import Place, PoolWorker
from viewgen_pipelines.executors.workers import Workers

__all__ = ["RayPool", "error_of", "on_this_node"]

R = TypeVar("R")

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_ANSWER = 10.0
# so many workers in a row may die before they are ready
MAX_FAILED_STARTS = 10


class ViewgenWorker:
    """The pool's actor; the dashboard shows its class name."""

    def begin(self, start: Callable[[Place], PoolWorker[Any]], place: Place) -> None:
        self.worker = start(on_this_node(place)).__enter__()

    def run(self, number: int) -> Any:
        return self.worker.run(number)


class RayPool(Generic[R]):
    """Workers that do all of some numbers; a worker that dies is replaced, its number done by another.

    Args:
        start: function that makes a worker.
        numbers: numbers of the tasks.
        workers: number of the workers, and what each has.
    """

    def __init__(
        self, start: Callable[[Place], PoolWorker[R]], numbers: Sequence[int], workers: Workers
    ) -> None:
        import ray

        self.start, self.place = start, workers.place
        self.count = min(workers.count, len(numbers))
        self.waiting = deque(numbers)
        # actors come and go with the numbers; restarts by Ray would hold a number until a node is free
        self._actor = ray.remote(
            num_cpus=workers.place.num_threads, num_gpus=workers.gpus, max_restarts=0, max_task_retries=0
        )(ViewgenWorker)
        # call under way → its actor, and its number or None while the worker starts
        self._calls: dict[Any, tuple[Any, int | None]] = {}
        self._failed_starts = 0

    def results(self, check: Callable[[], object]) -> Iterator[R]:
        """Yield the results of all numbers; at the end, all workers are killed."""
        import ray

        try:
            while True:
                while len(self._calls) < min(self.count, len(self.waiting) + self._num_running):
                    self._add()
                if not self._calls:
                    return
                check()
                done, _ = ray.wait([*self._calls], timeout=SECONDS_BETWEEN_LOOKS)
                for call in done:
                    actor, number = self._calls.pop(call)
                    try:
                        result = ray.get(call)
                    except _deaths() as death:
                        self._replace(actor, number, death)
                        continue
                    self._failed_starts = 0
                    self._go_on(actor)
                    if number is not None:
                        yield result
        finally:
            for actor, _ in self._calls.values():
                _kill(actor)

    @property
    def _num_running(self) -> int:
        return sum(number is not None for _, number in self._calls.values())

    def _add(self) -> None:
        actor = self._actor.remote()
        self._calls[actor.begin.remote(self.start, self.place)] = actor, None

    def _go_on(self, actor: Any) -> None:
        """Give a worker that is ready its next number; without one it ends and frees what it had."""
        if self.waiting:
            number = self.waiting.popleft()
            self._calls[actor.run.remote(number)] = actor, number
        else:
            _kill(actor)

    def _replace(self, actor: Any, number: int | None, death: Exception) -> None:
        _kill(actor)  # one that only cannot be reached may still run
        if number is not None:
            self.waiting.append(number)
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise ViewgenError(
                f"{self._failed_starts} workers in a row died while they started: {error_of(death)}"
            ) from death


def on_this_node(place: Place) -> Place:
    """Return a place with the name of the node that this process runs on, and a test for lost nodes."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return dataclasses.replace(place, node=node, node_is_lost=_node_is_lost)


def error_of(error: BaseException) -> str:
    """Return the last line of an error that Ray passes on."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _node_is_lost(node: str) -> bool:
    import ray

    alive = {entry["NodeID"]: entry for entry in ray.nodes() if entry["Alive"]}
    if node not in alive:
        return True
    # Ray notices the end of a worker at once, and that of its node some seconds later
    place = alive[node]["NodeManagerAddress"], alive[node]["NodeManagerPort"]
    try:
        socket.create_connection(place, timeout=SECONDS_TO_ANSWER).close()
    except OSError:
        return True
    return False


def _deaths() -> tuple[type[Exception], ...]:
    from ray import exceptions

    return (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )


def _kill(actor: Any) -> None:
    import ray

    with contextlib.suppress(ray.exceptions.RayError, RuntimeError, ValueError):
        ray.kill(actor)
