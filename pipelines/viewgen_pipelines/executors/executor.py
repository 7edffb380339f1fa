"""What an executor is: it gives tasks to workers, whatever the tasks are.

Two kinds of work: a pool of workers that keep what they set up and take one number after another (shards of a
cache), and independent tasks (measurements, trainings), each of which is a value with a function.
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
    """Where a worker computes.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        num_threads: torch threads.
        memory_share: share of the free memory, of the machine or of the GPU, that is this worker's.
        node: name of its node of a Ray session, empty in the driver's process.
        node_is_lost: whether the node of a name is gone.
    """

    device: str = "cpu"
    num_threads: int = 1
    memory_share: float = 1.0
    node: str = ""
    node_is_lost: Callable[[str], bool] = _never


class PoolWorker(AbstractContextManager[Any], Protocol[R_co]):
    """A worker of a pool; entered once."""

    def run(self, number: int, /) -> R_co:
        """Do one task; raises only what ends the process."""
        ...


# (task, where it runs, told of progress) → result; a function that can be pickled
Work = Callable[[T, Place, Tell], R]


class Executor(Protocol):
    """Runs tasks on workers.

    Attributes:
        in_driver: the worker is the driver's own process.
        elsewhere: workers may run on machines that do not have the driver's files.
        owns_session: the Ray session that it uses ends with it.
        place: what every worker has: device, threads, memory.
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
        """Yield what workers make of every number, in any order.

        Workers that die are started again without limit; who sets limits keeps a ledger of attempts. When the
        iterator is closed, no worker goes on.

        Args:
            start: makes a worker; can be pickled.
            numbers: of the tasks.
            check: is called before each result is waited for; what it raises ends the run.
        """
        ...

    def each(
        self, work: Work[T, R], tasks: Sequence[T], on_progress: Callable[[int, float], object]
    ) -> Iterator[tuple[int, R]]:
        """Yield (place in `tasks`, result) of independent tasks, in any order.

        What a task raises ends the run. When the iterator is closed, no task goes on.

        Args:
            work: what is done with a task.
            tasks: values that can be pickled.
            on_progress: is told (place in `tasks`, share that is done).
        """
        ...
