"""Executors: where tasks run, in this process or on Ray."""

import contextlib
import os
from collections.abc import Callable, Iterator

from viewgen.errors import UsageError
from viewgen_pipelines.executors.executor import Executor, Place
from viewgen_pipelines.executors.local import LocalExecutor

__all__ = ["Executor", "LocalExecutor", "Place", "check_executor", "open_executor"]


def check_executor(
    executor: str, *, workers: int | None, gpus_per_worker: float | None, ray_address: str | None
) -> None:
    """Refuse an executor that does not exist, and options that it would ignore.

    Raises:
        UsageError: the message names the option.
    """
    if executor not in ("ray", "local"):
        raise UsageError(f"--executor {executor!r}: expected 'ray' or 'local'")
    if executor == "local":
        if workers not in (None, 1):
            raise UsageError(
                f"--workers {workers}: --executor local has one worker; use --executor ray for more"
            )
        for flag, value in (("--ray-address", ray_address), ("--gpus-per-worker", gpus_per_worker)):
            if value is not None:
                raise UsageError(f"{flag}: --executor local does not use Ray")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1")
    if gpus_per_worker is not None and gpus_per_worker < 0:
        raise UsageError(f"--gpus-per-worker {gpus_per_worker:g}: expected 0 or more")


@contextlib.contextmanager
def open_executor(
    executor: str,
    *,
    max_workers: int,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[Executor]:
    """Yield an executor; a Ray session of its own ends with the context.

    Args:
        executor: ``"ray"``, or ``"local"`` for one worker in this process.
        max_workers: upper bound on workers: the number of tasks.
        workers: number of workers at once; by default one per GPU, or one per core without GPUs.
        gpus_per_worker: GPUs of each worker, fractions allowed; by default 1 where there are GPUs.
        ray_address: address of a running cluster; None starts Ray on this machine.
        say: callback with the line that gives the dashboard's address; for a session of its own this comes
            later, from another thread.

    Raises:
        UsageError: an option cannot be met.
        ViewgenError: Ray does not start or cannot be reached.
    """
    check_executor(executor, workers=workers, gpus_per_worker=gpus_per_worker, ray_address=ray_address)
    if executor == "local":
        yield LocalExecutor()
        return
    from viewgen_pipelines.executors.ray import RayExecutor
    from viewgen_pipelines.executors.session import ray_session
    from viewgen_pipelines.executors.workers import divide

    address = ray_address or os.environ.get("RAY_ADDRESS")
    say(f"joining the Ray cluster at {address}" if address else "starting Ray")
    with ray_session(address, num_workers=workers or 1, say=say) as session:
        divided = divide(
            session,
            num_workers=workers,
            max_workers=max_workers,
            gpus_per_worker=gpus_per_worker,
            say=say,
        )
        yield RayExecutor(session, divided)
