"""The file of an experiment: caches, trainings and their grids as TOML, with the settings of each scale.

A file may build on another (``extends``), and has tables for scales and data sets
(``[scales.small.digits.train]``) that are laid over its other tables. `load_document` returns what is left
when a scale and a data set are chosen.
"""

import copy
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from viewgen.config_file import toml_text
from viewgen.errors import MissingFileError, UsageError, nearest_name
from viewgen.settings import Settings, setting

__all__ = [
    "CacheDefaults",
    "CacheTable",
    "Document",
    "EncoderTable",
    "ExperimentTable",
    "MeasureTable",
    "Question",
    "RowTable",
    "Scatter",
    "Sweep",
    "load_document",
    "presets",
]

PRESETS = "presets"
# files of shared tables, no experiments
SHARED = ("scales", "shortcut-scales", "generalization-scales")


class ExperimentTable(Settings):
    """Data and seeds of an experiment, and what its table shows."""

    title = "[experiment]"

    description: str = setting("", "what the experiment is about, for the head of its table")
    source: str = setting("", "publication whose numbers stand beside ours, with its address")
    dataset: str = setting("", "data set; empty where only the scales name one")
    split: str = setting("train", "split of the training images")
    limit: int | None = setting(None, "number of leading images; none for all", ge=2)
    seeds: tuple[int, ...] = setting((0, 1, 2, 3, 4), "seeds of the trainings", min_length=1)
    baseline: str = setting("", "row that the others are compared with; empty for no comparison")
    measures: tuple[str, ...] = setting(("top1", "knn5_top1"), "measures of the table, in its order")
    threads: int | None = setting(
        None, "torch threads of a training, for equal numbers on every executor; none for all at hand", ge=1
    )


class RowTable(Settings):
    """One row: a training, or a grid of trainings."""

    title = "[rows]"

    label: str = setting("", "name in tables and plots; by default the name of the row")
    cache: str | None = setting(None, "cache of its generated views, one of [caches]")
    train: dict[str, Any] = setting({}, "settings of the training, over those of [train]")
    grid: dict[str, tuple[Any, ...]] = setting(
        {}, "axis → values: train.NAME or cache.NAME, or several names joined by + whose values are lists"
    )
    seeds: tuple[int, ...] | None = setting(None, "seeds, in place of the experiment's", min_length=1)
    published: dict[str, float] = setting(
        {}, "data set → published accuracy in percent, by linear probe; of a grid DATASET[NAME=VALUE]"
    )


class CacheTable(Settings):
    """One cache of views; settings of its method stand beside these."""

    title = "[caches]"

    method: str = setting("wsearch", "view method")
    url: str | None = setting(None, "cache that is there already, in place of one that is made")
    views: int | None = setting(None, "views of an image", ge=1)
    seed: int = setting(0, "root of its random numbers")
    encoder: str | None = setting(None, "one of [encoders], or a weights file; none: the data set's own")
    models: str | None = setting(None, "folder of networks, or name of an import; none: the data set's own")
    settings: dict[str, Any] = setting({}, "settings of the method")


class CacheDefaults(Settings):
    """Options of every cache that names none of its own."""

    title = "[cache]"

    views: int | None = setting(None, "views of an image", ge=1)
    seed: int = setting(0, "root of the random numbers")
    models: str | None = setting(None, "folder of networks, or name of an import; none: the data set's own")
    encoder: str | None = setting(None, "one of [encoders], or a weights file; none: the data set's own")


class EncoderTable(Settings):
    """An encoder that is trained first, for the distances of a cache."""

    title = "[encoders]"

    train: dict[str, Any] = setting({}, "settings of its training, over those of [train]")
    seed: int = setting(1000, "seed of its training")


class MeasureTable(Settings):
    """Measurements besides the probe and nearest neighbours of every training."""

    title = "[measure]"

    probe: dict[str, Any] = setting({}, "settings of the linear probe, over the data set's recipe")
    quality: bool = setting(True, "whether the views of every cache are measured (`viewgen cache --quality`)")
    caches: tuple[str, ...] = setting(
        (), "diagnostics of every cache, with each seed; DIAGNOSTIC:LABEL measures again, with other settings"
    )
    trainings: tuple[str, ...] = setting((), "diagnostics of every training, DIAGNOSTIC or DIAGNOSTIC:LABEL")
    settings: dict[str, Any] = setting(
        {}, "settings of the diagnostics: DIAGNOSTIC.NAME, or DIAGNOSTIC:LABEL.NAME"
    )
    limit: int | None = setting(None, "images whose views the diagnostics compare", ge=2)
    readout: str = setting("", "data set of the probe and neighbours, in place of the experiment's own")
    readout_limit: int | None = setting(
        None, "leading training images that the probe and neighbours learn from; none for all", ge=2
    )


class Question(Settings):
    """A comparison of two rows, answered from the paired differences of their trainings."""

    title = "[[questions]]"

    ask: str = setting("", "the question", min_length=1)
    row: str = setting("", "the row", min_length=1)
    against: str = setting("", "the row that it is compared with", min_length=1)
    measure: str = setting("", "measure that is compared; by default the first of the table")


class Scatter(Settings):
    """A plot of rows or trainings: one measure over another, with their correlation."""

    title = "[[scatter]]"

    x: str = setting("", "measure of a row's cache, or of its trainings", min_length=1)
    y: str = setting("", "measure of the trainings; by default the first of the table")
    correlation: Literal["pearson", "spearman"] = setting(
        "pearson", "correlation of the values, or of their ranks"
    )
    over: Literal["rows", "trainings"] = setting("rows", "points: the means of the rows, or every training")
    rows: tuple[str, ...] = setting((), "rows or grids whose points are shown; by default all")


class Sweep(Settings):
    """A sweep of one grid: a measure over what its views share, with a quadratic through the trainings."""

    title = "[[sweeps]]"

    row: str = setting("", "name of the grid, one of [rows]", min_length=1)
    beside: tuple[str, ...] = setting((), "other grids on the same axes, and of the same quadratic")
    x: str = setting("i_nce", "measure of the trainings, on the horizontal axis", min_length=1)
    y: str = setting(
        "",
        "measure of the trainings, whose highest mean is the sweet spot; by default the first of the table",
    )


class Document(Settings):
    """All tables of an experiment, for one scale and data set."""

    title = "the experiment"

    name: str = setting("", "name", min_length=1)
    source: str = setting("", "name of the preset, or the file as it was given")
    scale: str = setting("", "scale")
    text: str = setting("", "the tables of this scale and data set, as a file without scales")
    experiment: ExperimentTable = setting(ExperimentTable(), "data and seeds")
    train: dict[str, Any] = setting({}, "settings of every training")
    cache: CacheDefaults = setting(CacheDefaults(), "options of every cache")
    measure: MeasureTable = setting(MeasureTable(), "measurements")
    encoders: dict[str, EncoderTable] = setting({}, "encoders that are trained first")
    caches: dict[str, CacheTable] = setting({}, "caches of views")
    rows: dict[str, RowTable] = setting({}, "rows")
    questions: tuple[Question, ...] = setting((), "comparisons that are answered in words")
    scatter: tuple[Scatter, ...] = setting((), "plots of one measure over another")
    sweeps: tuple[Sweep, ...] = setting((), "plots of accuracy over what views share")


TABLES: dict[str, type[Settings]] = {
    "experiment": ExperimentTable,
    "measure": MeasureTable,
    "cache": CacheDefaults,
}
NAMED: dict[str, type[Settings]] = {"encoders": EncoderTable, "caches": CacheTable, "rows": RowTable}
LISTS: dict[str, type[Settings]] = {"questions": Question, "scatter": Scatter, "sweeps": Sweep}
# what of a list is the table's first measure unless it is given
FIRST_MEASURE = {"questions": "measure", "scatter": "y", "sweeps": "y"}


def presets() -> dict[str, str]:
    """Return name → description of the experiments that ship with viewgen."""
    found = {}
    for file in sorted(resources.files(__package__).joinpath(PRESETS).iterdir(), key=lambda one: one.name):
        name = file.name.removesuffix(".toml")
        if file.name.endswith(".toml") and name not in SHARED:
            table = _parsed(file.read_text("utf-8"), file.name)
            found[name] = str(table.get("experiment", {}).get("description", ""))
    return found


def load_document(source: str, *, scale: str | None = None, dataset: str | None = None) -> Document:
    """Return the experiment of a preset or a file.

    Args:
        source: name of a preset, or path of a TOML file.
        scale: scale; by default ``"small"`` where the file has scales.
        dataset: data set; by default the scale's first.

    Raises:
        MissingFileError: there is neither such a preset nor such a file.
        UsageError: the file cannot be read, has unknown tables or settings, or no such scale or data set.
    """
    name, layers = _read(source)
    scales: dict[str, dict[str, Any]] = {}
    for layer in layers:
        scales = _over(scales, layer.get("scales", {}))
    own = next((d for one in reversed(layers) if (d := one.get("experiment", {}).get("dataset"))), None)
    scale, dataset = _chosen(scales, scale, dataset, own)
    tables: dict[str, Any] = {}
    for layer in layers:
        # what a file says for a scale comes before what it says for all, and that before what it extends
        tables = _over(tables, {name: table for name, table in layer.items() if name != "scales"})
        of_scale = layer.get("scales", {}).get(scale, {})
        tables = _over(tables, of_scale.get(dataset, of_scale.get(_base(dataset), {})))
    if dataset is not None:
        tables = _over(tables, {"experiment": {"dataset": dataset}})
    about = {"name": name, "source": source, "scale": scale, "text": toml_text(tables)}
    return _document(about, tables)


def _read(source: str, above: tuple[str, ...] = ()) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of an experiment, and the tables of its file after those that it extends."""
    if source in above:
        raise UsageError(f"{' extends '.join((*above, source))}: a file cannot extend itself")
    path = Path(source).expanduser()
    shipped = resources.files(__package__).joinpath(PRESETS, f"{source}.toml")
    if "/" not in source and shipped.is_file():
        text, name = shipped.read_text("utf-8"), source
    elif source.endswith(".toml") or path.is_file():
        try:
            text, name = path.read_text("utf-8"), path.stem
        except FileNotFoundError as error:
            raise MissingFileError(f"{source}: there is no such file") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source} cannot be read: {error}") from error
    else:
        known = presets()
        raise UsageError(
            f"no experiment {source!r}{nearest_name(source, known)} (shipped: {', '.join(known)}); expected "
            "one of these, or a TOML file"
        )
    tables = _parsed(text, source)
    before = tables.pop("extends", None)
    _check_scales(tables.get("scales", {}), source)
    if before is None:
        return name, [tables]
    if not isinstance(before, str):
        raise UsageError(f"{source}: extends is {before!r}; expected the name of a preset, or a file")
    if before.endswith(".toml"):
        before = str(path.parent / before)
    return name, [*_read(before, (*above, source))[1], tables]


def _check_scales(scales: Any, source: str) -> None:
    _check_table(scales, f"{source}: [scales]")
    for scale, datasets in scales.items():
        _check_table(datasets, f"{source}: [scales.{scale}]")
        for dataset, tables in datasets.items():
            _check_table(tables, f"{source}: [scales.{scale}.{dataset}]")


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} cannot be read: {error}") from error


def _chosen(
    scales: Mapping[str, Mapping[str, Any]], scale: str | None, dataset: str | None, own: str | None
) -> tuple[str, str | None]:
    """Return the name of the scale and the data set."""
    if not scales:
        if scale is not None:
            raise UsageError(f"--scale {scale}: the file has no [scales]; leave it out")
        return "", dataset
    scale = scale or ("small" if "small" in scales else next(iter(scales)))
    if scale not in scales:
        raise UsageError(f"--scale {scale}{nearest_name(scale, scales)}: expected one of {', '.join(scales)}")
    found = scales[scale]
    dataset = dataset or own or next(iter(found))
    if dataset not in found and _base(dataset) not in found:
        raise UsageError(
            f"{dataset} has no settings at scale {scale!r}{nearest_name(dataset, found)}; it has them for "
            f"{', '.join(found)} (add a table [scales.{scale}.{dataset}] to a file of your own)"
        )
    return scale, dataset


def _base(dataset: str | None) -> str:
    """Return the name of a data set without its path and settings: ``photos`` of ``photos:PATH?size=256``."""
    return "" if dataset is None else dataset.partition(":")[0].partition("?")[0]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables with others laid over them, name by name; a grid replaces a grid."""
    found = copy.deepcopy(dict(below))
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping) and name != "grid"
        found[name] = _over(found[name], value) if both else copy.deepcopy(value)
    return found


def _document(about: Mapping[str, str], tables: Mapping[str, Any]) -> Document:
    values: dict[str, Any] = dict(tables)
    for table, kind in TABLES.items():
        if table in values:
            values[table] = _built(kind, values[table], f"[{table}]")
    for table, kind in NAMED.items():
        given = values.get(table, {})
        _check_table(given, f"[{table}]")
        values[table] = {one: _built(kind, given[one], f"[{table}.{one}]") for one in given}
    measures = values.get("experiment", ExperimentTable()).measures
    for table, kind in LISTS.items():
        given = values.get(table, [])
        if not isinstance(given, list):
            raise UsageError(f"[[{table}]] is {given!r}; expected a list of tables")
        first = {FIRST_MEASURE[table]: next(iter(measures), "top1")}
        values[table] = tuple(
            _built(kind, {**first, **one} if isinstance(one, Mapping) else one, f"[[{table}]] {number}")
            for number, one in enumerate(given, 1)
        )
    _check_table(values.get("train", {}), "[train]")
    return Document(**{**values, **about})


def _check_table(given: Any, place: str) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(f"{place} is {given!r}; expected a table")


def _built(kind: type[Settings], given: Any, place: str) -> Settings:
    """Return a table's settings; those of a cache's method are gathered under ``settings``."""
    _check_table(given, place)
    values = dict(given)
    if kind is CacheTable:
        own = {name: values.pop(name) for name in list(values) if name not in CacheTable.model_fields}
        values["settings"] = {**values.get("settings", {}), **own}
    if kind is RowTable and isinstance(values.get("grid"), Mapping):
        # of JSON and TOML, whose sequences are lists
        values["grid"] = {
            axis: tuple(choices) if isinstance(choices, list) else choices
            for axis, choices in values["grid"].items()
        }
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{place}: {str(error).removeprefix(f'{kind.title}: ')}") from None
