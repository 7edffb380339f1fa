"""`viewgen measure` as a function: diagnostics of a cache, a training, an encoder or a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.device import resolve_device
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.report import Measured, to_json
from viewgen.diagnostics.scores import view_scores
from viewgen.diagnostics.subjects import SubjectArguments, subject_kind, takes_expert
from viewgen.errors import CorruptDataError, DataError, OutOfMemoryError, UsageError, nearest_name
from viewgen.files import write_atomically
from viewgen.progress import Progress
from viewgen.redaction import public_url
from viewgen.registry import Choice, Entry
from viewgen.store import CacheSpec, Storage, open_storage, read_spec
from viewgen.store.quality import read_scores, write_scores
from viewgen.views.compositions import composition, refuse_colorless
from viewgen_pipelines.executors import check_executor, open_executor
from viewgen_pipelines.executors.executor import Place, Tell
from viewgen_pipelines.executors.process import configure_process
from viewgen_pipelines.names import absolute_url
from viewgen_pipelines.tasks import run_tasks

__all__ = ["MeasureResult", "measure"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureResult:
    """The result of `measure`.

    Attributes:
        subject: the subject as the caller named it.
        measured: all numbers, by diagnostic and seed.
        left_out: diagnostic → reason why the subject does not allow it.
        notes: quantities that could not be measured, with the reason.
        files: paths of the written plots and documents.
    """

    subject: str
    measured: tuple[Measured, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object; without files it has no key for them."""
        found = {
            "subject": self.subject,
            "measures": to_json(self.measured),
            "left_out": self.left_out,
            "notes": list(self.notes),
        }
        return found | ({"files": list(self.files)} if self.files else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureTask:
    """One diagnostic with one seed; small, and pickled into Ray's tasks.

    Attributes:
        arguments: arguments that describe the subject.
        choice: diagnostic with its settings; the entry itself, so that one registered in the driver's process
            reaches the workers.
        seed: root of all random numbers.
        batch_size: images embedded at once.
        by_name: True if the user named the diagnostic; of others, one that cannot measure is left out.
        keep_files: True if plots are drawn.
    """

    arguments: SubjectArguments
    choice: Choice[Entry] = field(repr=False)
    seed: int
    batch_size: int
    by_name: bool = True
    keep_files: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What one diagnostic found with one seed.

    Attributes:
        measures: the numbers.
        notes: notes about them.
        files: name → contents of plots and documents.
        columns: name → a number for each image of a cache, `(N,)`.
    """

    measures: list[Measure]
    notes: list[str]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    columns: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)


# the subject that this process measured last: its features serve every diagnostic
_opened: list[tuple[Any, Subject]] = []


def _open(arguments: SubjectArguments, device: str, batch_size: int) -> Subject:
    key = (arguments, device, batch_size)
    if not _opened or _opened[0][0] != key:
        _opened[:] = [(key, arguments.open(device=device, batch_size=batch_size))]
    return _opened[0][1]


def run_measure(task: MeasureTask, place: Place, tell: Tell) -> TaskResult:
    """Return the measures of one diagnostic, notes about them, and its files."""
    configure_process(place.num_threads)
    subject = _open(task.arguments, place.device, task.batch_size)
    subject.notes.clear()
    subject.files = {} if task.keep_files else None
    subject.columns = {}
    # of several stages nobody knows how long each is: the bar shows the one under way
    subject.tell = lambda _what, done, total: tell(done / max(total, 1))
    try:
        measures = task.choice.build().measure(subject, task.seed)
    except (DataError, OutOfMemoryError, UsageError) as error:
        if task.by_name:
            raise
        # of diagnostics that nobody named, one that refuses these data costs the others nothing
        notes = [*subject.notes, f"{task.choice.name} is left out: {error}"]
        return TaskResult(measures=[], notes=notes)
    return TaskResult(
        measures=measures, notes=list(subject.notes), files=subject.files or {}, columns=subject.columns
    )


def measure(
    subject: str,
    *,
    diagnostics: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    dataset: str | None = None,
    split: str = "train",
    data_root: str | None = None,
    models: str | None = None,
    networks: Mapping[str, str] | None = None,
    weights: Literal["last", "best"] = "last",
    inversions: str | None = None,
    augment: str | None = None,
    limit: int | None = None,
    write_columns: bool = False,
    plots: str | Path | None = None,
    batch_size: int = 512,
    executor: Literal["ray", "local"] = "local",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> MeasureResult:
    """Measure a subject by one or more diagnostics.

    Args:
        subject: URL of a cache, folder of a training, encoder file, name of a data set, or ``.npz`` file of
            feature vectors.
        diagnostics: names of diagnostics; by default all whose needs the subject meets, except those that run
            on request.
        settings: ``"NAME"`` or ``"DIAGNOSTIC.NAME"`` → value; ``"NAME"`` applies to every diagnostic that has
            it.
        seeds: seeds with which every diagnostic is run.
        dataset: name of a data set that replaces the subject's.
        split: split that probes and neighbours learn from, if the subject is a data set or an encoder.
        data_root: folder of the data sets.
        models: folder of a `viewgen pretrain` run, or name of an import, with the networks.
        networks: kind → weights file that replaces the data set's own.
        weights: weights of a training: those after the last epoch or the best.
        inversions: URL of the inversions that a cache's views start from; by default beside it.
        augment: combination of operations of the expert views (see `viewgen.views.compositions`) in the place
            of the data set's recipe.
        limit: number of images whose views are compared, taken from the start; by default all.
        write_columns: compute scores of every view of a cache and keep them in it, and with them the columns
            of the named diagnostics, such as the main parts of `concentration` with the first seed; without
            named diagnostics, nothing else is measured.
        plots: folder for the plots of diagnostics that draw any, with the numbers behind them as JSON.
        batch_size: images embedded at once.
        executor: ``"local"``, one diagnostic after the other in this process, or ``"ray"``.
        workers: number of diagnostics at once; by default one per GPU, or one per core without GPUs.
        gpus_per_worker: GPUs per worker; by default 1 where there are GPUs, else 0.
        ray_address: address of a running Ray cluster, whose nodes must have the subject and its data.
        storage_options: options of the fsspec file system of a cache.
        quiet: write nothing to standard error.

    Raises:
        UsageError: an unknown diagnostic or setting, or the subject lacks what a diagnostic needs.
        ViewgenError: the subject, its data or networks cannot be read.
    """
    execution: dict[str, Any] = {
        "workers": workers,
        "gpus_per_worker": gpus_per_worker,
        "ray_address": ray_address,
    }
    check_executor(executor, **execution)
    if not seeds or batch_size < 1 or (limit is not None and limit < 1):
        raise UsageError("expected at least one seed, and --batch-size and --limit of at least 1")
    progress = Progress(quiet=quiet, logger=__name__)
    kind = subject_kind(subject)
    arguments = SubjectArguments(
        kind=kind,
        subject=subject if kind == "dataset" else absolute_url(subject),
        dataset=dataset,
        split=split,
        data_root=data_root,
        models=models,
        networks=dict(networks or {}),
        which=weights,
        limit=limit,
        inversions=None if inversions is None else absolute_url(inversions),
        storage_options=dict(storage_options or {}),
        augment=augment,
    )
    arguments.refuse_ignored()
    if executor == "ray" and subject.startswith("memory://"):
        raise UsageError("a memory:// cache is not shared with Ray's workers; add --executor local")
    if kind != "cache" and (write_columns or inversions is not None):
        flag = "--write-columns" if write_columns else "--inversions"
        raise UsageError(f"{flag} belongs to a cache, and {subject!r} is none")
    name = arguments.described()["name"]
    if write_columns:
        if plots is not None and not diagnostics:
            raise UsageError("--plots belongs to diagnostics, and with --write-columns none is run; name one")
        if not diagnostics:
            _check_augment(arguments, (), batch_size)
        scored = _write_columns(arguments, batch_size, progress)
        if not diagnostics:
            return scored
    entries = [DIAGNOSTICS.entry(one) for one in dict.fromkeys(diagnostics or DIAGNOSTICS.names)]
    entries = [entry for entry in entries if diagnostics or not entry.on_request]
    given = _by_entry(entries, settings or {})
    chosen, left_out = _possible(entries, arguments, batch_size, strict=bool(diagnostics))
    choices = [DIAGNOSTICS.resolve(entry.name, name, given[entry.name]) for entry in chosen]
    _check_augment(arguments, choices, batch_size)
    for entry, reason in left_out.items():
        progress.say(f"{entry} is left out: {reason.splitlines()[0]}")
    tasks = [
        MeasureTask(
            arguments=arguments,
            choice=choice,
            seed=seed,
            batch_size=batch_size,
            by_name=bool(diagnostics),
            keep_files=plots is not None,
        )
        for choice in choices
        for seed in seeds
    ]
    results: dict[int, TaskResult] = {}
    if tasks:
        names = [f"{task.choice.name}, seed {task.seed}" for task in tasks]
        with open_executor(executor, max_workers=len(tasks), say=progress.say, **execution) as opened:
            results.update(
                run_tasks(
                    opened,
                    run_measure,
                    tasks,
                    title="measuring",
                    names=names,
                    noun="diagnostics",
                    progress=progress,
                )
            )
    measured = tuple(
        Measured(diagnostic=task.choice.name, seed=task.seed, measure=one)
        for number, task in enumerate(tasks)
        for one in results[number].measures
    )
    if write_columns:
        _add_columns(arguments, [results[number].columns for number in sorted(results, reverse=True)])
    notes = dict.fromkeys(note for number in sorted(results) for note in results[number].notes)
    files: list[str] = []
    if plots is not None:
        found = [(task, results[number].files) for number, task in enumerate(tasks)]
        files = _write_files(found, Path(plots).expanduser(), several_seeds=len(seeds) > 1)
    return MeasureResult(
        subject=public_url(subject),
        measured=measured,
        left_out=left_out,
        notes=tuple(notes),
        files=tuple(files),
    )


def _write_files(
    found: Sequence[tuple[MeasureTask, Mapping[str, bytes]]], folder: Path, *, several_seeds: bool
) -> list[str]:
    """Write the files of all diagnostics into a folder, and return their paths."""
    paths = []
    for task, files in found:
        prefix = f"{task.choice.name}-seed{task.seed}" if several_seeds else task.choice.name
        for name, contents in files.items():
            path = folder / f"{prefix}-{name}"
            write_atomically(path, contents)
            paths.append(str(path))
    return paths


def _check_augment(arguments: SubjectArguments, choices: Sequence[Choice[Entry]], batch_size: int) -> None:
    """Refuse a combination of expert operations that is none, or that these diagnostics would not use."""
    augment = arguments.augment
    if augment is None:
        return
    composition(augment)
    if not any(takes_expert(choice, arguments.kind) for choice in choices):
        other = "add --set views=expert" if arguments.kind == "cache" else "add -d concentration, for example"
        raise UsageError(f"--augment {augment}: none of what is measured takes expert views; {other}")
    refuse_colorless(augment, _open(arguments, "cpu", batch_size).train)


def _kept_scores(storage: Storage, spec: CacheSpec) -> dict[str, NDArray[np.float32]]:
    """Return the scores that a cache has; none if they are damaged, as they are written anew."""
    try:
        return read_scores(storage, spec)
    except CorruptDataError:
        return {}


def _add_columns(arguments: SubjectArguments, columns: Sequence[Mapping[str, NDArray[np.float32]]]) -> None:
    """Add numbers of images to the scores that a cache has, alike for all views of an image."""
    found = {name: values for one in columns for name, values in one.items()}
    if not found:
        return
    storage = open_storage(arguments.subject, arguments.storage_options)
    spec = read_spec(storage)
    scores = read_scores(storage, spec)
    repeated = {name: np.repeat(values[:, None], spec.num_views, axis=1) for name, values in found.items()}
    write_scores(storage, spec, scores | repeated)


def _write_columns(arguments: SubjectArguments, batch_size: int, progress: Progress) -> MeasureResult:
    """Keep the scores of a cache's views in it; return their means over the views."""
    subject = arguments.open(device=resolve_device("auto"), batch_size=batch_size)
    spec = subject.part("cache").spec
    with progress.bar("scores", spec.num_images, unit="images") as bar:
        subject.tell = lambda _what, done, _total: bar.update(done)
        scores = view_scores(subject)
    storage = open_storage(arguments.subject, arguments.storage_options)
    # columns of diagnostics stay: the cache is what it was
    write_scores(storage, spec, _kept_scores(storage, spec) | scores)
    measured = [
        Measured(
            diagnostic="scores",
            seed=0,
            measure=Measure(
                name=name,
                value=float(np.nanmean(values)),
                on=f"{int(np.isfinite(values).sum()):,} of {values.size:,} views",
            ),
        )
        for name, values in scores.items()
    ]
    return MeasureResult(
        subject=arguments.subject, measured=tuple(measured), left_out={}, notes=tuple(subject.notes)
    )


def _possible(
    entries: Sequence[Entry], arguments: SubjectArguments, batch_size: int, *, strict: bool
) -> tuple[list[Entry], dict[str, str]]:
    """Return the entries whose needs are met, and reasons for the others; `strict` raises them."""
    subject = _open(arguments, "cpu", batch_size)
    chosen, left_out = [], {}
    for entry in entries:
        if strict:
            for part in sorted(entry.needs):
                subject.part(part)  # raises what tells why it is not at hand
        elif missing := subject.missing(entry.needs):
            left_out[entry.name] = "; ".join(missing.values())
            continue
        chosen.append(entry)
    return chosen, left_out


def _by_entry(entries: Sequence[Entry], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of every entry by its name."""
    given: dict[str, dict[str, Any]] = {entry.name: {} for entry in entries}
    for key, value in settings.items():
        owner, _, name = key.rpartition(".")
        if owner and owner not in given:
            raise UsageError(f"--set {key}: no diagnostic {owner!r} is run{nearest_name(owner, given)}")
        having = [
            entry for entry in entries if name in entry.settings.model_fields and owner in ("", entry.name)
        ]
        if not having:
            known = {field for entry in entries for field in entry.settings.model_fields}
            raise UsageError(
                f"--set {key}: no diagnostic that is run has a setting {name!r}{nearest_name(name, known)}"
            )
        for entry in having:
            given[entry.name][name] = value
    return given
