"""The Ray executor: a pool of actors, or one Ray task for each task."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from viewgen.errors import ViewgenError
from viewgen_pipelines.executors.executor import Place, PoolWorker, Work
from viewgen_pipelines.executors.ray_pool import SECONDS_BETWEEN_LOOKS, RayPool, error_of, on_this_node
from viewgen_pipelines.executors.session import RaySession
from viewgen_pipelines.executors.workers import Workers

__all__ = ["RayExecutor"]

T = TypeVar("T")
R = TypeVar("R")

# a task whose worker died is tried again so often
MAX_RETRIES = 2


class RayExecutor:
    """Runs tasks in a Ray session.

    Args:
        session: a session that is ready.
        workers: division of the session into workers.
    """

    in_driver = False

    def __init__(self, session: RaySession, workers: Workers) -> None:
        self.workers, self.place = workers, workers.place
        self.elsewhere, self.owns_session = session.elsewhere, session.own

    def pool(
        self,
        start: Callable[[Place], PoolWorker[R]],
        numbers: Sequence[int],
        check: Callable[[], object] = lambda: None,
    ) -> Iterator[R]:
        if not numbers:
            return
        import ray

        try:
            yield from RayPool(start, numbers, self.workers).results(check)
        except ViewgenError:
            raise
        except ray.exceptions.RayError as error:
            raise ViewgenError(f"Ray ended the run: {error_of(error)}") from error

    def each(
        self, work: Work[T, R], tasks: Sequence[T], on_progress: Callable[[int, float], object]
    ) -> Iterator[tuple[int, R]]:
        import ray

        remote = ray.remote(
            num_cpus=self.place.num_threads, num_gpus=self.workers.gpus, max_retries=MAX_RETRIES
        )(_run_task)
        board = ray.remote(num_cpus=0)(_Board).remote()
        waiting = list(enumerate(tasks))
        running: list[Any] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.workers.count:
                    number, task = waiting.pop(0)
                    running.append(remote.remote(work, number, task, self.place, board))
                done, running = ray.wait(running, timeout=SECONDS_BETWEEN_LOOKS)
                for number, share in ray.get(board.all.remote()).items():
                    on_progress(number, share)
                for ready in done:
                    yield ray.get(ready)
        except ViewgenError:
            raise
        except ray.exceptions.RayError as error:
            raise ViewgenError(f"Ray ended the run: {error_of(error)}") from error
        finally:
            for unfinished in running:
                with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                    ray.cancel(unfinished, force=True)
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                ray.kill(board)


class _Board:
    """The actor that collects the progress of tasks."""

    def __init__(self) -> None:
        self.shares: dict[int, float] = {}

    def tell(self, number: int, share: float) -> None:
        self.shares[number] = share

    def all(self) -> dict[int, float]:
        return self.shares


def _run_task(work: Any, number: int, task: Any, place: Place, board: Any) -> tuple[int, Any]:
    last = 0.0

    def tell(share: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SECONDS_BETWEEN_LOOKS:
            last = now
            board.tell.remote(number, share)

    return number, work(task, on_this_node(place), tell)
