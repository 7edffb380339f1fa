"""The driver loop: list missing shards and run them, until none is missing or no progress is possible."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import viewgen.errors
from viewgen.datasets import ImageDataset
from viewgen.errors import CorruptDataError, ViewgenError
from viewgen.progress import Bar, Progress
from viewgen.registry import Choice
from viewgen.store import (
    CacheSpec,
    ShardCommit,
    Storage,
    create_cache,
    list_commits,
    open_storage,
    read_spec,
    repair_cache,
    verify_cache,
    write_plain_copies,
)
from viewgen.store.commits import scan_commits
from viewgen.views.entry import ViewEntry
from viewgen_pipelines.executors.executor import Executor
from viewgen_pipelines.shards.inputs import publish, withdraw
from viewgen_pipelines.shards.job import ShardJob, ShardReport
from viewgen_pipelines.shards.lease import Lease
from viewgen_pipelines.shards.ledger import AttemptLedger, ShardHistory
from viewgen_pipelines.shards.log_keeper import LogKeeper
from viewgen_pipelines.shards.metrics import RunMetrics
from viewgen_pipelines.shards.watchdog import CrashTrace
from viewgen_pipelines.shards.worker import start_worker

__all__ = ["Stage", "StageResult", "run_stage"]

# Bytes of finished shards up to which a resumed run reads them all again: some ten seconds.
_MOST_READ_AGAIN = 4 * 2**30

# Storage errors in a row, without a finished shard in between, after which the storage counts as gone.
_MAX_STORAGE_ERRORS = 3
# Shards in a row that fail in a cache without a single finished shard: then it is not the shards.
_MAX_FAILURES_WITHOUT_SUCCESS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One cache to make.

    Attributes:
        title: title of the progress bar.
        url: URL of the cache.
        spec: specification of the cache.
        method: view method with its settings.
        model_paths: kind → file of the networks that the method needs.
        inversions_url: URL of the cache with the anchor codes, or None.
    """

    title: str
    url: str = field(repr=False)
    spec: CacheSpec
    method: Choice[ViewEntry]
    model_paths: dict[str, str]
    inversions_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """The result of a run.

    Attributes:
        commits: shard id → record of every finished shard, old and new.
        quarantined: shard id → reason of the shards that are not finished.
        repaired: shards whose files were damaged and that were made again.
        num_new_images: number of images made by this run.
        seconds: wall-clock time of this run.
    """

    commits: Mapping[int, ShardCommit]
    quarantined: Mapping[int, str]
    repaired: list[int]
    num_new_images: int
    seconds: float


def run_stage(
    stage: Stage,
    executor: Executor,
    *,
    dataset: ImageDataset,
    storage_options: dict[str, Any],
    progress: Progress,
    job_settings: dict[str, Any],
    max_attempts: int,
    overwrite: bool = False,
    blocked: Mapping[int, str] | None = None,
) -> StageResult:
    """Make or resume one cache.

    Args:
        stage: cache to make.
        executor: executor that has already been opened.
        dataset: data set of the images; workers on other machines get them from the cache's storage.
        storage_options: options of the fsspec file system of the cache.
        progress: display of the progress.
        job_settings: further fields of `ShardJob`.
        max_attempts: failures after which a shard is quarantined.
        overwrite: replace an existing cache, whatever its configuration.
        blocked: shard id → reason of shards that cannot be made because their inversion is missing.

    Raises:
        CacheMismatchError: a cache with another configuration exists.
        LeaseError: another run holds the cache, or took it over.
        StorageError: the storage fails.
        ViewgenError: several shards in a row fail.
    """
    start = time.monotonic()
    storage = open_storage(stage.url, storage_options)
    replacing = overwrite and storage.exists("zarr.json")
    if replacing:
        read_spec(storage)  # refuses what is no cache before anything is written
    else:
        create_cache(storage, stage.spec)
    with Lease(storage) as lease:
        if replacing:
            create_cache(storage, stage.spec, overwrite=True)
        job = ShardJob(
            token=lease.token,
            url=stage.url,
            storage_options=storage_options,
            spec=stage.spec,
            method=stage.method,
            model_paths=stage.model_paths,
            inversions_url=stage.inversions_url,
            max_attempts=max_attempts,
            in_driver=executor.in_driver,
            device=executor.place.device,
            num_threads=executor.place.num_threads,
            **job_settings,
        )
        run = _StageRun(
            stage, storage, storage_options, lease, job, executor, dataset, progress, dict(blocked or {})
        )
        return run.run(start)


class _StageRun:
    def __init__(
        self,
        stage: Stage,
        storage: Storage,
        storage_options: dict[str, Any],
        lease: Lease,
        job: ShardJob,
        executor: Executor,
        dataset: ImageDataset,
        progress: Progress,
        blocked: dict[int, str],
    ) -> None:
        self.stage = stage
        self.spec = stage.spec
        self.storage = storage
        self.storage_options = storage_options
        self.lease = lease
        self.job = job
        self.executor = executor
        self.dataset = dataset
        self.progress = progress
        self.blocked = blocked
        self.ledger = AttemptLedger(storage, lease.run_id, job.max_attempts, in_driver=executor.in_driver)
        self.log = LogKeeper(storage, self.spec, self.ledger, check=lease.check, say=progress.say)
        self.storage_errors = 0
        self.failures = 0
        self.topics: set[str] = set()

    def run(self, start: float) -> StageResult:
        log = scan_commits(self.storage, self.spec)
        commits = log.commits
        self.ledger.judge_earlier_runs(commits)
        repaired = self._repair(commits) if commits or log.faults else []
        num_old_images = sum(len(self.spec.shard_rows(shard_id)) for shard_id in commits)
        finished = set(commits)
        self.log.add(finished)
        with self.progress.bar(
            self.stage.title,
            self.spec.num_images,
            done=num_old_images,
            unit="images",
            rate="views",
            per_unit=self.spec.num_views,
        ) as bar:
            try:
                self._loop(finished, bar)
            finally:
                self._close()
        commits = list_commits(self.storage, self.spec)
        write_plain_copies(self.storage, self.spec, commits.values())
        self.log.finish()
        quarantined = self.blocked | self.ledger.quarantined()
        num_images = sum(len(self.spec.shard_rows(shard_id)) for shard_id in commits)
        return StageResult(
            commits=commits,
            quarantined={shard: why for shard, why in sorted(quarantined.items()) if shard not in commits},
            repaired=repaired,
            num_new_images=num_images - num_old_images,
            seconds=time.monotonic() - start,
        )

    def _repair(self, commits: dict[int, ShardCommit]) -> list[int]:
        """Withdraw the records of shards whose files are damaged, so that this run makes them again."""
        num_bytes = sum(entry["bytes"] for one in commits.values() for entry in one.objects.values())
        contents = num_bytes <= _MOST_READ_AGAIN
        how = f": sizes alone of {num_bytes / 1e9:,.1f} GB; `viewgen verify` reads their contents"
        self.progress.say(
            f"checking {len(commits)} finished shards of {self.storage.url}{'' if contents else how}"
        )
        report = verify_cache(self.stage.url, self.storage_options, contents=contents)
        for path in report.superseded:
            self.storage.delete(path)
        if not report.faults:
            return []
        repair_cache(self.stage.url, self.storage_options, report)
        sound = list_commits(self.storage, self.spec)
        damaged = sorted(set(commits) - set(sound))
        if damaged:
            self.progress.say(f"damaged files in shards {_some(damaged)}: making them again")
            self.ledger.interrupt_shards(set(damaged), "its files were found damaged later")
        commits.clear()
        commits.update(sound)
        return damaged

    def _loop(self, finished: set[int], bar: Bar) -> None:
        # only Ray has somebody to tell
        metrics = None if self.executor.in_driver else RunMetrics(self.job.token.url, self.spec)
        while True:
            missing = self._missing(finished)
            if not missing:
                return
            before = len(finished)
            failed = False
            self._publish()
            num_left = len(missing)
            if metrics is not None:
                metrics.left(num_left)
            start = functools.partial(start_worker, self.job)
            reports = self.executor.pool(start, missing, self.lease.check)
            try:
                for report in reports:
                    committed = report.outcome in ("committed", "present")
                    num_left -= committed
                    if metrics is not None:
                        metrics.left(num_left) if committed else metrics.failed(report.outcome)
                    failed |= report.outcome in ("failed", "quarantined")
                    self._take(report, finished, bar)
            finally:
                _close(reports)
            self.lease.check()
            # the log alone says what is finished, whatever workers report
            finished.clear()
            finished |= set(list_commits(self.storage, self.spec))
            self.log.add(finished)
            if len(finished) == before and not failed:
                raise ViewgenError(
                    f"no shard of {self.storage.url} could be finished and none failed: the workers end "
                    "before their work; run with --executor local to see why"
                )

    def _publish(self) -> None:
        """Publish the inputs for workers on other machines; jobs then name no file of the driver."""
        if not self.executor.elsewhere or self.job.inputs is not None:
            return
        inputs = publish(self.storage, self.dataset, self.spec.num_images, self.job.model_paths)
        self.job = dataclasses.replace(self.job, inputs=inputs, data_root=None, model_paths={})

    def _missing(self, finished: set[int]) -> list[int]:
        """Return the missing shards; those that have failed before come last."""
        histories = self.ledger.histories()
        unwanted = finished | set(self.blocked) | set(self.ledger.quarantined(histories))
        missing = [shard_id for shard_id in range(self.spec.num_shards) if shard_id not in unwanted]
        new = ShardHistory()
        return sorted(missing, key=lambda shard_id: histories.get(shard_id, new).failures)

    def _take(self, report: ShardReport, finished: set[int], bar: Bar) -> None:
        shard_id, detail = report.shard_id, report.detail
        rows = len(self.spec.shard_rows(shard_id))
        for topic, text in report.notes.items():
            # every worker has something to say of it; all that they said is in the commit records
            if topic not in self.topics:
                self.progress.say(f"{self.stage.title}: {topic}: {text}")
                self.topics.add(topic)
        if report.outcome in ("committed", "present"):
            if shard_id not in finished:
                bar.advance(rows)
            finished.add(shard_id)
            self.log.add([shard_id])
            self.storage_errors = self.failures = 0
        elif report.outcome == "stopped":
            self.lease.check()
            self.storage_errors += 1
            if report.fatal or self.storage_errors >= _MAX_STORAGE_ERRORS:
                raise _error_named(report.error)(detail)
            self.progress.say(f"shard {shard_id}: {detail}; trying again")
        else:
            word = "quarantined" if report.outcome == "quarantined" else "failed"
            self.progress.say(f"shard {shard_id} {word}{f': {detail}' if detail else ''}")
            self.failures += 1
            if self.failures >= _MAX_FAILURES_WITHOUT_SUCCESS and not finished:
                reason = detail or "; ".join(list(self.ledger.quarantined().values())[:1])
                raise ViewgenError(
                    f"{self.failures} shards failed one after another and none succeeded, so the fault is "
                    f"not theirs; the last said: {reason}"
                )

    def _close(self) -> None:
        """Close the ledger without blaming any shard for the end of this run."""
        try:
            committed = list_commits(self.storage, self.spec)
            self.ledger.interrupt_own(committed, "the run ended during the attempt")
            if self.job.inputs is not None:
                withdraw(self.storage)
        except (OSError, CorruptDataError):
            pass  # The storage fails; the error under way says so, and the next run judges these attempts.
        CrashTrace.sweep(self.lease.run_id)


def _error_named(name: str) -> Callable[[str], ViewgenError]:
    error_class: Callable[[str], ViewgenError] = getattr(viewgen.errors, name or "ViewgenError", ViewgenError)
    return error_class


def _some(shard_ids: list[int], limit: int = 10) -> str:
    text = ", ".join(str(shard_id) for shard_id in shard_ids[:limit])
    return text if len(shard_ids) <= limit else f"{text} and {len(shard_ids) - limit} more"


def _close(iterator: Any) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
