"""`viewgen experiment` as a function: plan a grid of caches and trainings, run what is missing, show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from viewgen.errors import UsageError
from viewgen.files import make_folder
from viewgen.progress import Progress
from viewgen_pipelines.executors import check_executor
from viewgen_train.experiment.cost import ExperimentCost, measure_cost
from viewgen_train.experiment.document import Document, load_document
from viewgen_train.experiment.grid import file_part
from viewgen_train.experiment.made_by import unfinished
from viewgen_train.experiment.plan import ExperimentPlan, make_plan
from viewgen_train.experiment.report import write_report
from viewgen_train.experiment.results import ResultFolder
from viewgen_train.experiment.runner import Runner, pending_counts
from viewgen_train.loop import only_run

__all__ = ["ExperimentResult", "experiment"]


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
        unfinished: caches, and diagnostics of caches, that are not finished → why.
    """

    folder: str
    table: str
    num_done: int
    num_trainings: int
    diverged: Mapping[str, str]
    words: tuple[str, ...]
    unfinished: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True if every training, cache and diagnostic of the call has a result."""
        return self.num_done == self.num_trainings and not self.unfinished

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "folder": self.folder,
            "table": self.table,
            "num_done": self.num_done,
            "num_trainings": self.num_trainings,
            "diverged": dict(self.diverged),
            "words": list(self.words),
            "unfinished": dict(self.unfinished),
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
    checkpoint_seconds: float = 300.0,
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
            Runner(plan, results, execution, checkpoint_seconds, progress).run()
        words = write_report(plan, results)
    done = {(one.name, one.seed): one for one in results.records("training")}
    mine = [done.get((task.row.name, task.seed)) for task in plan.trainings]
    return ExperimentResult(
        folder=str(folder),
        table=str(folder / "table.md"),
        num_done=sum(one is not None and one.status != "failed" for one in mine),
        num_trainings=len(mine),
        diverged={
            f"{one.name}, seed {one.seed}": one.reason for one in mine if one is not None and one.reason
        },
        words=tuple(words),
        unfinished=unfinished(plan, results),
    )


def _default_out(document: Document) -> str:
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
