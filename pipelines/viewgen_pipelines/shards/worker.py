"""A worker: makes shards one after another; a failing shard never raises.

The order of steps decides what a kill leaves behind: attempt marker, objects, lease check, commit record.
"""

import contextlib
import dataclasses
import errno
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import viewgen.errors
from viewgen.datasets import load_dataset
from viewgen.errors import (
    CorruptDataError,
    LeaseError,
    MissingFileError,
    ModelError,
    StorageError,
    ViewgenError,
)
from viewgen.status import Status
from viewgen.store import (
    CacheReader,
    ObjectExistsError,
    ShardCommit,
    commit_shard,
    open_storage,
    read_commit,
    read_spec,
    write_shard,
)
from viewgen.store.columns import REAL_TARGET
from viewgen.store.names import block_of
from viewgen_pipelines.executors.executor import Place
from viewgen_pipelines.executors.process import configure_process
from viewgen_pipelines.shards.inputs import fetch, fetch_dataset
from viewgen_pipelines.shards.job import ShardJob, ShardReport
from viewgen_pipelines.shards.ledger import Attempt, AttemptLedger
from viewgen_pipelines.shards.steps import Batch, assemble, run_finding_bad_samples, shard_stats
from viewgen_pipelines.shards.watchdog import CrashTrace, Watchdog

__all__ = ["ShardWorker", "start_worker"]

# No other shard will fare better: no space, quota, permission, read-only.
_FATAL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class _SetupError(Exception):
    """The worker cannot start: a data set, a network or the method's build failed."""


def start_worker(job: ShardJob, place: Place) -> "ShardWorker":
    """Return the worker of a job at a place; on Ray it records Prometheus metrics."""
    if not place.node:
        return ShardWorker(job)
    from viewgen_pipelines.shards.metrics import ShardMetrics

    return ShardWorker(
        dataclasses.replace(job, memory_share=place.memory_share),
        ShardMetrics(job.token.url, job.spec).record,
        node=place.node,
        node_is_lost=place.node_is_lost,
    )


class ShardWorker:
    """Makes the shards of one job; a context manager around the process's crash trace.

    Data set, networks and method are set up with the first shard, after its attempt marker, so that a crash
    during the set-up counts too.

    Args:
        job: description of the cache to make.
        observe: callback for every committed shard, with its record and the distances `(R, V)` of its views.
        node, node_is_lost: name of this machine and test for lost machines, see `AttemptLedger`.
    """

    def __init__(
        self,
        job: ShardJob,
        observe: Callable[[ShardCommit, np.ndarray[Any, Any]], object] = lambda *_: None,
        *,
        node: str = "",
        node_is_lost: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.job = job
        self.observe = observe
        self.storage = open_storage(job.url, job.storage_options)
        self.ledger = AttemptLedger(
            self.storage,
            job.token.run_id,
            job.max_attempts,
            in_driver=job.in_driver,
            node=node,
            node_is_lost=node_is_lost,
        )
        self.trace = CrashTrace(job.token.run_id)
        self._step: Any = None
        self._inversions: CacheReader | None = None
        self._open_blocks: set[int] = set()
        self._notes: dict[str, str] = {}

    def __enter__(self) -> "ShardWorker":
        self.trace.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.trace.__exit__(kind, error, trace)

    def run(self, shard_id: int) -> ShardReport:
        """Make one shard and report; raise only what ends the process (KeyboardInterrupt, SystemExit)."""
        start = time.perf_counter()
        attempt: Attempt | None = None

        def report(outcome: str, **details: Any) -> ShardReport:
            seconds = time.perf_counter() - start
            notes, self._notes = self._notes, {}
            return ShardReport(shard_id=shard_id, outcome=outcome, seconds=seconds, notes=notes, **details)

        try:
            if self._step is None:
                self._check_place()
            if read_commit(self.storage, self.job.spec.identity, shard_id) is not None:
                return report("present")
            self.job.token.check(self.storage)
            attempt = self.ledger.begin(shard_id)
            if attempt is None:
                return report("quarantined")
            with Watchdog(self.job.hang_seconds, self.trace, self._timeout_action(attempt)):
                self._make(shard_id, attempt.number, start)
            return report("committed")
        except ObjectExistsError as error:
            return report(**self._present(shard_id, error, attempt))
        except Exception as error:
            return report(**self._judge(error, attempt))
        except BaseException:
            self._end(attempt, "interrupted", "the process was asked to stop")
            raise

    def _present(self, shard_id: int, error: Exception, attempt: Attempt | None) -> dict[str, Any]:
        """Report a shard that another process has committed, or whose attempt another has begun meanwhile."""
        try:
            if read_commit(self.storage, self.job.spec.identity, shard_id) is not None:
                return {"outcome": "present"}
        except Exception as unreadable:
            error = unreadable
        return self._judge(error, attempt)

    def _check_place(self) -> None:
        if not self.storage.exists("zarr.json"):
            raise MissingFileError(
                f"the cache {self.storage.url} cannot be seen from {platform.node()}; give an --out that all "
                "nodes of the cluster share: an object store (s3://…) or a shared file system"
            )

    def _make(self, shard_id: int, attempt_number: int, start: float) -> None:
        spec = self.job.spec
        if self._step is None:
            self._set_up()
        rows = np.asarray(spec.shard_rows(shard_id))
        self._open_inversions(rows)
        usable, failures = self._usable_rows(rows)
        parts, raised = run_finding_bad_samples(self._step_on, usable)
        failures |= raised
        labels = {"source_index": rows, "label": self._dataset.labels(rows)}
        if self._dataset.real_names:
            labels[REAL_TARGET] = self._dataset.reals(rows)
        arrays = assemble(spec, shard_id, labels, parts)
        for row in rows[arrays["status"] == Status.FAILED]:
            failures.setdefault(int(row), "the method marked the sample as failed")
        objects = write_shard(self.storage, spec, shard_id, arrays)
        self.job.token.check(self.storage)
        commit = ShardCommit(
            shard_id=shard_id,
            identity=spec.identity,
            objects=objects,
            status=arrays["status"].tobytes(),
            failures=failures,
            attempt=attempt_number,
            run_id=self.job.token.run_id,
            seconds=time.perf_counter() - start,
            stats=shard_stats(spec, arrays, parts) | ({"notes": self._notes} if self._notes else {}),
        )
        commit_shard(self.storage, commit)
        self.observe(commit, arrays["distance"])

    def _set_up(self) -> None:
        job = self.job
        try:
            configure_process(job.num_threads)
            from viewgen.networks.acceleration import cuda_graphs
            from viewgen.networks.execution import Execution
            from viewgen.networks.files import file_digest, load_models

            paths = {kind: Path(path) for kind, path in job.model_paths.items()}
            if job.inputs is not None:
                self._dataset = fetch_dataset(self.storage, job.spec, job.inputs)
                paths = {kind: fetch(self.storage, digest) for kind, digest in job.inputs.networks.items()}
            else:
                self._dataset = load_dataset(
                    job.spec.dataset["name"],
                    job.spec.dataset["split"],
                    data_root=job.data_root,
                    download=False,
                )
            if self._dataset.digest != job.spec.dataset["digest"]:
                raise CorruptDataError(
                    f"data set {self._dataset.name!r} here is {self._dataset.digest}, the cache's is "
                    f"{job.spec.dataset['digest']}; all workers need the same data"
                )
            for kind, path in paths.items():
                if (digest := file_digest(path)) != job.spec.models[kind]:
                    raise ModelError(f"{path} is {digest} here, the driver's is {job.spec.models[kind]}")
            execution = Execution(
                compiler=cuda_graphs if job.device.startswith("cuda") else None,
                memory_share=job.memory_share,
                announce=self._notes_down,
            )
            models = dataclasses.replace(load_models(paths, job.device), execution=execution)
            from viewgen.views.entry import Resources
            from viewgen.views.offline import offline_step

            resources = Resources(models=models, batch_size=job.batch_size)
            source = job.method.build(resources)
            self._step = offline_step(source, resources, seed=job.spec.seed, num_views=job.spec.num_views)
        except ViewgenError:
            raise
        except Exception as error:
            raise _SetupError(f"{type(error).__name__}: {error}") from error

    def _notes_down(self, topic: str, text: str) -> None:
        self._notes[topic] = text

    def _open_inversions(self, rows: np.ndarray[Any, Any]) -> None:
        """Open the blocks of the inversions that hold these rows, unless they are open.

        The log of a large cache takes seconds and gigabytes, which not every worker should spend.
        """
        url, options = self.job.inversions_url, self.job.storage_options
        if url is None:
            return
        spec = read_spec(open_storage(url, options)) if self._inversions is None else self._inversions.spec
        first, last = (block_of(int(row) // spec.shard_images) for row in rows[[0, -1]])
        if not {first, last} <= self._open_blocks:
            blocks = {*range(first, last + 1)}
            self._inversions = CacheReader(url, options, blocks=blocks)
            self._open_blocks = blocks  # not before they are: the next shard would find all rows absent

    def _usable_rows(self, rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
        """Split a shard's rows into those with an inversion, and row → reason of those without."""
        if self._inversions is None:
            return rows, {}
        usable = np.isin(self._inversions.status[rows], (Status.OK, Status.NOT_CONVERGED))
        return rows[usable], {int(row): "its inversion failed" for row in rows[~usable]}

    def _step_on(self, rows: np.ndarray[Any, Any]) -> Batch:
        batch = self._dataset.batch(rows)
        if self._inversions is not None:
            batch["anchor_w_plus"] = self._inversions.array("anchor_w_plus", rows)
            batch["anchor_error"] = self._inversions.array("inversion_error", rows)
        outputs: Batch = self._step(batch)
        return outputs

    def _judge(self, error: Exception, attempt: Attempt | None) -> dict[str, Any]:
        """Decide the cause of an exception, and close the attempt accordingly."""
        name, text = type(error).__name__, str(error)
        if isinstance(error, _SetupError):
            self._end(attempt, "interrupted", text)
            return {"outcome": "stopped", "detail": f"a worker could not start: {text}", "fatal": True}
        surroundings = isinstance(error, StorageError | LeaseError | CorruptDataError | MissingFileError)
        if attempt is None or self._step is None or surroundings:
            self._end(attempt, "interrupted", f"{name}: {text}")
            known = isinstance(error, ViewgenError) and hasattr(viewgen.errors, name)
            cause = error.__cause__
            fatal = not isinstance(error, StorageError) or (
                isinstance(cause, OSError) and cause.errno in _FATAL_ERRNO
            )
            detail = text if known else f"{name}: {text}"
            return {"outcome": "stopped", "detail": detail, "error": name if known else "", "fatal": fatal}
        self._end(attempt, "raised", f"{name}: {text}")
        return {"outcome": "failed", "detail": f"{name}: {text}"}

    def _timeout_action(self, attempt: Attempt) -> Any:
        def on_timeout(stack: str) -> None:
            reason = f"no end after {self.job.hang_seconds:g} s; the step stood at\n{stack}"
            self.ledger.end(attempt, "hung", reason)
            sys.stderr.write(
                f"\nerror: shard {attempt.shard_id} took longer than {self.job.hang_seconds:g} s (attempt "
                f"{attempt.number}) and its process was ended; run the same command again to go on, or raise "
                f"--hang-timeout. It stood at\n{stack}"
            )
            sys.stderr.flush()

        return on_timeout

    def _end(self, attempt: Attempt | None, outcome: str, reason: str) -> None:
        if attempt is None:
            return
        # If the storage fails here too: it is the problem that is being reported.
        with contextlib.suppress(OSError, ViewgenError):
            self.ledger.end(attempt, outcome, reason)
