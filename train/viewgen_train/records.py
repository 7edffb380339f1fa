"""Records of a training's settings, in ``config.json`` and ``identity.json``.

Format 1 is the flat table of version 0.1.0, with a value for every setting of 0.1.0, used or not. Settings
that format 1 can express are written in it, so that runs of 0.1.0 can be resumed. All others are written in
format 2: nested records of the components. A setting added later does not change these at its default.
"""

from collections.abc import Mapping
from typing import Any

from viewgen.errors import CorruptDataError, UsageError
from viewgen.registry import Choice, Entry, Registry
from viewgen.settings import facts
from viewgen.views import VIEWS
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.settings import COMPONENTS, TrainSettings

__all__ = [
    "ASSIMILATIONS",
    "DEFAULTS",
    "FORMAT_1_OBJECTIVES",
    "PLACES",
    "assimilation_name",
    "nested_record",
    "placed",
    "read_record",
    "record",
    "view_name",
]

# name of format 1: (assimilation, objective)
ASSIMILATIONS = {
    "A2": ("A2", "infonce"),
    "A2-simclr": ("A2", "simclr"),
    "A2-full": ("A2", "supcon"),
    "A2-simsiam": ("A2", "simsiam"),
}
LOSSES = ("simclr", "infonce", "simsiam")
# objectives for which the values of format 1 are meant
FORMAT_1_OBJECTIVES = {*LOSSES, *(objective for _, objective in ASSIMILATIONS.values())}
# name of format 1: view source; 0.1.0 called the images under the expert transform expert views
VIEW_NAMES = {"expert": "original"}
GENERATED = ("cache", "wperturb", "viewmaker", "online", "expert")

# Every setting of 0.1.0 in the order of its record, with its default then.
DEFAULTS: dict[str, Any] = {
    "assimilation": "A2",
    "generated": "auto",
    "views_per_step": 1,
    "generated_transform": "auto",
    "loss": "simclr",
    "temperature": 0.5,
    "alpha": 0.5,
    "loss_scale": 1.0,
    "full_anchors": "all",
    "backbone": "resnet18",
    "width": 64,
    "projection_dim": 128,
    "batch_size": 512,
    "epochs": 1000,
    "learning_rate": 0.5,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warm_up_epochs": 10.0,
    "gradient_clip": 0.0,
    "precision": "auto",
    "channels_last": True,
    "batchnorm": "concatenated",
    "expert": {},
    "sigma": 0.2,
    "online_step": 0.1,
    "epsilon_boundary": 0.3,
    "viewmaker_budget": 0.05,
    "viewmaker_learning_rate": 1e-3,
    "knn_every": 10,
    "probe_every": 0,
    "seed": 0,
}

# name of format 1: (component, setting, entry that the component must be, or None for any)
PLACES: dict[str, tuple[str, str, str | None]] = {
    **{name: ("assimilation", name, None) for name in ("alpha", "views_per_step")},
    "generated_transform": ("assimilation", "transform", None),
    **{
        name: (component, name, None)
        for component in ("network", "optimiser", "diagnostics", "run")
        for name in COMPONENTS[component].model_fields
        if name in DEFAULTS
    },
    "temperature": ("objective", "temperature", None),
    "full_anchors": ("objective", "anchors", "supcon"),
    "sigma": ("views", "sigma", "wperturb"),
    "online_step": ("views", "step", "online"),
    "epsilon_boundary": ("views", "epsilon_boundary", "online"),
    "viewmaker_budget": ("views", "budget", "viewmaker"),
    "viewmaker_learning_rate": ("views", "learning_rate", "viewmaker"),
}


def used(place: tuple[str, str, str | None], settings: TrainSettings) -> bool:
    """Return whether a training uses the setting at a place of format 1."""
    component, name, entry = place
    part = getattr(settings, component)
    if not isinstance(part, Choice):
        return True
    return name in type(part.settings).model_fields and entry in (None, part.name)


def assimilation_name(settings: TrainSettings) -> str:
    """Return the joint name of assimilation and objective; the name of 0.1.0 if it had one."""
    pair = (settings.assimilation.kind, settings.objective.name)
    names = [name for name, known in ASSIMILATIONS.items() if known == pair]
    if names:
        return names[0]
    return pair[0] if pair[1] in LOSSES else "-".join(pair)


def view_name(settings: TrainSettings) -> str:
    """Return the name of the view source; the name of 0.1.0 if it had one."""
    names = [name for name, source in VIEW_NAMES.items() if source == settings.views.name]
    return names[0] if names else settings.views.name


def record(settings: TrainSettings) -> dict[str, Any]:
    """Return JSON values that identify the settings, in format 1 if it can express them, else in format 2."""
    values = {**DEFAULTS, **settings.dormant}
    values |= {name: _value(settings, place) for name, place in PLACES.items() if used(place, settings)}
    values["generated"], values["assimilation"] = view_name(settings), assimilation_name(settings)
    if settings.assimilation.kind != "A2":
        values["loss"] = settings.objective.name
    expert = settings.expert
    values["expert"] = {
        name: value
        for name, value in expert.record().items()
        if facts(type(expert).model_fields[name])["since"] == 1
    }
    try:
        same = nested_record(read_record(values)) == nested_record(settings)
    except (CorruptDataError, UsageError):
        same = False
    return values if same else nested_record(settings)


def _value(settings: TrainSettings, place: tuple[str, str, str | None]) -> Any:
    part = getattr(settings, place[0])
    return getattr(part.settings if isinstance(part, Choice) else part, place[1])


def nested_record(settings: TrainSettings) -> dict[str, Any]:
    """Return the record of format 2, without components whose settings all came later and are at default."""
    parts = {name: getattr(settings, name).record() for name in ("views", "objective", *COMPONENTS)}
    return {"format": 2, **{name: part for name, part in parts.items() if part}}


def read_record(document: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of a document written by `record` of this or an earlier version.

    Raises:
        CorruptDataError: the document cannot be read.
        UsageError: a plug-in named in the document is not installed.
    """
    try:
        if document.get("format") == 2:
            registries: dict[str, Registry[Any]] = {"views": VIEWS, "objective": OBJECTIVES}
            entries = {part: known.entry(document[part]["name"]) for part, known in registries.items()}
            parts = {part: document[part]["settings"] for part in entries}
            return _settings({**document, **parts}, entries, {})
        return _read_flat(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"the record of a training's settings cannot be read: {error!r}") from error


def _read_flat(document: Mapping[str, Any]) -> TrainSettings:
    values = dict(document)
    if values.keys() != DEFAULTS.keys():
        raise CorruptDataError(
            "the record of a training's settings has other fields than version 0.1.0 wrote: "
            + ", ".join(sorted(values.keys() ^ DEFAULTS.keys()))
        )
    kind, objective = ASSIMILATIONS.get(values["assimilation"], (values["assimilation"], values["loss"]))
    if values["generated"] not in GENERATED or (kind != "A2" and objective not in LOSSES):
        raise CorruptDataError(f"version 0.1.0 knew no {values['generated']} views or no {objective} loss")
    entries: dict[str, Entry] = {
        "views": VIEWS.entry(VIEW_NAMES.get(values["generated"], values["generated"])),
        "objective": OBJECTIVES.entry(objective),
    }
    parts, dormant = placed(values, entries)
    parts["assimilation"]["kind"] = kind
    parts["expert"] = values["expert"]
    if kind == "A2":
        dormant["loss"] = values["loss"]
    return _settings(parts, entries, dormant)


def placed(
    values: Mapping[str, Any], entries: Mapping[str, Entry]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the values of format 1 by component, and the values that these entries do not use."""
    parts: dict[str, dict[str, Any]] = {name: {} for name in (*entries, *COMPONENTS)}
    dormant = {}
    for name, (component, field, owner) in PLACES.items():
        entry = entries.get(component)
        if entry is None or (field in entry.settings.model_fields and owner in (None, entry.name)):
            parts[component][field] = values[name]
        else:
            dormant[name] = values[name]
    return parts, dormant


def _settings(
    parts: Mapping[str, Mapping[str, Any]], entries: Mapping[str, Entry], dormant: Mapping[str, Any]
) -> TrainSettings:
    """Return the settings built from the components' records."""
    found: dict[str, Any] = {
        name: Choice(entry, entry.settings.from_record(parts[name])) for name, entry in entries.items()
    }
    found |= {name: cls.from_record(parts.get(name, {})) for name, cls in COMPONENTS.items()}
    return TrainSettings.of_parts(found, dormant)
