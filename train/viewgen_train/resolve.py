"""From what was given to the settings of a training: defaults < recipe < what was given.

A setting that is unknown, or that the training would ignore, is refused here, and nowhere else.
"""

from collections.abc import Mapping
from typing import Any

from viewgen.errors import UsageError, nearest_name
from viewgen.recipes import recipe
from viewgen.registry import Choice
from viewgen.views import VIEWS
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.records import ASSIMILATIONS, DEFAULTS, PLACES, VIEW_NAMES
from viewgen_train.settings import COMPONENTS, TrainSettings

__all__ = ["train_settings"]

# settings that the data set's [*.encoder] recipe gives: one network, whatever trains it
NETWORK_NAMES = ("backbone", "width", "projection_dim")
KINDS = ("none", "A1", *ASSIMILATIONS)
# words that name an entry, not a value of its settings
NAMES = {"generated": "views.name", "views": "views.name", "objective": "objective.name", "loss": "loss",
         "assimilation": "assimilation.kind"}  # fmt: skip


def train_settings(dataset: str, given: Mapping[str, Any] | None = None) -> TrainSettings:
    """Return the settings of a training: defaults, the data set's recipe, then what was given.

    Args:
        dataset: name of the data set.
        given: setting → value. A setting has the dotted name of its place (``"objective.temperature"``), or
            its own name where that is unique (``"temperature"``); tables may be nested. ``"assimilation"``,
            ``"objective"`` (or ``"loss"``) and ``"views"`` (or ``"generated"``) choose entries by name.

    Raises:
        UsageError: a name is no setting, the training would ignore it, or a value is impossible.
    """
    words = _places(given or {})
    values = _recipe(dataset, viewmaker=words.get("views.name") == "viewmaker")
    kind, objective_name = _assimilation(words, values)
    views_name = words.pop("views.name", "auto")
    if views_name == "auto":
        views_name = "expert" if kind == "none" else "cache"
    entries = {"views": VIEWS.entry(VIEW_NAMES.get(views_name, views_name)),
               "objective": OBJECTIVES.entry(objective_name)}  # fmt: skip
    if kind != "none" and kind not in entries["objective"].bears:
        raise UsageError(
            f"objective {objective_name!r} cannot bear {kind}: {entries['objective'].reason}; choose another "
            "--objective or --assimilation"
        )
    transform = "expert" if views_name == "expert" else "flip" if kind == "A2" else "weak-crop"
    parts: dict[str, dict[str, Any]] = {name: recipe(dataset, entry.name) for name, entry in entries.items()}
    parts |= {name: {} for name in COMPONENTS}
    parts["expert"] = recipe(dataset, "expert")
    dormant = {"loss": values["loss"]} if kind == "A2" else {}
    for name, (component, field, entry) in PLACES.items():
        chosen = entries.get(component)
        if chosen is None or (field in chosen.settings.model_fields and entry in (None, chosen.name)):
            parts[component][field] = values[name]
        else:
            dormant[name] = values[name]
    parts["assimilation"] |= {"kind": kind, "transform": transform}
    _refuse_ignored(words, kind, entries)
    for place, value in words.items():
        component, _, field = place.partition(".")
        if (component, field, value) == ("assimilation", "transform", "auto"):
            continue
        parts[component][field] = value
    return TrainSettings(
        **{name: Choice(entry, entry.settings(**parts[name])) for name, entry in entries.items()},
        **{name: cls(**parts[name]) for name, cls in COMPONENTS.items()},  # type: ignore[arg-type]
        dormant=dormant,
    )


def _recipe(dataset: str, *, viewmaker: bool) -> dict[str, Any]:
    """Return the data set's value of every setting of format 1."""
    network = recipe(dataset, "encoder")
    values = DEFAULTS | {name: network[name] for name in NETWORK_NAMES if name in network}
    values["epsilon_boundary"] = recipe(dataset, "wsearch").get("epsilon_boundary", 0.3)
    values |= recipe(dataset, "train")
    return values | (recipe(dataset, "train-viewmaker") if viewmaker else {})


def _places(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted place → value of what was given."""
    found: dict[str, Any] = {}
    for name, value in _leaves(given):
        place = NAMES.get(name) or name
        if name in PLACES:
            component, field, entry = PLACES[name]
            place = f"{component}.{field}" if entry is None else name
        if found.setdefault(place, value) != value:
            raise UsageError(f"{name} is {value!r} and was given as {found[place]!r} too; give one of them")
    return found


def _leaves(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return dotted name → value of nested tables."""
    if prefix == "expert." and not isinstance(table, Mapping):
        raise UsageError(f'expert is {table!r}; expected a table such as {{"hue": 0.0}}, or expert.hue')
    leaves: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, Mapping) or (not prefix and name == "expert"):
            leaves += _leaves(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value))
    return leaves


def _assimilation(words: dict[str, Any], values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the assimilation and the name of its objective."""
    kind = words.pop("assimilation.kind", values["assimilation"])
    loss, objective = words.pop("loss", None), words.pop("objective.name", None)
    if kind not in KINDS:
        near = nearest_name(str(kind), KINDS)
        raise UsageError(f"assimilation is {kind!r}{near}; expected one of {', '.join(KINDS)}")
    if None not in (loss, objective) and loss != objective:
        raise UsageError(f"loss is {loss!r} and objective {objective!r}; give one of them")
    if kind in ("none", "A1"):
        return kind, objective or loss or values["loss"]
    implied = ASSIMILATIONS[kind][1]
    if kind == "A2" and objective is not None:
        return kind, objective
    for name, value in (("loss", loss), ("objective", objective)):
        if value not in (None, implied):
            raise UsageError(
                f"{name} is {value!r}, which assimilation {kind!r} would ignore: it is A2 over {implied!r}; "
                f"give --assimilation A2 --objective {value} for A2 over {value!r}"
            )
    return "A2", implied


def _refuse_ignored(words: dict[str, Any], kind: str, entries: Mapping[str, Any]) -> None:
    """Refuse settings without effect, and put the others in their places."""
    for name in list(words):
        component, _, field = name.partition(".")
        if name in PLACES:  # a setting of one entry alone, by its own name
            component, field, owner = PLACES[name]
            if entries[component].name != owner:
                raise UsageError(
                    f"{name} is a setting of {owner}; the training has {entries[component].name!r} as its "
                    f"{'view source' if component == 'views' else component} and would ignore it"
                )
        elif not field:
            component, field = _owner(name, entries), name
        elif component not in entries and component not in COMPONENTS:
            raise UsageError(
                f"the training has no setting {name!r}{nearest_name(component, (*entries, *COMPONENTS))}"
            )
        if component in entries:
            chosen, registry = entries[component], VIEWS if component == "views" else OBJECTIVES
            if field not in chosen.settings.model_fields:
                registry.resolve(chosen.name, "", {field: words[name]})  # names who has it
        words[f"{component}.{field}"] = words.pop(name)
    for place, why in {
        "assimilation.alpha": None if kind == "A2" and entries["objective"].weighted
        else f"assimilation {kind!r} over {entries['objective'].name!r} has no weight α",
        "assimilation.views_per_step": None if kind != "none" else "assimilation 'none' has two views",
        "objective.anchors": "assimilation 'none' has no expert views" if kind == "none" else None,
    }.items():  # fmt: skip
        if why is not None and place in words:
            raise UsageError(f"{place.partition('.')[2]} is {words[place]!r} and would be ignored: {why}")


def _owner(name: str, entries: Mapping[str, Any]) -> str:
    """Return the component of a setting that is given by its own name."""
    owners = [part for part, entry in entries.items() if name in entry.settings.model_fields]
    owners += [part for part, cls in COMPONENTS.items() if part != "expert" and name in cls.model_fields]
    if len(owners) == 1:
        return owners[0]
    if owners:
        places = ", ".join(f"{part}.{name}" for part in owners)
        raise UsageError(f"{name} is a setting of several parts; name one: {places}")
    fields = [field for cls in (*COMPONENTS.values(), *(entry.settings for entry in entries.values()))
              for field in cls.model_fields]  # fmt: skip
    raise UsageError(f"the training has no setting {name!r}{nearest_name(name, [*PLACES, *fields])}")
