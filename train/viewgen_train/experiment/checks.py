"""Checks of an experiment's tables against each other and against the registries; errors name the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.probe import ProbeConfig, probe_config
from viewgen.errors import UsageError, nearest_name
from viewgen.registry import Choice
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.entry import ViewEntry
from viewgen_train.caches import check_cache
from viewgen_train.experiment.diagnostics import diagnostic_name, setting_names
from viewgen_train.experiment.document import CacheTable, Document
from viewgen_train.experiment.grid import Row, file_part
from viewgen_train.resolve import train_settings
from viewgen_train.settings import TrainSettings
from viewgen_train.sizes import check_sizes

__all__ = [
    "cache_identity",
    "cached_views",
    "check_cache_settings",
    "check_data",
    "check_encoders",
    "check_references",
    "named_encoders",
    "resolved",
    "resolved_probe",
    "row_settings",
    "selected_rows",
]

# start of a diagnostic's setting that stands for the run of an encoder
ENCODER = "encoder:"


def cache_identity(url: str) -> str:
    """Return the identity of a cache that is there: what is made anew at its URL is another cache."""
    return CacheReader(url).spec.identity


def check_data(
    dataset: ImageDataset,
    document: Document,
    tables: Mapping[str, CacheTable],
    rows: Mapping[str, Row],
    settings: Mapping[str, TrainSettings],
    data_root: str | None = None,
) -> None:
    """Check the splits, sizes and number of images, and that caches that are there are of these images."""
    if document.rows or document.encoders:
        readout = document.measure.readout or document.experiment.dataset
        try:
            test = load_dataset(readout, "test", data_root=data_root)
        except UsageError as error:
            raise UsageError(f"[experiment]: every training is measured on the test split: {error}") from None
        for name, row in rows.items():
            views = settings[name].views
            views.entry.check(views.settings)
            side = _view_side(dataset, row, settings[name], tables)
            try:
                check_sizes(settings[name], dataset.image_size, side)
            except UsageError as error:
                raise UsageError(f"[rows.{row.group}]: {error}") from None
            if side != test.image_size:
                raise UsageError(
                    f"[rows.{row.group}]: its views have {side} px, and its encoders are measured on "
                    f"{readout}, whose images have {test.image_size} px; give a data set of {side} px as "
                    "readout in [measure]"
                )
    limit = document.experiment.limit
    if limit is not None and limit > len(dataset):
        raise UsageError(f"[experiment]: limit is {limit}; {dataset.name} has {len(dataset)} images")
    for table in tables.values():
        if table.url is not None:
            check_cache(CacheReader(table.url), dataset, inversions=is_inversions(table))


def _view_side(
    dataset: ImageDataset, row: Row, settings: TrainSettings, tables: Mapping[str, CacheTable]
) -> int:
    """Return the side of the images of a row's encoder, in pixels."""
    views = settings.views
    if row.cache is not None and "cache" in views.entry.needs:
        table = tables[row.cache]
        if table.url is not None:
            return CacheReader(table.url).spec.height
        views = cached_views(dataset.name, table)
    side: int = views.entry.side(views.settings, dataset.image_size)
    return side


def selected_rows(rows: Mapping[str, Row], only: Sequence[str]) -> tuple[str, ...]:
    groups = {row.group for row in rows.values()}
    for name in only:
        if name not in rows and name not in groups:
            known = dict.fromkeys([*groups, *rows])
            raise UsageError(f"--only {name}: no such row{nearest_name(name, known)} ({', '.join(rows)})")
    return tuple(name for name, row in rows.items() if not only or {name, row.group} & set(only))


def check_references(document: Document, rows: Mapping[str, Row], tables: Mapping[str, CacheTable]) -> None:
    """Check that every name of a row, cache, encoder or diagnostic is one."""
    about = document.experiment
    if not rows and not tables:
        raise UsageError("the experiment has neither [rows] nor [caches]; there is nothing to do")
    named = [("[experiment]: baseline", about.baseline)] if about.baseline else []
    for number, one in enumerate(document.questions, 1):
        named += [
            (f"[[questions]] {number}: row", one.row),
            (f"[[questions]] {number}: against", one.against),
        ]
    for place, name in named:
        if name not in rows:
            raise UsageError(
                f"{place} is {name!r}{nearest_name(name, rows)}; expected a row: {', '.join(rows)}"
            )
    groups = {row.group for row in rows.values()}
    for number, sweep in enumerate(document.sweeps, 1):
        if len({sweep.row, *sweep.beside}) <= len(sweep.beside):
            raise UsageError(f"[[sweeps]] {number}: row and beside name a grid twice; give each once")
        for setting, name in [("row", sweep.row), *(("beside", one) for one in sweep.beside)]:
            if name not in groups:
                raise UsageError(
                    f"[[sweeps]] {number}: {setting} is {name!r}{nearest_name(name, groups)}; expected one "
                    f"of [rows]: {', '.join(sorted(groups))}"
                )
    for number, pair in enumerate(document.scatter, 1):
        for name in pair.rows:
            if name not in groups and name not in rows:
                known = dict.fromkeys([*groups, *rows])
                raise UsageError(
                    f"[[scatter]] {number}: rows has {name!r}{nearest_name(name, known)}; expected rows or "
                    f"grids: {', '.join(known)}"
                )
    _check_diagnostics(document)
    for group, table in document.rows.items():
        if table.seeds is not None and len(set(table.seeds)) != len(table.seeds):
            raise UsageError(f"[rows.{group}]: seeds {list(table.seeds)} has one twice")
    if len(set(about.seeds)) != len(about.seeds):
        raise UsageError(f"[experiment]: seeds {list(about.seeds)} has one twice")


def _check_diagnostics(document: Document) -> None:
    """Check that diagnostics exist, and have the settings that are given for them."""
    chosen = (*document.measure.caches, *document.measure.trainings)
    for name in chosen:
        DIAGNOSTICS.entry(diagnostic_name(name))
        _, colon, label = name.partition(":")
        if colon and not label:
            raise UsageError(f"[measure]: {name!r} has no label; give one after the colon, or no colon")
        if "." in label or file_part(label) != label:
            raise UsageError(f"[measure]: the label of {name!r} may hold letters, digits, _, =, + and - only")
    known = {field for name in chosen for field in setting_names(name)}
    for name, value in document.measure.settings.items():
        owner, _, setting = name.partition(".")
        if not setting:  # of every diagnostic that has one of this name
            if name not in known:
                raise UsageError(
                    f"[measure.settings]: no diagnostic that is measured has a setting {name!r}"
                    f"{nearest_name(name, known)}"
                )
            continue
        if owner not in {*chosen, *map(diagnostic_name, chosen)}:
            raise UsageError(
                f"[measure.settings]: {name} is a setting of {owner!r}, which is measured neither of caches "
                f"nor of trainings ({', '.join(chosen) or 'nothing is'})"
            )
        DIAGNOSTICS.resolve(diagnostic_name(owner), "", {setting: value})


def named_encoders(value: Any) -> tuple[str, ...]:
    """Return the encoders of [encoders] that a setting names: ``"encoder:NAME"``, or a list of such."""
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(
        one.removeprefix(ENCODER) for one in texts if isinstance(one, str) and one.startswith(ENCODER)
    )


def check_encoders(document: Document, tables: Mapping[str, CacheTable]) -> None:
    """Check that encoders can be trained before there is any cache, and that settings name known ones."""
    given = {"measure.settings": document.measure.settings}
    given |= {f"caches.{name}": table.settings for name, table in tables.items()}
    for place, settings in given.items():
        for name, value in settings.items():
            for named in named_encoders(value):
                if named not in document.encoders:
                    raise UsageError(
                        f"[{place}]: {name} is {value!r}{nearest_name(named, document.encoders)}; "
                        f"expected one of [encoders]: {', '.join(document.encoders) or 'there is none'}"
                    )
    for name, encoder in document.encoders.items():
        found = resolved(
            document.experiment.dataset, {**document.train, **encoder.train}, f"[encoders.{name}]"
        )
        if needs := found.views.entry.needs & {"cache", "inversions"}:
            raise UsageError(
                f"[encoders.{name}]: its training needs {', '.join(sorted(needs))}, which is made after it; "
                'give train = {assimilation = "none"}'
            )


def resolved(dataset: str, given: Mapping[str, Any], place: str) -> TrainSettings:
    """Return a row's settings with seed 0; errors name the row."""
    if "seed" in given or "run.seed" in given:
        raise UsageError(f"{place}: seed is a setting of the experiment; give seeds in its table")
    try:
        return train_settings(dataset, given)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def row_settings(dataset: str, row: Row, tables: Mapping[str, CacheTable]) -> TrainSettings:
    place = f"[rows.{row.group}]"
    found = resolved(dataset, row.train, place)
    needs = found.views.entry.needs & {"cache", "inversions"}
    if needs and row.cache is None:
        raise UsageError(f"{place}: {found.views.name} views need a cache; name one of [caches]")
    if row.cache is not None and not needs:
        raise UsageError(
            f"{place}: cache is {row.cache!r}, which {found.views.name} views would ignore; leave it out, or "
            "choose another assimilation or generated"
        )
    if row.cache is not None and ("inversions" in needs) != is_inversions(tables[row.cache]):
        kind = "a cache of method invert" if "inversions" in needs else "a cache of views"
        raise UsageError(f"{place}: {found.views.name} views need {kind}, and {row.cache!r} is none")
    return found


def is_inversions(table: CacheTable) -> bool:
    return table.method == "invert"


def cached_views(dataset: str, table: CacheTable) -> Choice[ViewEntry]:
    """Return the view source of a cache that an experiment makes."""
    own = {one: value for one, value in table.settings.items() if not one.startswith("invert.")}
    return VIEWS.resolve(table.method, dataset, own)


def check_cache_settings(dataset: str, name: str, table: CacheTable) -> None:
    """Check the settings of a cache's method; networks and data are not needed."""
    place = f"[caches.{name}]"
    if table.url is not None:
        if given := table.model_fields_set - {"url", "method"} - (set() if table.settings else {"settings"}):
            raise UsageError(f"{place}: url names a cache that is there, so {', '.join(sorted(given))} would "
                             "be ignored; leave one out")  # fmt: skip
        return
    before = {
        one.removeprefix("invert."): value
        for one, value in table.settings.items()
        if one.startswith("invert.")
    }
    try:
        cached_views(dataset, table)
        if before:
            VIEWS.resolve("invert", dataset, before)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def resolved_probe(dataset: str, document: Document) -> ProbeConfig:
    try:
        return probe_config(dataset, **document.measure.probe)
    except UsageError as error:
        raise UsageError(f"[measure.probe]: {error}") from None
