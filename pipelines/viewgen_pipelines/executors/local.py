"""Executors: how workers are given shards. The driver loop is the same for all."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from viewgen.device import available_cores, resolve_device
from viewgen_pipelines.shards.job import ShardJob, ShardReport
from viewgen_pipelines.shards.worker import ShardWorker

__all__ = ["Executor", "LocalExecutor"]


class Executor(AbstractContextManager["Executor"], Protocol):
    """Runs a job's shards on workers; entered once, then used for one or more jobs.

    Attributes:
        in_driver: the worker is the driver's own process.
        elsewhere: workers may run on machines that do not have the driver's files; known once entered, as are
        device: ``"cpu"`` or ``"cuda"``, and
        num_threads: torch threads of one worker.
    """

    in_driver: bool
    elsewhere: bool
    device: str
    num_threads: int

    def run(self, job: ShardJob, shard_ids: list[int], check: Callable[[], None]) -> Iterator[ShardReport]:
        """Yield one report per shard, in any order.

        `check` is called before each shard; what it raises ends the run. When the iterator is closed, no
        worker of the job goes on.
        """
        ...


class LocalExecutor:
    """One worker in this process, without Ray: for ``memory://``, for debugging, for machines without Ray."""

    in_driver = True
    elsewhere = False

    def __init__(self) -> None:
        self.device = "cpu"
        self.num_threads = available_cores()

    def __enter__(self) -> "LocalExecutor":
        self.device = resolve_device()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, job: ShardJob, shard_ids: list[int], check: Callable[[], None]) -> Iterator[ShardReport]:
        with ShardWorker(job) as worker:
            for shard_id in shard_ids:
                check()
                yield worker.run(shard_id)
