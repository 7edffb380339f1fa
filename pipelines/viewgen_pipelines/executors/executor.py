"""The interface of an executor: it gives tasks to workers, whatever the tasks are.

There are two kinds of work. A pool of workers keeps its set-up and takes one number after another (shards of
a cache). Independent tasks (measurements, trainings) are values, each passed to a function.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

__all__ = ["Executor", "Place", "PoolWorker", "Tell", "Work"]

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

# told how much of a task is done, 0 to 1
Tell = Callable[[float], object]


def _never(_node: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The resources of a worker.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        num_threads: torch threads.
        memory_share: this worker's share of the free memory of the machine or of the GPU.
        node: name of the worker's node in a Ray session, empty in the driver's process.
        node_is_lost: function from a node's name to True if that node has left the cluster.
    """

    device: str = "cpu"
    num_threads: int = 1
    memory_share: float = 1.0
    node: str = ""
    node_is_lost: Callable[[str], bool] = _never


class PoolWorker(AbstractContextManager[Any], Protocol[R_co]):
    """A worker of a pool; entered once."""

    def run(self, number: int, /) -> R_co:
        """Do one task; raise only what ends the process."""
        ...


# (task, where it runs, told of progress) → result; a function that can be pickled
Work = Callable[[T, Place, Tell], R]


class Executor(Protocol):
    """Runs tasks on workers.

    Attributes:
        in_driver: True if the worker is the driver's own process.
        elsewhere: True if workers may run on machines that do not have the driver's files.
        owns_session: True if its Ray session ends with it.
        place: resources of every worker: device, threads, memory.
    """

    in_driver: bool
    elsewhere: bool
    owns_session: bool
    place: Place

    def pool(
        self,
        start: Callable[[Place], PoolWorker[R]],
        numbers: Sequence[int],
        check: Callable[[], object] = lambda: None,
    ) -> Iterator[R]:
        """Yield the workers' result for every number, in any order.

        Workers that die are started again without limit; a caller that needs a limit keeps a ledger of
        attempts. When the iterator is closed, all workers stop.

        Args:
            start: function that makes a worker; can be pickled.
            numbers: numbers of the tasks.
            check: function called before each wait for a result; an exception that it raises ends the run.
        """
        ...

    def each(
        self, work: Work[T, R], tasks: Sequence[T], on_progress: Callable[[int, float], object]
    ) -> Iterator[tuple[int, R]]:
        """Yield (place in `tasks`, result) of independent tasks, in any order.

        An exception raised by a task ends the run. When the iterator is closed, all tasks stop.

        Args:
            work: function applied to each task.
            tasks: values that can be pickled.
            on_progress: callback with (place in `tasks`, finished share of the task).
        """
        ...
