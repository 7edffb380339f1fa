"""The plan of an experiment: its tasks in their order, checked before anything is written.

Encoders are trained first, then the caches are made in the order in which they need each other, then the
trainings seed by seed: after each seed every row has as many trainings as the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.diagnostics.probe import ProbeConfig
from viewgen.errors import UsageError
from viewgen.networks.files import KINDS
from viewgen.views import VIEWS
from viewgen_pipelines.names import absolute_url
from viewgen_train.experiment.checks import (
    cache_identity,
    check_cache_settings,
    check_data,
    check_encoders,
    check_references,
    named_encoders,
    resolved,
    resolved_probe,
    row_settings,
    selected_rows,
)
from viewgen_train.experiment.document import CacheTable, Document
from viewgen_train.experiment.grid import Row, file_part, rows_and_caches
from viewgen_train.records import record
from viewgen_train.resolve import effective_settings
from viewgen_train.settings import TrainSettings

__all__ = [
    "CacheTask",
    "EncoderTask",
    "ExperimentPlan",
    "TrainTask",
    "make_plan",
    "shown_settings",
    "with_encoders",
]

MATCH = "match:"
ENCODERS, CACHES, RUNS = "encoders", "caches", "runs"
WEIGHTS = "last.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTask:
    """Training of an encoder on which the distances of caches are measured."""

    name: str
    train: Mapping[str, Any]
    out: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheTask:
    """A cache and its measurements.

    Attributes:
        name: name of the cache.
        url: URL of the cache.
        options: options of `viewgen_pipelines.cache.cache`; None if the cache is there already.
        seeds: seeds of its diagnostics.
    """

    name: str
    url: str
    options: Mapping[str, Any] | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainTask:
    """One training of a row.

    Attributes:
        row: the row.
        seed: seed of the training.
        settings: given settings, with the seed.
        cache: name of its cache, or None.
        source: ``"cache"`` or ``"inversions"``, what the training takes the cache for.
        out: folder of the run.
    """

    row: Row
    seed: int
    settings: Mapping[str, Any]
    cache: str | None
    source: str
    out: str

    @property
    def name(self) -> str:
        """Row and seed."""
        return f"{self.row.name}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentPlan:
    """A checked experiment.

    Attributes:
        document: the experiment.
        dataset: training images; None in a plan that is only costed.
        folder: folder of the results.
        data_root: folder of the data sets.
        rows: all rows by name.
        selected: names of the rows that are trained now.
        encoders, caches, trainings: tasks in their order.
        settings: row → resolved settings of its trainings, with seed 0.
        probe: settings of the linear probe.
        identity: JSON values of everything that results depend on: data, caches, rows.
    """

    document: Document
    dataset: ImageDataset | None = field(repr=False)
    folder: Path
    data_root: str | None
    rows: Mapping[str, Row]
    selected: tuple[str, ...]
    encoders: tuple[EncoderTask, ...]
    caches: tuple[CacheTask, ...]
    trainings: tuple[TrainTask, ...]
    settings: Mapping[str, TrainSettings]
    probe: ProbeConfig
    identity: Mapping[str, Any]


def make_plan(
    document: Document,
    folder: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    data_root: str | None = None,
    with_data: bool = True,
) -> ExperimentPlan:
    """Check an experiment and return its tasks.

    Args:
        document: the experiment.
        folder: folder of the results.
        only: rows to train, by their name or that of their grid; none for all.
        seeds: seeds of all rows, in place of those of the experiment.
        data_root: folder of the data sets.
        with_data: load the images; without them a plan can be costed, not run.

    Raises:
        UsageError: a row, cache, encoder, setting or measure does not exist, would be ignored, or refers to
            what is not there; the message names the table.
        CacheMismatchError: a cache that is there already holds other images.
        MissingFileError: the data set or such a cache is missing.
    """
    about = document.experiment
    if not about.dataset:
        raise UsageError("[experiment] names no data set; give dataset = NAME, or --dataset NAME")
    rows, tables = rows_and_caches(document)
    check_references(document, rows, tables)
    selected = selected_rows(rows, only)
    if seeds is not None and (not seeds or len(set(seeds)) != len(seeds)):
        raise UsageError(f"--seeds {','.join(map(str, seeds))}: expected different seeds, at least one")
    settings = {name: row_settings(about.dataset, row, tables) for name, row in rows.items()}
    check_encoders(document, tables)
    for name, table in tables.items():
        check_cache_settings(about.dataset, name, table)
    probe = resolved_probe(about.dataset, document)
    dataset = load_dataset(about.dataset, about.split, data_root=data_root) if with_data else None
    if dataset is not None:
        check_data(dataset, document, tables, rows, settings, data_root)
    order = _cache_order(tables)
    used: set[str | None] = {rows[name].cache for name in selected} if only else {*tables}
    needed = _needed(used, tables)
    taken = seeds or about.seeds
    caches = tuple(_cache_task(document, name, tables, folder, taken) for name in order if name in needed)
    trained = {table.encoder for name, table in tables.items() if name in needed}
    of_caches = [value for name in needed for value in tables[name].settings.values()]
    trained |= {
        one for value in (*document.measure.settings.values(), *of_caches) for one in named_encoders(value)
    }
    encoders = tuple(
        EncoderTask(
            name=name,
            train={**document.train, **encoder.train, "seed": encoder.seed},
            out=str(folder / ENCODERS / file_part(name)),
        )
        for name, encoder in document.encoders.items()
        if name in trained
    )
    trainings = [
        _train_task(row, seed, place, settings[name], folder)
        for name in selected
        for row in (rows[name],)
        for place, seed in enumerate(seeds or row.seeds)
    ]
    trainings.sort(key=lambda one: one[0])
    return ExperimentPlan(
        document=document,
        dataset=dataset,
        folder=folder,
        data_root=data_root,
        rows=rows,
        selected=selected,
        encoders=encoders,
        caches=caches,
        trainings=tuple(task for _, task in trainings),
        settings=settings,
        probe=probe,
        identity={} if dataset is None else _identity(document, dataset, rows, tables, settings, probe),
    )


def _before(table: CacheTable, tables: Mapping[str, CacheTable]) -> str | None:
    """Return the cache from which a cache takes its strength, or None."""
    strength = table.settings.get("strength")
    if not isinstance(strength, str) or not strength.startswith(MATCH):
        return None
    name = strength.removeprefix(MATCH)
    return name if name in tables else None


def _cache_order(tables: Mapping[str, CacheTable]) -> list[str]:
    before = {name: _before(table, tables) for name, table in tables.items()}
    graph = {name: set() if other is None else {other} for name, other in before.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise UsageError(f"[caches]: {' → '.join(error.args[1])} need each other") from None


def _needed(used: set[str | None], tables: Mapping[str, CacheTable]) -> set[str]:
    """Return the used caches, and those from which they take their strength."""
    found: set[str] = set()
    ahead = [name for name in used if name is not None]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += [other for other in (_before(tables[name], tables),) if other is not None]
    return found


def with_encoders(settings: Mapping[str, Any], folder: Path, file: str = "") -> dict[str, Any]:
    """Return settings of diagnostics or caches with the places of the encoders that they name.

    Args:
        settings: name → value, ``"encoder:NAME"`` for an encoder of the experiment, or a list of such.
        folder: folder of the experiment.
        file: name of the file in an encoder's folder; by default the folder itself.
    """

    def placed(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [placed(one) for one in value]
        named = named_encoders(value)
        return str(folder / ENCODERS / file_part(named[0]) / file) if named else value

    return {name: placed(value) for name, value in settings.items()}


def _cache_url(name: str, table: CacheTable, folder: Path) -> str:
    return absolute_url(table.url or str(folder / CACHES / f"{file_part(name)}.zarr"))


def _cache_task(
    document: Document,
    name: str,
    tables: Mapping[str, CacheTable],
    folder: Path,
    seeds: Sequence[int],
) -> CacheTask:
    table, about = tables[name], document.experiment
    url = _cache_url(name, table, folder)
    options = None
    if table.url is None:
        own = with_encoders(table.settings, folder, WEIGHTS)
        if (other := _before(table, tables)) is not None:
            own["strength"] = MATCH + _cache_url(other, tables[other], folder)
        # a method without networks has no use for those that all caches share
        networks = VIEWS.entry(table.method).needs & set(KINDS)
        encoder = table.encoder
        if encoder in document.encoders:
            encoder = str(folder / ENCODERS / file_part(str(encoder)) / WEIGHTS)
        options = {
            "dataset": about.dataset,
            "method": table.method,
            "views": table.views,
            "out": url,
            "split": about.split,
            "limit": about.limit,
            "seed": table.seed,
            "models": table.models if networks else None,
            "encoder": encoder if "encoder" in networks else None,
            "quality": document.measure.quality,
            **own,
        }
    return CacheTask(name=name, url=url, options=options, seeds=tuple(seeds))


def _train_task(
    row: Row, seed: int, place: int, settings: TrainSettings, folder: Path
) -> tuple[int, TrainTask]:
    return place, TrainTask(
        row=row,
        seed=seed,
        settings={**row.train, "seed": seed},
        cache=row.cache,
        source="inversions" if "inversions" in settings.views.entry.needs else "cache",
        out=str(folder / RUNS / file_part(row.name) / f"seed-{seed}"),
    )


def _identity(
    document: Document,
    dataset: ImageDataset,
    rows: Mapping[str, Row],
    tables: Mapping[str, CacheTable],
    settings: Mapping[str, TrainSettings],
    probe: ProbeConfig,
) -> dict[str, Any]:
    about = document.experiment
    return {
        "format": 1,
        "name": document.name,
        "scale": document.scale,
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "digest": dataset.digest,
            "num_images": about.limit or len(dataset),
        },
        "threads": about.threads,
        "probe": probe.to_json(),
        "measure": {
            "settings": document.measure.settings,
            "limit": document.measure.limit,
            **({"readout": document.measure.readout} if document.measure.readout else {}),
            **({"readout_limit": limit} if (limit := document.measure.readout_limit) else {}),
        },
        "encoders": {
            name: {
                "seed": encoder.seed,
                "train": record(resolved(about.dataset, {**document.train, **encoder.train}, name)),
            }
            for name, encoder in document.encoders.items()
        },
        "caches": {
            name: table.to_json() | ({} if table.url is None else {"identity": cache_identity(table.url)})
            for name, table in tables.items()
        },
        "rows": {name: {"cache": row.cache, "train": record(settings[name])} for name, row in rows.items()},
    }


def shown_settings(settings: TrainSettings) -> dict[str, dict[str, Any]]:
    """Return the settings of a row that have an effect, without the seed, as tables."""
    tables = effective_settings(settings)
    tables["run"].pop("seed", None)
    return tables
