"""The run of an experiment's plan: what has no result is done, and kept as soon as it is there."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from viewgen.errors import ViewgenError
from viewgen.progress import Progress
from viewgen.views import VIEWS
from viewgen_pipelines.executors import Executor, open_executor
from viewgen_train.experiment.checks import named_encoders
from viewgen_train.experiment.cost import INVERSIONS, measure_cost
from viewgen_train.experiment.plan import MATCH, CacheTask, ExperimentPlan, TrainTask, with_encoders
from viewgen_train.experiment.report import write_report
from viewgen_train.experiment.results import Record, ResultFolder
from viewgen_train.experiment.weighed import Weighed
from viewgen_train.experiment.work import (
    QUALITY,
    CacheWork,
    DiagnosticWork,
    TrainWork,
    run_cache,
    run_diagnostics,
    run_training_task,
)

__all__ = ["Runner", "pending_counts"]

# seconds between tables that are written while trainings run
REPORT_SECONDS = 30.0


def pending_counts(plan: ExperimentPlan, results: ResultFolder | None) -> dict[tuple[str, str], int]:
    """Return (kind, name) → number of tasks without a result."""
    counts: dict[tuple[str, str], int] = {}
    wanted = wanted_measurements(plan)
    tasks = [("encoder", one.name, 0) for one in plan.encoders]
    tasks += [("cache", one.name, 0) for one in plan.caches]
    if plan.document.measure.caches:
        tasks += [("diagnostics", one.name, seed) for one in plan.caches for seed in one.seeds]
    tasks += [("training", one.row.name, one.seed) for one in plan.trainings]
    for kind, name, seed in tasks:
        if results is None or not is_done(results.read(kind, name, seed), wanted[kind]):
            counts[kind, name] = counts.get((kind, name), 0) + 1
    return counts


def wanted_measurements(plan: ExperimentPlan) -> dict[str, frozenset[str]]:
    """Return kind of task → names of the measurements that its record must have."""
    measure = plan.document.measure
    return {
        "encoder": frozenset(),
        "cache": frozenset({QUALITY} if measure.quality else ()),
        "diagnostics": frozenset(measure.caches),
        "training": frozenset(measure.trainings),
    }


def is_done(record: Record | None, wanted: frozenset[str]) -> bool:
    """Return whether a task has its result, with all measurements that the experiment has by now."""
    if record is None or record.status == "failed":
        # what failed for want of views may succeed when they are there
        return False
    return record.status == "diverged" or wanted <= set(record.about.get("measurements", ()))


class Runner:
    """Runs a plan: encoders, caches, then diagnostics and trainings side by side.

    Args:
        plan: the experiment.
        results: its folder.
        execution: executor, workers, GPUs of each and address of a cluster.
        checkpoint_seconds: pause between the checkpoints of a training.
        progress: display of the progress.
    """

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
        self._wanted = wanted_measurements(plan)
        self._reported = time.monotonic()

    def _is_done(self, kind: str, name: str, seed: int) -> bool:
        return is_done(self.results.read(kind, name, seed), self._wanted[kind])

    def run(self) -> None:
        """Do what has no result."""
        pending = pending_counts(self.plan, self.results)
        if not pending:
            self.progress.say("nothing is missing; writing the tables")
            return
        seconds = self._seconds(pending)
        about = self.plan.document.experiment
        title = f"{self.plan.document.name} on {about.dataset}"
        with self.progress.bar(title, 100.0, unit="%") as bar:
            self._weighed = Weighed(bar, seconds, pending)
            self._encoders()
            self._caches()
            self._rest()

    def _seconds(self, pending: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], float]:
        """Return (kind, name) → expected seconds, of earlier results or measured steps."""
        known = self.results.expected()
        for kind in ("encoder", "cache", "diagnostics", "training"):
            for record in self.results.records(kind):
                if record.status == "finished" and record.seconds > 0:
                    known[kind, record.name] = record.seconds
        unknown = {key: count for key, count in pending.items() if key not in known}
        if unknown:
            with self.progress.steps() as tell:
                cost = measure_cost(self.plan, unknown, workers=1, tell=tell)
            known |= {(task.kind, task.name): task.seconds or 1.0 for task in cost.tasks}
            inversions = known.pop((INVERSIONS, ""), 0.0)
            first = next((key for key in pending if key[0] == "cache"), None)
            if first is not None:  # which makes them for all
                known[first] += inversions
            self.results.expect(known)
        return {key: known[key] for key in pending}

    @contextlib.contextmanager
    def _executor(self, num_tasks: int) -> Iterator[Executor]:
        options = {name: value for name, value in self.execution.items() if name != "executor"}
        with open_executor(
            self.execution["executor"], max_workers=num_tasks, say=self.progress.say, **options
        ) as executor:
            yield executor

    def _encoders(self) -> None:
        tasks = [
            self._train_work("encoder", one.name, 0, one.train, one.out)
            for one in self.plan.encoders
            if not self._is_done("encoder", one.name, 0)
        ]
        if tasks:
            with self._executor(len(tasks)) as executor:
                self._each(executor, run_training_task, tasks)
        lost = self._lost_encoders()
        settings = self.plan.document.measure.settings
        for name in [name for value in settings.values() for name in named_encoders(value)]:
            if name in lost:
                raise ViewgenError(f"[encoders.{name}]: its training {lost[name]}, and [measure] needs it")

    def _lost_encoders(self) -> dict[str, str]:
        """Return name → status and reason of the encoders that have no weights."""
        records = [self.results.read("encoder", one.name, 0) for one in self.plan.encoders]
        return {
            one.name: f"{one.status}: {one.reason}"
            for one in records
            if one is not None and one.status != "finished"
        }

    def _caches(self) -> None:
        lost = self._lost_encoders()
        for task in self.plan.caches:
            if self._is_done("cache", task.name, 0):
                continue
            if reason := self._why_not(task, lost):
                identity = self.results.digest("cache", task.name)
                record = Record(
                    kind="cache", name=task.name, seed=0, status="failed", reason=reason, identity=identity
                )
                self.results.write(record)
                self._weighed.leave_out(("cache", task.name))
                self._say(record, f"cache {task.name}")
                continue
            work = CacheWork(
                name=task.name,
                url=task.url,
                options=task.options,
                execution=self.execution,
                data_root=self.plan.data_root,
                quality=self.plan.document.measure.quality,
                identity=self.results.digest("cache", task.name),
            )
            self._weighed.start(("cache", task.name))
            record = run_cache(work, 0, partial(self._weighed.tell, 0))
            self.results.write(record)
            self._weighed.finish(0, record.seconds)
            self._weighed.forget()
            self._say(record, f"cache {task.name}")

    def _why_not(self, task: CacheTask, lost: Mapping[str, str]) -> str:
        """Return why a cache cannot be made: an encoder, or the cache it is matched to, is lost."""
        table = self.plan.identity["caches"][task.name]
        settings = table["settings"]
        names = [name for value in settings.values() for name in named_encoders(value)]
        if task.options is not None and "encoder" in VIEWS.entry(task.options["method"]).needs:
            names.append(table["encoder"])
        for name in names:
            if name in lost:
                return f"its encoder {name} {lost[name]}"
        strength = settings.get("strength")
        other = strength.removeprefix(MATCH) if isinstance(strength, str) else None
        if other is not None and other in self.plan.identity["caches"]:
            record = self.results.read("cache", other, 0)
            if record is not None and record.status != "finished":
                return f"its strength is that of {other}, which could not be made: {record.reason}"
        return ""

    def _rest(self) -> None:
        """Run the diagnostics of caches, and the trainings."""
        lost = {one.name: one.reason for one in self.results.records("cache") if one.status != "finished"}
        trainings = []
        for task in self.plan.trainings:
            if self._is_done("training", task.row.name, task.seed):
                continue
            if task.cache in lost:
                self._without_cache(task, lost[str(task.cache)])
                self._weighed.leave_out(("training", task.row.name))
            else:
                trainings.append(self._training(task))
        diagnostics = [one for one in self._diagnostics() if one.name not in lost]
        for one in self._diagnostics():
            if one.name in lost:
                self._weighed.leave_out(("diagnostics", one.name))
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
        return self._train_work("training", task.row.name, task.seed, task.settings, task.out, **source)

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
            readout=measure.readout or None,
            readout_limit=measure.readout_limit,
            diagnostics=measure.trainings if kind == "training" else (),
            diagnostic_settings=with_encoders(measure.settings, self.plan.folder),
            files=str(self.results.files(kind, name, seed)),
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
            if not self._is_done("diagnostics", task.name, seed)
        ]

    def _diagnostic(self, task: CacheTask, seed: int) -> DiagnosticWork:
        measure, options = self.plan.document.measure, task.options or {}
        encoder = options.get("encoder")
        return DiagnosticWork(
            name=task.name,
            url=task.url,
            seed=seed,
            diagnostics=measure.caches,
            settings=with_encoders(measure.settings, self.plan.folder),
            data_root=self.plan.data_root,
            limit=measure.limit,
            models=options.get("models"),
            networks={} if encoder is None else {"encoder": encoder},
            files=str(self.results.files("diagnostics", task.name, seed)),
            identity=self.results.digest("diagnostics", task.name),
        )

    def _each(self, executor: Executor, work: Callable[..., Record], tasks: Sequence[Any]) -> None:
        """Run tasks on an executor, and keep every result as soon as it is there."""
        kind = {"run_diagnostics": "diagnostics"}.get(work.__name__)
        for task in tasks:
            self._weighed.start((kind or task.kind, task.name))
        for number, record in executor.each(work, tasks, self._weighed.tell):
            self.results.write(record)
            self._weighed.finish(number, record.seconds)
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
