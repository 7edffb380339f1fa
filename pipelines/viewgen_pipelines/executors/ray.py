"""The Ray executor: a pool of actors under Ray Data, one row per task; or one Ray task for each task.

The input is a task's number and the output a report; images and views never enter Ray's object store.

Three settings answer Ray Data's defaults (2.60). Errored blocks are dropped silently unless
`max_errored_blocks` is 0. A pool waits for ever for a worker that may not restart, so restarts stay unlimited
and a ledger of attempts sets the limit. Tasks queued behind another on one actor would only wait there.
"""

import contextlib
import dataclasses
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from viewgen.errors import ViewgenError
from viewgen_pipelines.executors.executor import Place, PoolWorker, Work
from viewgen_pipelines.executors.session import RaySession
from viewgen_pipelines.executors.workers import Workers

__all__ = ["RayExecutor"]

T = TypeVar("T")
R = TypeVar("R")

SECONDS_BETWEEN_LOOKS = 0.5
# a task whose worker died is tried again so often
MAX_RETRIES = 2


class ViewgenWorker:
    """The pool's actor; the dashboard shows its class name."""

    def __init__(self, start: Callable[[Place], PoolWorker[Any]], place: Place) -> None:
        self.worker = start(_placed(place)).__enter__()

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        return {"report": pickle.dumps(self.worker.run(int(row["number"])))}


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
        rows = iter(self._dataset(start, numbers).iter_rows())
        try:
            while True:
                check()
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except ViewgenError:
                    raise
                except Exception as error:
                    raise ViewgenError(f"Ray ended the run: {_last_line(error)}") from error
                yield pickle.loads(row["report"])
        finally:
            # Closing the iterator ends Ray Data's executor, and with it the actors.
            rows.close()

    def _dataset(self, start: Callable[[Place], PoolWorker[Any]], numbers: Sequence[int]) -> Any:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.enable_auto_log_stats = False
        context.execution_no_progress_timeout_s = -1
        context.max_errored_blocks = 0
        dataset = ray.data.from_items(
            [{"number": number} for number in numbers], override_num_blocks=len(numbers)
        )
        return dataset.map(
            ViewgenWorker,
            fn_constructor_args=(start, self.place),
            compute=ray.data.ActorPoolStrategy(
                size=min(self.workers.count, len(numbers)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=self.place.num_threads,
            num_gpus=self.workers.gpus,
        )

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
            raise ViewgenError(f"Ray ended the run: {_last_line(error)}") from error
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

    return number, work(task, _placed(place), tell)


def _placed(place: Place) -> Place:
    import ray

    node = ray.get_runtime_context().get_node_id()
    return dataclasses.replace(place, node=node, node_is_lost=_node_is_lost)


def _node_is_lost(node: str) -> bool:
    import ray

    return node not in {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
