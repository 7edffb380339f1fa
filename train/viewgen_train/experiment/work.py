"""Work of an experiment's tasks: a training with its measurements, a cache with its measurements.

A training that diverges, or a cache from which no training can start, is a result with its reason. Any other
error ends the experiment.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from viewgen.device import resolve_device
from viewgen.diagnostics.measure import Measure
from viewgen.diagnostics.subjects import SubjectArguments
from viewgen.errors import DataError, IncompleteError, UsageError
from viewgen.progress import ToldProgress
from viewgen.store import CacheReader
from viewgen_pipelines.cache import cache as make_cache
from viewgen_pipelines.executors.executor import Place, Tell
from viewgen_pipelines.executors.process import configure_process
from viewgen_pipelines.quality import view_quality
from viewgen_pipelines.versions import versions
from viewgen_train.curves import read_series
from viewgen_train.evaluate import evaluate
from viewgen_train.experiment.diagnostics import diagnose
from viewgen_train.experiment.results import Record
from viewgen_train.loop import TrainingDivergedError
from viewgen_train.run import read_config
from viewgen_train.training import train

__all__ = [
    "QUALITY",
    "CacheWork",
    "DiagnosticWork",
    "TrainWork",
    "run_cache",
    "run_diagnostics",
    "run_training_task",
]

# measurement of a cache that is none of the diagnostics by name
QUALITY = "quality"
# curves of a training that a record keeps, with those of each attribute
CURVES = ("knn5_top1", "probe_top1", "knn5_heldout", "probe_heldout", "knn5_r2_top1", "loss")
# of the loss, a point in so many epochs is enough
TRAINING_SHARE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainWork:
    """A training as a worker gets it.

    Attributes:
        kind: ``"training"``, or ``"encoder"``, which is not measured.
        name: name of the row or encoder.
        seed: its seed.
        dataset, split, limit, data_root: images.
        settings: given settings.
        cache: URL of its cache of views, or None.
        inversions: URL of its cache of inversions, or None.
        models: folder of the generator, or None.
        out: folder of the run.
        threads: torch threads; None for those of the worker.
        probe: settings of the linear probe.
        readout: data set of the probe and neighbours, or None for the training's own.
        readout_limit: leading training images that these learn from, or None for all.
        diagnostics: names of further diagnostics.
        diagnostic_settings: settings of these, by DIAGNOSTIC.NAME.
        files: folder of their plots.
        identity: digest of what it depends on.
        checkpoint_seconds: pause between checkpoints.
    """

    kind: str
    name: str
    seed: int
    dataset: str
    split: str
    limit: int | None
    data_root: str | None
    settings: Mapping[str, Any]
    cache: str | None
    inversions: str | None
    models: str | None
    out: str
    threads: int | None
    probe: Mapping[str, Any]
    readout: str | None
    readout_limit: int | None
    diagnostics: tuple[str, ...]
    diagnostic_settings: Mapping[str, Any]
    files: str
    identity: str
    checkpoint_seconds: float


def run_training_task(task: TrainWork, place: Place, tell: Tell) -> Record:
    """Train, measure, and return the record."""
    num_threads = task.threads or place.num_threads
    configure_process(num_threads)
    started = time.perf_counter()
    new = partial(
        Record,
        kind=task.kind,
        name=task.name,
        seed=task.seed,
        identity=task.identity,
    )
    about: dict[str, Any] = {
        "device": place.device,
        "threads": num_threads,
        "versions": versions(),
        "measurements": list(task.diagnostics),
    }
    try:
        result = train(
            task.dataset,
            settings=task.settings,
            cache=task.cache,
            inversions=task.inversions,
            models=task.models,
            out=task.out,
            split=task.split,
            limit=task.limit,
            data_root=task.data_root,
            device=place.device,
            by_number=False,  # what is trained is what the file says
            checkpoint_seconds=task.checkpoint_seconds,
            evaluate=False,
            progress=ToldProgress(lambda _what, share: tell(TRAINING_SHARE * share)),
        )
        measures = _measured(task, place)
    except TrainingDivergedError as error:
        return new(
            status="diverged",
            reason=str(error),
            seconds=time.perf_counter() - started,
            about={**about, **_config(Path(task.out))},
            curves=_curves(Path(task.out)),
        )
    except (DataError, IncompleteError) as error:
        return new(status="failed", reason=str(error), seconds=time.perf_counter() - started, about=about)
    tell(1.0)
    speed = result.images_per_second
    about |= {"images_per_second": None if speed != speed else round(speed, 1)}
    return new(
        measures=tuple(measures),
        seconds=time.perf_counter() - started,
        about={**about, **_config(Path(task.out))},
        curves=_curves(Path(task.out)),
    )


def _config(folder: Path) -> dict[str, Any]:
    """Return resolved settings and digests of a run."""
    document = read_config(folder)
    return {name: document[name] for name in ("dataset", "cache", "num_steps", "config")}


def _measured(task: TrainWork, place: Place) -> list[Measure]:
    if task.kind == "encoder":
        return []
    found = evaluate(
        task.out,
        settings=task.probe,
        dataset=task.readout,
        limit=task.readout_limit,
        data_root=task.data_root,
        device=place.device,
    )
    test = f"{found['dataset']['test']:,} test images"
    measures = [
        Measure(name=name, value=found[name], on=test) for name in ("top1", "knn5_top1") if name in found
    ]
    if "top1_sd" in found:
        measures.append(Measure(name="top1_sd_of_probe_seeds", value=found["top1_sd"], on=test))
    for target, values in found.get("reals", {}).items():
        measures += [Measure(name=one, value=values[one], on=test, group=target) for one in ("r2", "rmse")]
    if "distance" in found:
        measures.append(Measure(name="distance", value=found["distance"], on=test))
    for attribute, values in found.get("attributes", {}).items():
        measures += [
            Measure(name=one, value=values[one], on=test, group=attribute) for one in ("top1", "knn5_top1")
        ]
    if "i_nce" in found:
        i_nce = found["i_nce"]
        on = f"{i_nce['images']:,} test images, {i_nce['candidates']:,} candidates"
        measures += [
            Measure(name="i_nce", value=i_nce["nats"], low=i_nce["low"], high=i_nce["high"], on=on),
            Measure(name="i_nce_ceiling", value=i_nce["ceiling"], on=on),
            Measure(name="i_nce_saturated", value=float(i_nce["saturated"]), on=on),
        ]
    if "i_nce_training" in found:
        value, ceiling = found["i_nce_training"], found["i_nce_training_ceiling"]
        numbers = {"": value, "_ceiling": ceiling, "_saturated": float(value > ceiling - 1)}
        measures += [
            Measure(name=f"i_nce_training{name}", value=number, on="the last steps")
            for name, number in numbers.items()
        ]
    if found["loss"] is not None:
        measures.append(Measure(name="loss", value=found["loss"], on="the last steps"))
    if task.diagnostics:
        measures += diagnose(
            task.out,
            task.diagnostics,
            task.diagnostic_settings,
            task.seed,
            files=Path(task.files),
            data_root=task.data_root,
        )
    return measures


def _curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return measure → (epoch, value) over a training, the loss thinned out to 100 points."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return {}
    series = read_series(path)
    document = read_config(folder)
    per_epoch = max(1, document["dataset"]["num_images"] // _batch_size(document["config"]))
    found = {}
    kept = [name for curve in CURVES for name in series if name.partition("[")[0] == curve]
    for name in kept:
        steps, values = series[name]
        every = max(1, len(steps) // 100) if name == "loss" else 1
        found[name] = [
            (round(float(step) / per_epoch, 4), float(value))
            for step, value in zip(steps[::every], values[::every], strict=True)
        ]
    return found


def _batch_size(config: Mapping[str, Any]) -> int:
    flat = config if "batch_size" in config else config["optimiser"]
    return int(flat["batch_size"])


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheWork:
    """A cache as it is made, or measured.

    Attributes:
        name: name of the cache.
        url: its URL.
        options: options of `viewgen_pipelines.cache.cache`; None for a cache that is there already.
        execution: executor and workers that make it.
        data_root: folder of the data sets.
        quality: True if its views are measured.
        identity: digest of what it depends on.
    """

    name: str
    url: str
    options: Mapping[str, Any] | None
    execution: Mapping[str, Any]
    data_root: str | None
    quality: bool
    identity: str


def run_cache(task: CacheWork, seed: int, tell: Callable[[float], object]) -> Record:
    """Make a cache, or look at one that is there, and return its record.

    Args:
        task: the cache.
        seed: seed under which the record is kept.
        tell: callback with the share that is done.
    """
    started = time.perf_counter()
    new = partial(Record, kind="cache", name=task.name, seed=seed, identity=task.identity)
    measures: list[Measure] = []
    about: dict[str, Any] = {
        "url": task.url,
        "versions": versions(),
        "measurements": [QUALITY] if task.quality else [],
    }
    if task.options is None and task.quality:
        arguments = SubjectArguments(kind="cache", subject=task.url, data_root=task.data_root)
        found = view_quality(arguments.open(device=resolve_device()))
        measures = [one.measure for one in found.measured]
        about |= {"verdict": list(found.verdict), "notes": list(found.notes)}
    if task.options is not None:
        target = task.options["method"]

        def share(what: str, done: float) -> None:
            if what == target:  # the inversions before it take less
                tell(done)

        try:
            result = make_cache(
                **task.options,
                **task.execution,
                data_root=task.data_root,
                progress=ToldProgress(share),
            )
        except (UsageError, DataError, IncompleteError) as error:
            return new(status="failed", reason=str(error), about=about)
        if not result.complete:
            lost = "; ".join(str(one["reason"]) for one in result.quarantined[:3])
            about["quarantined"] = len(result.quarantined)
            about["notes"] = [lost]
            if any("rows" in one for one in result.quarantined):  # whole shards: trainings need all of them
                return new(status="failed", reason=lost, about=about)
        measures = [_of_quality(one) for one in result.quality or []]
        measures.append(
            Measure(name="converged_share", value=result.converged_share, on=f"{result.num_images:,} images")
        )
        if result.mean_pairwise is not None:
            measures.append(Measure(name="mean_pairwise", value=result.mean_pairwise, on="all views"))
        about |= {
            "verdict": list(result.verdict),
            "views_per_second": result.views_per_second,
        }
    reader = CacheReader(task.url)
    about |= {
        "identity": reader.spec.identity,
        "method": reader.spec.method,
        "config": reader.spec.config,
        "models": reader.spec.models,
        "num_views": reader.spec.num_views,
    }
    return new(measures=tuple(measures), seconds=time.perf_counter() - started, about=about)


def _of_quality(row: Mapping[str, Any]) -> Measure:
    values = {name: row[name] for name in ("name", "value", "low", "high", "on", "group")}
    return Measure(**{**values, "value": float("nan") if values["value"] is None else values["value"]})


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosticWork:
    """Diagnostics of a cache with one seed, as a worker gets them."""

    name: str
    url: str
    seed: int
    diagnostics: tuple[str, ...]
    settings: Mapping[str, Any]
    data_root: str | None
    limit: int | None
    models: str | None
    networks: Mapping[str, str]
    files: str
    identity: str


def run_diagnostics(task: DiagnosticWork, place: Place, tell: Tell) -> Record:
    """Measure a cache and return the record."""
    configure_process(place.num_threads)
    started = time.perf_counter()
    new = partial(Record, kind="diagnostics", name=task.name, seed=task.seed, identity=task.identity)
    try:
        measures = diagnose(
            task.url,
            task.diagnostics,
            task.settings,
            task.seed,
            files=Path(task.files),
            data_root=task.data_root,
            limit=task.limit,
            models=task.models,
            networks=task.networks,
        )
    except DataError as error:
        return new(status="failed", reason=str(error), seconds=time.perf_counter() - started)
    tell(1.0)
    about = {"versions": versions(), "device": place.device, "measurements": list(task.diagnostics)}
    return new(measures=tuple(measures), seconds=time.perf_counter() - started, about=about)
