"""`viewgen experiment` as a function: plan a grid of caches and trainings, run what is missing, show it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from viewgen.errors import UsageError, ViewgenError
from viewgen.files import make_folder
from viewgen.progress import Bar, Progress
from viewgen_pipelines.executors import Executor, check_executor, open_executor
from viewgen_train.experiment.cost import ExperimentCost, measure_cost
from viewgen_train.experiment.document import load_document
from viewgen_train.experiment.grid import file_part
from viewgen_train.experiment.plan import CacheTask, ExperimentPlan, TrainTask, make_plan
from viewgen_train.experiment.report import write_report
from viewgen_train.experiment.results import Record, ResultFolder
from viewgen_train.experiment.work import (
    CacheWork,
    DiagnosticWork,
    TrainWork,
    run_cache,
    run_diagnostics,
    run_training_task,
)
from viewgen_train.loop import only_run

__all__ = ["ExperimentResult", "experiment"]

# seconds between tables that are written while trainings run
REPORT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentResult:
    """What an experiment has.

    Attributes:
        folder: folder of the results.
        table: path of the table.
        num_done: number of trainings with a result, diverged ones included.
        num_trainings: number of trainings of the call.
        diverged: name and seed of the trainings without numbers → reason.
        words: sentences about the results.
    """

    folder: str
    table: str
    num_done: int
    num_trainings: int
    diverged: Mapping[str, str]
    words: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True if every training of the call has a result."""
        return self.num_done == self.num_trainings

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "folder": self.folder,
            "table": self.table,
            "num_done": self.num_done,
            "num_trainings": self.num_trainings,
            "diverged": dict(self.diverged),
            "words": list(self.words),
        }


def experiment(
    source: str,
    *,
    scale: str | None = None,
    dataset: str | None = None,
    out: str | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    dry_run: bool = False,
    report: bool = False,
    executor: Literal["ray", "local"] = "ray",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    data_root: str | None = None,
    checkpoint_seconds: float = 60.0,
    quiet: bool = False,
) -> ExperimentResult | ExperimentCost:
    """Run an experiment, or go on with it, and write its tables and plots.

    What is done is not done again: a killed call goes on, and so does one of a file that has grown.

    Args:
        source: name of a preset, or path of a TOML file.
        scale: scale of its settings; by default ``"small"`` where it has scales.
        dataset: data set; by default the scale's first.
        out: folder of the results; by default ``experiments/<name>-<data set>-<scale>``.
        only: rows to train; by default all.
        seeds: seeds, in place of the experiment's.
        dry_run: return the cost of what is missing, and write nothing.
        report: write tables and plots of what is there, and run nothing.
        executor: ``"ray"``, trainings side by side, or ``"local"``, one after the other in this process.
        workers: number of trainings at once; by default one per GPU, or one per core without GPUs.
        gpus_per_worker: GPUs of a training, fractions allowed; by default 1 where there are GPUs.
        ray_address: address of a running Ray cluster whose nodes see `out` under the same path.
        data_root: folder of the data sets.
        checkpoint_seconds: pause between the checkpoints of a training.
        quiet: write nothing to standard error.

    Raises:
        UsageError: the file, an option or a setting is wrong.
        CacheMismatchError: `out` holds another experiment, or a cache holds other images; the differences
            are listed.
        MissingFileError: data, networks or a named cache are missing.
        LeaseError: another process runs an experiment in `out`.
    """
    execution: dict[str, Any] = {
        "executor": executor,
        "workers": workers,
        "gpus_per_worker": gpus_per_worker,
        "ray_address": ray_address,
    }
    check_executor(**execution)
    if dry_run and report:
        raise UsageError("--dry-run and --report were given; expected one of them")
    progress = Progress(quiet=quiet, logger=__name__)
    document = load_document(source, scale=scale, dataset=dataset)
    folder = Path(out or _default_out(document)).expanduser().absolute()
    options: dict[str, Any] = {"only": only, "seeds": seeds, "data_root": data_root}
    if dry_run and not folder.exists():
        plan = make_plan(document, folder, **options, with_data=False)
        return _cost(plan, None, workers, executor, progress)
    plan = make_plan(document, folder, **options)
    results = ResultFolder(folder, plan.identity)
    results.check()
    if dry_run:
        return _cost(plan, results, workers, executor, progress)
    make_folder(folder)
    with only_run(folder):
        results.begin()
        if not report:
            _Run(plan, results, execution, checkpoint_seconds, progress).run()
        words = write_report(plan, results)
    done = {(one.name, one.seed): one for one in results.records("training")}
    mine = [done.get((task.row.name, task.seed)) for task in plan.trainings]
    return ExperimentResult(
        folder=str(folder),
        table=str(folder / "table.md"),
        num_done=sum(one is not None for one in mine),
        num_trainings=len(mine),
        diverged={
            f"{one.name}, seed {one.seed}": one.reason for one in mine if one is not None and one.reason
        },
        words=tuple(words),
    )


def _default_out(document: Any) -> str:
    parts = (document.name, document.experiment.dataset, document.scale)
    return f"experiments/{file_part('-'.join(part for part in parts if part))}"


def _cost(
    plan: ExperimentPlan,
    results: ResultFolder | None,
    workers: int | None,
    executor: str,
    progress: Progress,
) -> ExperimentCost:
    """Return the cost of what is missing."""
    with progress.steps() as tell:
        return measure_cost(
            plan,
            pending_counts(plan, results),
            workers=workers,
            side_by_side=executor == "ray",
            tell=tell,
        )


def pending_counts(plan: ExperimentPlan, results: ResultFolder | None) -> dict[tuple[str, str], int]:
    """Return (kind, name) → number of tasks without a result."""
    counts: dict[tuple[str, str], int] = {}
    tasks = [("encoder", one.name, 0) for one in plan.encoders]
    tasks += [("cache", one.name, 0) for one in plan.caches]
    tasks += [("training", one.row.name, one.seed) for one in plan.trainings]
    for kind, name, seed in tasks:
        if results is None or not _is_done(results.read(kind, name, seed)):
            counts[kind, name] = counts.get((kind, name), 0) + 1
    return counts


def _is_done(record: Record | None) -> bool:
    # what failed for want of views may succeed when they are there
    return record is not None and record.status != "failed"


class _Run:
    """The run of a plan: encoders, caches, then trainings and diagnostics side by side."""

    def __init__(
        self,
        plan: ExperimentPlan,
        results: ResultFolder,
        execution: Mapping[str, Any],
        checkpoint_seconds: float,
        progress: Progress,
    ) -> None:
        self.plan, self.results, self.execution = plan, results, execution
        self.checkpoint_seconds, self.progress = checkpoint_seconds, progress
        self._reported = time.monotonic()

    def run(self) -> None:
        """Do what has no result."""
        pending = pending_counts(self.plan, self.results)
        work = self._diagnostics()
        if not pending and not work:
            self.progress.say("nothing is missing; writing the tables")
            return
        seconds = self._seconds(pending)
        about = self.plan.document.experiment
        title = f"{self.plan.document.name} on {about.dataset}"
        total = sum(seconds[key] * count for key, count in pending.items()) + len(work)
        with self.progress.bar(title, total, unit="%") as bar:
            self._weighed = _Weighed(bar, seconds, sum(pending.values()) + len(work))
            self._encoders()
            self._caches()
            self._rest()

    def _seconds(self, pending: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], float]:
        """Return (kind, name) → expected seconds, of earlier results or measured steps."""
        known: dict[tuple[str, str], float] = {}
        for kind in ("encoder", "cache", "training"):
            for record in self.results.records(kind):
                if record.status == "finished" and record.seconds > 0:
                    known[kind, record.name] = record.seconds
        unknown = {key: count for key, count in pending.items() if key not in known}
        if unknown:
            with self.progress.steps() as tell:
                cost = measure_cost(self.plan, unknown, workers=1, tell=tell)
            known |= {(task.kind, task.name): task.seconds or 1.0 for task in cost.tasks}
        return {key: known[key] for key in pending}

    @contextlib.contextmanager
    def _executor(self, num_tasks: int) -> Iterator[Executor]:
        options = {name: value for name, value in self.execution.items() if name != "executor"}
        with open_executor(
            self.execution["executor"], max_workers=num_tasks, say=self.progress.say, **options
        ) as executor:
            yield executor

    def _encoders(self) -> None:
        document = self.plan.document
        tasks = [
            self._train_work("encoder", one.name, 0, one.train, one.out)
            for one in self.plan.encoders
            if not _is_done(self.results.read("encoder", one.name, 0))
        ]
        if not tasks:
            return
        with self._executor(len(tasks)) as executor:
            self._each(executor, run_training_task, tasks)
        for name in document.encoders:
            record = self.results.read("encoder", name, 0)
            if record is not None and record.status != "finished":
                raise ViewgenError(f"[encoders.{name}]: its training {record.status}: {record.reason}")

    def _caches(self) -> None:
        for task in self.plan.caches:
            if _is_done(self.results.read("cache", task.name, 0)):
                continue
            work = CacheWork(
                name=task.name,
                url=task.url,
                options=task.options,
                execution=self.execution,
                data_root=self.plan.data_root,
                identity=self.results.digest("cache", task.name),
            )
            self._weighed.start(("cache", task.name))
            record = run_cache(work, 0, partial(self._weighed.tell, 0))
            self.results.write(record)
            self._weighed.finish(0)
            self._weighed.forget()
            self._say(record, f"cache {task.name}")

    def _rest(self) -> None:
        """Run the diagnostics of caches, and the trainings."""
        lost = {
            one.name: one.reason for one in self.results.records("cache") if one.status != "finished"
        }
        trainings = []
        for task in self.plan.trainings:
            if _is_done(self.results.read("training", task.row.name, task.seed)):
                continue
            if task.cache in lost:
                self._without_cache(task, lost[str(task.cache)])
            else:
                trainings.append(self._training(task))
        diagnostics = [one for one in self._diagnostics() if one.name not in lost]
        if not trainings and not diagnostics:
            return
        with self._executor(len(trainings) + len(diagnostics)) as executor:
            self._each(executor, run_diagnostics, diagnostics)
            self._each(executor, run_training_task, trainings)

    def _without_cache(self, task: TrainTask, reason: str) -> None:
        self.results.write(
            Record(
                kind="training",
                name=task.row.name,
                seed=task.seed,
                status="failed",
                reason=f"its cache {task.cache} could not be made: {reason}",
                identity=self.results.digest("training", task.row.name),
            )
        )

    def _training(self, task: TrainTask) -> TrainWork:
        tables = {one.name: one for one in self.plan.caches}
        url = None if task.cache is None else tables[task.cache].url
        source = {} if url is None else {task.source: url}
        return self._train_work(
            "training", task.row.name, task.seed, task.settings, task.out, **source
        )

    def _train_work(
        self,
        kind: str,
        name: str,
        seed: int,
        settings: Mapping[str, Any],
        out: str,
        *,
        cache: str | None = None,
        inversions: str | None = None,
    ) -> TrainWork:
        document = self.plan.document
        about, measure = document.experiment, document.measure
        models = document.cache.models if inversions is not None else None
        return TrainWork(
            kind=kind,
            name=name,
            seed=seed,
            dataset=about.dataset,
            split=about.split,
            limit=about.limit,
            data_root=self.plan.data_root,
            settings=settings,
            cache=cache,
            inversions=inversions,
            models=models,
            out=out,
            threads=about.threads,
            probe=measure.probe,
            diagnostics=measure.trainings if kind == "training" else (),
            diagnostic_settings=_of(measure.settings, measure.trainings),
            identity=self.results.digest(kind, name),
            checkpoint_seconds=self.checkpoint_seconds,
        )

    def _diagnostics(self) -> list[DiagnosticWork]:
        """Return the diagnostics of caches that have no result."""
        measure = self.plan.document.measure
        if not measure.caches:
            return []
        return [
            self._diagnostic(task, seed)
            for task in self.plan.caches
            for seed in task.seeds
            if not _is_done(self.results.read("diagnostics", task.name, seed))
        ]

    def _diagnostic(self, task: CacheTask, seed: int) -> DiagnosticWork:
        measure, options = self.plan.document.measure, task.options or {}
        encoder = options.get("encoder")
        return DiagnosticWork(
            name=task.name,
            url=task.url,
            seed=seed,
            diagnostics=measure.caches,
            settings=_of(measure.settings, measure.caches),
            data_root=self.plan.data_root,
            limit=measure.limit,
            models=options.get("models"),
            networks={} if encoder is None else {"encoder": encoder},
            identity=self.results.digest("diagnostics", task.name),
        )

    def _each(self, executor: Executor, work: Callable[..., Record], tasks: Sequence[Any]) -> None:
        """Run tasks on an executor, and keep every result as soon as it is there."""
        kind = {"run_diagnostics": "diagnostics"}.get(work.__name__)
        for task in tasks:
            self._weighed.start((kind or task.kind, task.name))
        for number, record in executor.each(work, tasks, self._weighed.tell):
            self.results.write(record)
            self._weighed.finish(number)
            self._say(record, f"{record.name}, seed {record.seed}")
            self._report_sometimes()
        self._weighed.forget()

    def _say(self, record: Record, name: str) -> None:
        if record.status != "finished":
            self.progress.say(f"{name} {record.status}: {record.reason.splitlines()[0]}")
        elif not self.progress.is_terminal:
            shown = ", ".join(
                f"{measure} {record.value(measure):.4f}"
                for measure in self.plan.document.experiment.measures
                if record.value(measure) is not None
            )
            self.progress.say(f"{name} finished in {record.seconds:.0f} s" + (f": {shown}" if shown else ""))

    def _report_sometimes(self) -> None:
        if time.monotonic() - self._reported > REPORT_SECONDS:
            write_report(self.plan, self.results, pictures=False)
            self._reported = time.monotonic()


class _Weighed:
    """The one bar of an experiment: tasks count by their expected seconds."""

    def __init__(self, bar: Bar, seconds: Mapping[tuple[str, str], float], num_tasks: int) -> None:
        self._bar, self._seconds, self._num_tasks = bar, seconds, num_tasks
        self._done, self._num_done = 0.0, 0
        self._weights: list[float] = []
        self._shares: list[float] = []

    def start(self, key: tuple[str, str]) -> None:
        """Add a task; its number is the count of those before it."""
        self._weights.append(self._seconds.get(key, 1.0))
        self._shares.append(0.0)

    def tell(self, number: int, share: float) -> None:
        """Set the share of a task that is done."""
        self._shares[number] = max(self._shares[number], min(1.0, share))
        self._show()

    def finish(self, number: int) -> None:
        """Count a task as done."""
        self._shares[number] = 1.0
        self._num_done += 1
        self._show()

    def forget(self) -> None:
        """End the numbering of tasks that are all done."""
        self._done += sum(w * s for w, s in zip(self._weights, self._shares, strict=True))
        self._weights, self._shares = [], []

    def _show(self) -> None:
        under_way = sum(w * s for w, s in zip(self._weights, self._shares, strict=True))
        self._bar.update(self._done + under_way, f"{self._num_done} of {self._num_tasks} tasks")


def _of(settings: Mapping[str, Any], diagnostics: Sequence[str]) -> dict[str, Any]:
    """Return the settings that belong to one of the diagnostics, or to all."""
    return {
        name: value
        for name, value in settings.items()
        if "." not in name or name.partition(".")[0] in diagnostics
    }
