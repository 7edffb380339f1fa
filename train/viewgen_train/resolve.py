"""Resolution of a training's settings: defaults, overridden by the recipe, overridden by given values.

Unknown settings, and settings that the training would ignore, are errors raised only in this module.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from viewgen.errors import UsageError, nearest_name
from viewgen.recipes import recipe
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.settings import Settings
from viewgen.views import VIEWS
from viewgen.views.compositions import expert_values
from viewgen.views.expert_settings import ExpertConfig
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.recipes import method_recipe
from viewgen_train.records import (
    ASSIMILATIONS,
    DEFAULTS,
    FORMAT_1_OBJECTIVES,
    PLACES,
    VIEW_NAMES,
    placed,
)
from viewgen_train.second_view import settled_second_view, without_effect
from viewgen_train.settings import COMPONENTS, NEGATIVES, TrainSettings

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from viewgen_train.objectives.objective import Head

__all__ = ["effective_settings", "places", "train_settings"]

# settings that the data set's [*.encoder] recipe gives: one network, whatever trains it
NETWORK_NAMES = ("backbone", "width", "projection_dim", "projector")
# those among them that format 1 had not
LATER_NETWORK_NAMES = ("projector",)
# settings of the components by their own name
OWNERS = {field: name for name, cls in COMPONENTS.items() if name not in ("expert", "second")
          for field in cls.model_fields}  # fmt: skip
KINDS = ("none", "A1", *ASSIMILATIONS)
# words that name an entry, not a value of its settings
NAMES = {"generated": "views.name", "views": "views.name", "objective": "objective.name", "loss": "loss",
         "assimilation": "assimilation.kind", "optimiser": "optimiser.name",
         "reconstruction": "reconstruction.task"}  # fmt: skip


def train_settings(
    dataset: str,
    given: Mapping[str, Any] | None = None,
    preset: Mapping[str, Any] | None = None,
    *,
    cached_roles: tuple[Role, ...] | None = None,
    cached_transform: str = "",
) -> TrainSettings:
    """Return the settings of a training: defaults, then the data set's recipe, then given values.

    Args:
        dataset: name of the data set.
        given: setting → value. A key is a dotted name (``"objective.temperature"``) or, if unique, the
            field's name (``"temperature"``). Tables may be nested. ``"assimilation"``, ``"objective"`` (or
            ``"loss"``), ``"views"`` (or ``"generated"``) and ``"optimiser"`` select by name; ``"recipe"``
            selects a method's recipe (see `viewgen_train.recipes`), which the other values override;
            ``"augment"`` names a combination of expert operations (see `viewgen.views.compositions`) in the
            place of the data set's.
        preset: values of a command that replace the recipe; given values override them.
        cached_roles: roles of the cache's views; None if no cache is known yet.
        cached_transform: default transform of the source that made the cache; empty for the usual one.

    Raises:
        UsageError: a setting is unknown or would be ignored, or a value is invalid.
    """
    words = places(given or {})
    method = words.pop("recipe", None)
    base = places(preset or {}) | ({} if method is None else places(method_recipe(method, dataset).settings))
    if "objective.name" in words:
        base.pop("loss", None)
    if "augment" in words:
        base = {place: value for place, value in base.items() if not place.startswith(("expert.", "second."))}
    of_recipe = base.keys() - words.keys()
    words = base | words
    values = _recipe(dataset, viewmaker=words.get("views.name") == "viewmaker")
    kind, objective_name = _assimilation(words, values)
    augment = words.pop("augment", None)
    views_name = words.pop("views.name", "auto")
    if views_name == "auto":
        views_name = "expert" if kind == "none" else "cache"
    views = VIEWS.entry(VIEW_NAMES.get(views_name, views_name))
    objective = OBJECTIVES.entry(objective_name)
    _refuse_combinators(words, kind, objective)
    entries: dict[str, Any] = {"views": views, "objective": objective}
    parts, dormant = placed(values, entries)
    if objective.name not in FORMAT_1_OBJECTIVES:
        parts["objective"] = {}  # its own τ, not SimCLR's, nor a scale that makes up for that
        parts["optimiser"].pop("loss_scale", None)
    if kind == "A2":
        dormant["loss"] = values["loss"]
    if method is None:  # a method has a head of its own
        parts["network"] |= {name: values[name] for name in LATER_NETWORK_NAMES if name in values}
    own_transform = cached_transform if "cache" in views.needs else views.transform
    transform = "expert" if views_name == "expert" else "flip" if kind == "A2" else "weak-crop"
    parts["assimilation"] |= {"kind": kind, "transform": own_transform or transform}
    parts["expert"] = recipe(dataset, "expert") if augment is None else expert_values(augment)
    for part, entry in entries.items():
        parts[part] |= recipe(dataset, entry.name)
    _refuse_ignored(words, kind, entries)
    roles = cached_roles if "cache" in views.needs else views.roles
    if roles == () and "network.branches" in words:
        raise UsageError(
            f"branches is {words['network.branches']!r}, a setting for views of different roles; "
            f"{views_name} views are interchangeable and have one encoder"
        )
    for place, value in words.items():
        component, _, field = place.partition(".")
        if (component, field, value) == ("assimilation", "transform", "auto"):
            continue
        parts[component][field] = value
    found: dict[str, Any] = {
        name: Choice(entry, entry.settings(**parts[name])) for name, entry in entries.items()
    }
    found |= {name: cls(**parts[name]) for name, cls in COMPONENTS.items()}
    built = found["objective"].build()
    asked = [
        place.removeprefix("second.")
        for place in words
        if place.startswith("second.") and place not in of_recipe
    ]
    found["second"] = settled_second_view(found, built.num_generated, asked, alike=views.joint or bool(roles))
    for name, part in found.items():
        given_here = {place.partition(".")[2] for place in words if place.startswith(f"{name}.")}
        if name == "expert":
            given_here &= without_effect(part, found["second"])
        _own(part).refuse_ignored(given_here)
    if getattr(found["views"].settings, "score_weight", 0) and not objective.pair_weights:
        raise UsageError(
            f"score_weight is {found['views'].settings.score_weight}, which the loss of {objective.name!r} "
            "would ignore; choose an --objective that weights pairs, such as simclr or infonce, or drop_below"
        )
    head = built.head
    # what a recipe says of a head is for its own objective
    _refuse_beside(head, objective.name, {place: words[place] for place in words.keys() - of_recipe})
    if not head.any_projector:
        found["network"] = found["network"].replace(projector="objective")
    _check_reconstruction(found, head, objective.name, roles)
    if head.jigsaw:
        _check_jigsaw(found, kind, bool(roles))
    if objective.check is not None:
        objective.check(found["objective"].settings, found["optimiser"])
    return TrainSettings.of_parts(found, dormant)


def _check_reconstruction(
    found: Mapping[str, Any], head: "Head", objective: str, roles: tuple[Role, ...] | None
) -> None:
    """Raise an error for a reconstruction that does not fit the objective, the views or the schedule."""
    how, optimiser = found["reconstruction"], found["optimiser"]
    if not how.active:
        return
    if head.patches:
        raise UsageError(
            f"reconstruction is {how.task!r}, and objective {objective!r} embeds patches, of which no "
            "decoder makes an image; choose another --objective"
        )
    if roles and how.reconstruction_view == "image":
        raise UsageError(
            "reconstruction_view is 'image', which no encoder of views of different roles reads; choose "
            "first or all"
        )
    some = [role.name for role in roles or () if role.channels]
    if some and how.task == "colorization":
        raise UsageError(
            f"reconstruction is 'colorization', and the view {some[0]!r} has some channels alone; choose "
            "inpainting or autoencoding"
        )
    negatives = found["negatives"]
    if not how.contrastive_weight and (negatives.ifm_epsilon or negatives.hardness or negatives.class_prior):
        raise UsageError(
            "contrastive_weight is 0, and IFM and hard negatives change nothing of a loss that does not "
            "count; leave out ifm_epsilon, hardness and class_prior"
        )
    if how.reconstruction_epochs >= optimiser.epochs:
        raise UsageError(
            f"reconstruction_epochs is {how.reconstruction_epochs:g} of {optimiser.epochs} epochs; expected "
            "fewer, or contrastive_weight=0 for a reconstruction alone"
        )


def _check_jigsaw(found: Mapping[str, Any], kind: str, has_roles: bool) -> None:
    """Check that no other part of a training ignores the jigsaw branch of its objective.

    Args:
        found: settings of the components, by name.
        kind: kind of assimilation.
        has_roles: True if the views have different roles.
    """
    negatives = found["negatives"]
    others = {
        f"assimilation {kind}": kind != "none",
        "IFM": bool(negatives.ifm_epsilon),
        "hard negatives": bool(negatives.hardness or negatives.class_prior),
        "a reconstruction": found["reconstruction"].active,
        "views of different roles": has_roles,
        "the backbone convnet6, which takes images of one size": found["network"].backbone == "convnet6",
    }
    if unfit := [name for name, there in others.items() if there]:
        raise UsageError(
            f"the jigsaw branch (jigsaw_weight) is not defined beside {unfit[0]}; leave out one of them"
        )


def _unused_by(head: "Head") -> dict[str, str]:
    """Return the settings without effect beside a head, place → reason."""
    unused: dict[str, str] = {}
    if not head.predictor:
        places = ("network.predictor_hidden", "optimiser.predictor_learning_rate")
        unused |= dict.fromkeys((*places, "optimiser.predictor_schedule"), "has no predictor")
    if not head.any_projector:
        unused["network.projector"] = "has a projector of its own"
    if head.projector == "linear":
        unused["network.projector_hidden"] = "has a projector without hidden layers"
    if head.norm == "layer":
        unused["network.batchnorm"] = "has layer normalisation"
    return unused


def _refuse_beside(head: "Head", objective: str, words: Mapping[str, Any]) -> None:
    """Raise an error for given settings without effect beside the head of an objective."""
    for place, reason in _unused_by(head).items():
        if place in words:
            raise UsageError(
                f"{place.partition('.')[2]} is {words[place]!r}, and objective {objective!r} {reason}; leave "
                "it out, or choose another --objective"
            )


def _own(part: Any) -> Settings:
    """Return the settings of a component."""
    found: Settings = part.settings if isinstance(part, Choice) else part
    return found


def _recipe(dataset: str, *, viewmaker: bool) -> dict[str, Any]:
    """Return the data set's recipe, with a value for every setting of format 1."""
    network = recipe(dataset, "encoder")
    values = DEFAULTS | {name: network[name] for name in NETWORK_NAMES if name in network}
    values["epsilon_boundary"] = recipe(dataset, "wsearch").get("epsilon_boundary", 0.3)
    values |= recipe(dataset, "train")
    return values | (recipe(dataset, "train-viewmaker") if viewmaker else {})


def places(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the place of each given setting, ``"network.width"`` for ``"width"``, with its value."""
    found: dict[str, Any] = {}
    for name, value in _leaves(given):
        place = NAMES.get(name) or name
        if name in PLACES:
            component, field, entry = PLACES[name]
            place = f"{component}.{field}" if entry is None else name
        elif name in OWNERS:
            place = f"{OWNERS[name]}.{name}"
        before = found.setdefault(place, value)
        if before is not value and before != value:
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
    """Return the kind of assimilation and the name of its objective."""
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


def _refuse_combinators(words: Mapping[str, Any], kind: str, objective: ObjectiveEntry) -> None:
    """Raise an error for a combinator that an objective does not bear, with the reason."""
    combinators = {} if kind == "none" else {kind: "--assimilation"}
    for setting, name in NEGATIVES.items():
        if words.get(f"negatives.{setting}") not in (None, False, 0):
            combinators.setdefault(name, setting)
    for name, setting in combinators.items():
        if name not in objective.bears:
            reason = objective.reasons.get(name, "its entry does not name it")
            raise UsageError(
                f"objective {objective.name!r} cannot bear {name}: {reason}; choose another --objective or "
                f"{setting}"
            )


def _refuse_ignored(words: dict[str, Any], kind: str, entries: Mapping[str, Any]) -> None:
    """Raise an error for settings without effect; move the others to their dotted names."""
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
        place = f"{component}.{field}"
        if place != name and place in words:
            raise UsageError(f"{name} and {place} were given, which are one setting; give one of them")
        words[place] = words.pop(name)
    objective = entries["objective"]
    unused = _unused(kind, objective)
    for place in unused & words.keys():
        raise UsageError(
            f"{place.partition('.')[2]} is {words[place]!r}, which assimilation {kind!r} over "
            f"{objective.name!r} would ignore; leave it out, or choose another"
        )


def _unused(kind: str, objective: ObjectiveEntry) -> set[str]:
    """Return the settings without effect for an assimilation over an objective."""
    unused = set() if kind == "A2" else {f"objective.{field}" for field in objective.only_a2}
    unused |= set() if kind == "A2" and objective.weighted else {"assimilation.alpha"}
    unused |= {f"negatives.{name}" for name, owner in NEGATIVES.items() if owner not in objective.bears}
    return unused | ({"assimilation.views_per_step"} if kind == "none" else set())


def effective_settings(settings: TrainSettings, roles: tuple[Role, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the settings that have an effect on views of these roles, as tables of `train_settings`."""
    unused = _unused(settings.assimilation.kind, settings.objective.entry)
    unused |= set() if roles else {"network.branches"}
    unused |= _unused_by(settings.objective.build().head).keys()
    tables: dict[str, dict[str, Any]] = {}
    for part in ("views", "objective", *COMPONENTS):
        chosen = getattr(settings, part)
        own = _own(chosen)
        named = {"name": chosen.name} if isinstance(chosen, Choice) else {}
        idle = without_effect(own, settings.second) if isinstance(own, ExpertConfig) else set(own.ignored())
        idle |= {place.partition(".")[2] for place in unused if place.startswith(f"{part}.")}
        # TOML has no word for None, which only settings have that are not given
        tables[part] = {
            name: value
            for name, value in (named | own.to_json()).items()
            if value is not None and name not in idle
        }
    return {part: table for part, table in tables.items() if table}


def _owner(name: str, entries: Mapping[str, Any]) -> str:
    """Return the component of a setting given without a dotted name."""
    owners = [part for part, entry in entries.items() if name in entry.settings.model_fields]
    if len(owners) == 1:
        return owners[0]
    if owners:
        places = ", ".join(f"{part}.{name}" for part in owners)
        raise UsageError(f"{name} is a setting of several parts; name one: {places}")
    for part, registry in (("views", VIEWS), ("objective", OBJECTIVES)):
        if any(name in registry.entry(other).settings.model_fields for other in registry.built_in):
            registry.resolve(entries[part].name, "", {name: None})  # names who has it
    fields = [field for cls in (*COMPONENTS.values(), *(entry.settings for entry in entries.values()))
              for field in cls.model_fields]  # fmt: skip
    raise UsageError(f"the training has no setting {name!r}{nearest_name(name, [*PLACES, *fields])}")
