"""The Ray executor: a pool of actors under Ray Data, one row per shard.

What goes in is a shard number, what comes out a report; images and views never enter Ray's object store.

Settings that look odd are answers to Ray Data's defaults (2.60): errored blocks are dropped silently unless
`max_errored_blocks` is 0; a pool waits for ever for a worker that may not restart, so restarts stay unlimited
and the attempt ledger sets the limit; shards queued behind another on one actor would only wait there.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from viewgen.errors import UsageError, ViewgenError
from viewgen_pipelines.executors.metrics import RunMetrics, ShardMetrics
from viewgen_pipelines.executors.session import ray_session
from viewgen_pipelines.gallery.serve import BackgroundGallery, GalleryOptions
from viewgen_pipelines.shards.job import ShardJob, ShardReport
from viewgen_pipelines.shards.worker import ShardWorker

__all__ = ["RayExecutor"]


class ViewgenWorker:
    """The actor; its name is what the dashboard shows."""

    def __init__(self, job: ShardJob) -> None:
        import ray

        metrics = ShardMetrics(job.token.url, job.spec)
        node = ray.get_runtime_context().get_node_id()
        self.worker = ShardWorker(job, metrics.record, node=node, node_is_lost=_node_is_lost).__enter__()

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        return {"report": self.worker.run(int(row["shard_id"])).to_json()}


class RayExecutor:
    """Runs shards on Ray actors.

    Args:
        num_workers: actors, each with one shard at a time; by default one per GPU, or per core without.
        max_workers: so many shards there are.
        gpus_per_worker: GPUs that each holds, fractions allowed; by default 1 where this machine has GPUs.
        address: of a running cluster; None starts Ray on this machine.
        say: is told where the dashboard and the gallery are.
        gallery: what a gallery shows that is served while the executor is entered; None for no gallery.
    """

    in_driver = False
    elsewhere = False

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        max_workers: int,
        gpus_per_worker: float | None = None,
        address: str | None = None,
        say: Callable[[str], object] = lambda _: None,
        gallery: GalleryOptions | None = None,
    ) -> None:
        self.num_workers = num_workers
        self.max_workers = max_workers
        self.gpus_per_worker = gpus_per_worker
        self.address = address
        self.say = say
        self.gallery_options = gallery
        self.device = "cpu"
        self.num_threads = 1
        self.memory_share = 1.0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "RayExecutor":
        address = self.address or os.environ.get("RAY_ADDRESS")
        self.say(f"joining the Ray cluster at {address}" if address else "starting Ray")
        session = self._stack.enter_context(ray_session(address, num_workers=self.num_workers or 1))
        self.elsewhere = session.elsewhere
        try:
            self._divide(session.num_cores, session.num_gpus, session.node_cores)
            if session.dashboard is not None:
                self.say(session.dashboard)
            if self.gallery_options is not None:
                gallery = BackgroundGallery(self.gallery_options, own=session.own, say=self.say)
                self._stack.callback(gallery.close)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _divide(self, num_cores: float, num_gpus: float, node_cores: float | None = None) -> None:
        """Settle workers, threads and device from what the session has.

        A cluster may still grow: what is asked for by name is waited for there. On a machine of its own the
        same would be waited for in vain.
        """
        asked, grows = self.num_workers, self.elsewhere
        if self.gpus_per_worker is None:
            self.gpus_per_worker = min(1.0, num_gpus)
        share = self.gpus_per_worker
        if share > num_gpus and not grows:
            raise UsageError(
                f"--gpus-per-worker {share:g}, but Ray sees {num_gpus:g} GPUs; leave the option out to "
                "compute on the processor"
            )
        if self.num_workers is None:
            self.num_workers = max(1, int(num_gpus / share if share else num_cores))
        elif self.num_workers * share > num_gpus and not grows:
            raise UsageError(
                f"--workers {self.num_workers} need {self.num_workers * share:g} GPUs, {share:g} each, but "
                f"Ray sees {num_gpus:g}; give fewer --workers or a smaller --gpus-per-worker"
            )
        self.num_workers = min(self.num_workers, self.max_workers)
        self.num_threads = max(1, int(num_cores // self.num_workers))
        if grows:
            # a worker that asks for more than a node has is never placed
            self.num_threads = max(1, min(self.num_threads, int(node_cores or 1)))
            self.say(
                f"{self.num_workers} workers with {self.num_threads} cores"
                + (f" and {share:g} GPUs" if share else "")
                + f" each, on a cluster that has {num_cores:g} cores and {num_gpus:g} GPUs now"
                + ("" if asked else "; --workers asks for more")
            )
        self.device = "cuda" if share else "cpu"
        neighbours = self.num_workers
        if grows:
            neighbours = max(1, min(neighbours, int(node_cores or 1) // self.num_threads))
        # of a GPU a worker has its part, of a machine's memory as much as each of its neighbours there
        self.memory_share = min(1.0, share) if share else 1 / neighbours

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, job: ShardJob, shard_ids: list[int], check: Callable[[], None]) -> Iterator[ShardReport]:
        metrics = RunMetrics(job.token.url, job.spec)
        rows = iter(self._dataset(job, shard_ids).iter_rows())
        num_left = len(shard_ids)
        try:
            while True:
                metrics.left(num_left)
                check()
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except ViewgenError:
                    raise
                except Exception as error:
                    raise ViewgenError(f"Ray ended the run: {_first_line(error)}") from error
                report = ShardReport.from_json(row["report"])
                if report.outcome in ("committed", "present"):
                    num_left -= 1
                else:
                    metrics.failed(report.outcome)
                yield report
        finally:
            # Closing the iterator ends Ray Data's executor, and with it the actors.
            rows.close()

    def _dataset(self, job: ShardJob, shard_ids: list[int]) -> Any:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.enable_auto_log_stats = False
        context.execution_no_progress_timeout_s = -1
        context.max_errored_blocks = 0
        workers = min(self.num_workers or 1, len(shard_ids))
        dataset = ray.data.from_items(
            [{"shard_id": shard_id} for shard_id in shard_ids], override_num_blocks=len(shard_ids)
        )
        return dataset.map(
            ViewgenWorker,
            fn_constructor_args=(dataclasses.replace(job, memory_share=self.memory_share),),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=job.num_threads,
            num_gpus=self.gpus_per_worker,
        )


def _node_is_lost(node: str) -> bool:
    import ray

    return node not in {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
