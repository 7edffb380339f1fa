"""Rows of an experiment: grids of settings written out, one row and one cache for every combination."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from viewgen.errors import UsageError, nearest_name
from viewgen_train.experiment.document import CacheTable, Document, RowTable

__all__ = ["SYMBOLS", "Row", "axis_text", "file_part", "rows_and_caches"]

# how a setting is written in tables and plots
SYMBOLS = {
    "epsilon_boundary": "ε₁",
    "epsilon_uniformity": "ε₂",
    "uniformity_weight": "λ",
    "sigma": "σ",
    "views.sigma": "σ",
    "views.distance": "d",
    "views.space": "space",
    "views.share": "shares",
    "expert.crop_scale": "area",
    "expert.brightness": "brightness",
    "alpha": "α",
    "temperature": "τ",
    "views": "V",
    "views_per_step": "m",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A training of an experiment, with every seed.

    Attributes:
        name: name of the row, with its place in the grid.
        label: name in tables and plots.
        group: name of the row in the file.
        axes: setting → value at this place of the grid.
        train: settings of the training that differ from the data set's recipe.
        cache: name of its cache, or None.
        seeds: seeds of the trainings.
        published: data set → published accuracy in percent.
    """

    name: str
    label: str
    group: str
    axes: Mapping[str, Any]
    train: Mapping[str, Any]
    cache: str | None
    seeds: tuple[int, ...]
    published: Mapping[str, float] = field(default_factory=dict)


def rows_and_caches(document: Document) -> tuple[dict[str, Row], dict[str, CacheTable]]:
    """Return all rows and all caches by name, grids written out.

    Raises:
        UsageError: an axis is empty or unknown, a cache is not in the file, or two rows are one.
    """
    rows: dict[str, Row] = {}
    caches = {name: _with_defaults(table, document) for name, table in document.caches.items()}
    for group, table in document.rows.items():
        place = f"[rows.{group}]"
        if table.cache is not None and table.cache not in document.caches:
            raise UsageError(
                f"{place}: cache is {table.cache!r}{nearest_name(table.cache, document.caches)}; expected "
                f"one of [caches]: {', '.join(document.caches) or 'there is none'}"
            )
        for axes in _places(table, place):
            row, cache = _row(document, group, table, axes)
            if row.name in rows:
                raise UsageError(f"{place}: the grid has {row.name} twice; give each value once")
            rows[row.name] = row
            if cache is not None:
                caches[cache[0]] = cache[1]
    swept = {table.cache for table in document.rows.values() if _axes_of(table, "cache")}
    for what, names in (("rows", rows), ("caches", caches)):
        _check_files(what, names)
    used = {row.cache for row in rows.values()}
    for name in swept - used:
        # of a cache that is only swept, the one without a value on its axes is nobody's
        if name is not None and not _named(name, caches):
            del caches[name]
    return rows, caches


def _check_files(what: str, names: Iterable[str]) -> None:
    """Refuse names whose results would lie in one folder."""
    folders: dict[str, str] = {}
    for name in names:
        other = folders.setdefault(file_part(name), name)
        if other != name:
            raise UsageError(f"the {what} {other!r} and {name!r} would share their files; rename one")


def _named(name: str, caches: Mapping[str, CacheTable]) -> bool:
    """Return whether another cache takes its strength from the named one."""
    return any(table.settings.get("strength") == f"match:{name}" for table in caches.values())


def _with_defaults(table: CacheTable, document: Document) -> CacheTable:
    given = {name: getattr(table, name) for name in table.model_fields_set}
    if table.url is not None:  # it has been made
        return CacheTable(**given)
    defaults = {name: getattr(document.cache, name) for name in document.cache.model_fields_set}
    return CacheTable(**{**defaults, **given})


def _axes_of(table: RowTable, owner: str) -> list[str]:
    names = [name for axis in table.grid for name in axis.split("+")]
    return [name for name in names if name.startswith(f"{owner}.")]


def _places(table: RowTable, place: str) -> Iterator[dict[str, Any]]:
    """Yield axis → value for every place of a row's grid; one without axes for a row without a grid."""
    choices = []
    for axis, values in table.grid.items():
        names = axis.split("+")
        for name in names:
            owner, _, setting = name.partition(".")
            if owner not in ("train", "cache") or not setting:
                raise UsageError(f"{place}: the axis {name!r} is neither train.NAME nor cache.NAME")
            if owner == "cache" and table.cache is None:
                raise UsageError(f"{place}: the axis {name!r} needs a cache; name one of [caches]")
        if not values:
            raise UsageError(f"{place}: the axis {axis!r} is empty; give it values, or leave it out")
        joint = []
        for value in values:
            parts = value if len(names) > 1 else [value]
            if not isinstance(parts, list | tuple) or len(parts) != len(names):
                raise UsageError(
                    f"{place}: the axis {axis!r} has the value {value!r}; expected a list of {len(names)}"
                )
            joint.append(dict(zip(names, parts, strict=True)))
        choices.append(joint)
    for combination in itertools.product(*choices):
        yield {name: value for part in combination for name, value in part.items()}


def _row(
    document: Document, group: str, table: RowTable, axes: Mapping[str, Any]
) -> tuple[Row, tuple[str, CacheTable] | None]:
    """Return the row at a place of its grid, and the cache that is made for this place, if one is."""
    of_cache = {name.removeprefix("cache."): v for name, v in axes.items() if name.startswith("cache.")}
    of_train = {name.removeprefix("train."): v for name, v in axes.items() if name.startswith("train.")}
    cache, made = table.cache, None
    if cache is not None and of_cache:
        cache = f"{cache}[{_told(of_cache)}]"
        made = (cache, _changed(_with_defaults(document.caches[table.cache or ""], document), of_cache))
    short = [name.partition(".")[2] for name in axes]
    # a setting of the cache and one of the training may share a name
    shown = {
        one if short.count(one) == 1 else name: axes[name] for one, name in zip(short, axes, strict=True)
    }
    start = table.label or group
    first, hidden = _joint(table)
    values = [
        f"{SYMBOLS.get(one, one)} {axis_text(shown[one])}" + (" …" if name in first else "")
        for one, name in zip(shown, axes, strict=True)
        if name not in hidden
    ]
    # "recipe quick-moco", not "recipe, recipe quick-moco"
    label = ", ".join(values if start in shown else [start, *values])
    row = Row(
        name=f"{group}[{_told(shown)}]" if shown else group,
        label=label,
        group=group,
        axes=dict(axes),
        train={**document.train, **table.train, **of_train},
        cache=cache,
        seeds=table.seeds or document.experiment.seeds,
        published=_published(table, _told(shown)),
    )
    return row, made


def _joint(table: RowTable) -> tuple[set[str], set[str]]:
    """Return settings that stand for others in labels, and these: of three or more that change together.

    The first stands for all, if it has another value at each place.
    """
    first, hidden = set[str](), set[str]()
    for axis, values in table.grid.items():
        names = axis.split("+")
        if len(names) > 2 and len({str(value[0]) for value in values}) == len(values):
            first.add(names[0])
            hidden |= {*names[1:]}
    return first, hidden


def _published(table: RowTable, place: str) -> dict[str, float]:
    """Return data set → number; of a grid, those whose key ends with the place, ``cifar10[sigma=0.2]``."""
    end = f"[{place}]" if place else ""
    return {
        key.removesuffix(end): value
        for key, value in table.published.items()
        if key.endswith(end) and "[" not in key.removesuffix(end)
    }


def _changed(table: CacheTable, values: Mapping[str, Any]) -> CacheTable:
    own = {name: getattr(table, name) for name in CacheTable.model_fields}
    for name, value in values.items():
        if name in CacheTable.model_fields:
            own[name] = value
        else:
            own["settings"] = {**own["settings"], name: value}
    return CacheTable(**own)


def _told(axes: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={axis_text(value)}" for name, value in axes.items())


def axis_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def file_part(name: str) -> str:
    """Return a name of a row or cache as a part of a path."""
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-.")
