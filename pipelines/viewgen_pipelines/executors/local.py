"""The local executor: one worker in this process."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from viewgen.device import available_threads, resolve_device
from viewgen_pipelines.executors.executor import Place, PoolWorker, Work

__all__ = ["LocalExecutor"]

T = TypeVar("T")
R = TypeVar("R")


class LocalExecutor:
    """Runs one task after the other, without Ray: for ``memory://``, debugging and machines without Ray."""

    in_driver = True
    elsewhere = False
    owns_session = False

    def __init__(self) -> None:
        self.place = Place(device=resolve_device(), num_threads=available_threads())

    def pool(
        self,
        start: Callable[[Place], PoolWorker[R]],
        numbers: Sequence[int],
        check: Callable[[], object] = lambda: None,
    ) -> Iterator[R]:
        with start(self.place) as worker:
            for number in numbers:
                check()
                yield worker.run(number)

    def each(
        self, work: Work[T, R], tasks: Sequence[T], on_progress: Callable[[int, float], object]
    ) -> Iterator[tuple[int, R]]:
        for number, task in enumerate(tasks):
            yield number, work(task, self.place, partial(on_progress, number))
