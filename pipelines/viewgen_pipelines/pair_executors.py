"""Executors for pairs of views: one after the other in this process, or a pair per task on Ray."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from viewgen.device import available_cores, resolve_device
from viewgen.errors import ViewgenError
from viewgen_pipelines.view_pairs import PairResult, PairTask, run_pair

__all__ = ["LocalPairs", "PairExecutor", "RayPairs"]

# step(number of the task, update of its network)
OnStep = Callable[[int, int], object]
SECONDS_BETWEEN_LOOKS = 0.5
STEPS_BETWEEN_REPORTS = 5


class PairExecutor(Protocol):
    """Measures pairs."""

    def run(self, tasks: list[PairTask], on_step: OnStep) -> Iterator[tuple[int, PairResult]]:
        """Yield (number of the task, result), in any order; `on_step` hears of progress."""
        ...


class LocalPairs:
    """One pair after the other in this process, on all its cores."""

    def run(self, tasks: list[PairTask], on_step: OnStep) -> Iterator[tuple[int, PairResult]]:
        device = resolve_device()
        for number, task in enumerate(tasks):
            placed = dataclasses.replace(task, device=device, num_threads=available_cores())

            def report(step: int, number: int = number) -> None:
                on_step(number, step)

            yield number, run_pair(placed, report)


class _Steps:
    """The actor that tasks tell how far they are."""

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}

    def tell(self, number: int, step: int) -> None:
        self.steps[number] = step

    def all(self) -> dict[int, int]:
        return self.steps


def _run_on_ray(number: int, task: PairTask, steps: Any) -> tuple[int, PairResult]:
    def report(step: int) -> None:
        if step % STEPS_BETWEEN_REPORTS == 0 or step == task.config.num_steps:
            steps.tell.remote(number, step)

    return number, run_pair(task, report)


class RayPairs:
    """A pair per Ray task, as many at once as there are workers.

    Args:
        workers: pairs at once; by default one per GPU, or per core without.
        gpus_per_worker: GPUs of each, fractions allowed; by default 1 where there are GPUs.
        address: of a running cluster; None starts Ray on this machine.
        say: is told where the dashboard is.
    """

    def __init__(
        self,
        *,
        workers: int | None,
        gpus_per_worker: float | None,
        address: str | None,
        say: Callable[[str], object],
    ) -> None:
        self.workers = workers
        self.gpus_per_worker = gpus_per_worker
        self.address = address
        self.say = say

    def run(self, tasks: list[PairTask], on_step: OnStep) -> Iterator[tuple[int, PairResult]]:
        from viewgen_pipelines.executors.ray import RayExecutor

        session = RayExecutor(
            num_workers=self.workers,
            max_workers=len(tasks),
            gpus_per_worker=self.gpus_per_worker,
            address=self.address,
            say=self.say,
        )
        with session:
            yield from self._run(session, tasks, on_step)

    def _run(self, session: Any, tasks: list[PairTask], on_step: OnStep) -> Iterator[tuple[int, PairResult]]:
        import ray

        remote = ray.remote(num_cpus=session.num_threads, num_gpus=session.gpus_per_worker, max_retries=2)(
            _run_on_ray
        )
        steps = ray.remote(num_cpus=0)(_Steps).remote()
        waiting = list(enumerate(tasks))
        running: list[Any] = []
        try:
            while waiting or running:
                while waiting and len(running) < session.num_workers:
                    number, task = waiting.pop(0)
                    placed = dataclasses.replace(task, device=session.device, num_threads=session.num_threads)
                    running.append(remote.remote(number, placed, steps))
                done, running = ray.wait(running, timeout=SECONDS_BETWEEN_LOOKS)
                for number, step in ray.get(steps.all.remote()).items():
                    on_step(number, step)
                for ready in done:
                    yield ray.get(ready)
        except ViewgenError:
            raise
        except ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ViewgenError(f"Ray ended the run: {lines[-1] if lines else error}") from error
        finally:
            for unfinished in running:
                with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                    ray.cancel(unfinished, force=True)
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                ray.kill(steps)
