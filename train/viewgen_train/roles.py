"""Trainings on views of different roles, with an encoder of each role."""

from typing import Any

from viewgen.errors import UsageError
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.store import CacheSpec
from viewgen.views import VIEWS
from viewgen.views.branched import check_splits
from viewgen.views.entry import ViewEntry
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.settings import TrainSettings

__all__ = ["cached_entry", "check_roles", "splitting_views"]


def splitting_views(settings: TrainSettings, cache: CacheSpec | None) -> Choice[Any] | None:
    """Return the view source that splits an image into views of different roles, or None if none does.

    Args:
        settings: settings of the training.
        cache: specification of the cache of views, if they come from one.

    Raises:
        UsageError: the cache was made by a source that this installation lacks, or that needs more than an
            image.
    """
    views = settings.views
    roles: tuple[Role, ...] = views.entry.roles
    if cache is not None and "cache" in views.entry.needs:
        roles = cache.roles
        if roles:
            views = VIEWS.read({"name": cache.method, "settings": cache.config})
    if not roles:
        return None
    check_splits(views)
    if views.entry.roles != roles:
        raise UsageError(
            f"the cache has views of the roles {', '.join(role.name for role in roles)}, "
            f"{views.name!r} of this installation has others; make the cache again"
        )
    return views


def check_roles(settings: TrainSettings, roles: tuple[Role, ...], cache: CacheSpec | None = None) -> None:
    """Check that a training can use views of these roles, or a pair of interchangeable ones.

    Args:
        settings: settings of the training.
        roles: roles of the views.
        cache: specification of the cache of views, if they come from one.

    Raises:
        UsageError: the assimilation, the objective or the transform needs interchangeable views.
    """
    if not roles:
        entry = settings.views.entry
        _check_pair(settings, (cached_entry(cache) if "cache" in entry.needs else None) or entry)
        return
    named = ", ".join(role.name for role in roles)
    kind = settings.assimilation.kind
    if kind != "none":
        raise UsageError(
            f"views of the roles {named} take the place of both views of the objective; assimilation {kind} "
            "adds views to them. Give --assimilation none"
        )
    objective = build_objective(settings)
    if getattr(settings.objective.build(), "one_queue", False):
        raise UsageError(
            f"objective {settings.objective.name!r} keeps the keys of all views in one queue, where those of "
            f"the roles {named} would meet queries of their own role; give --objective infonce or simclr"
        )
    if objective.head.one_sided:
        raise UsageError(
            f"objective {settings.objective.name!r} trains on the first view alone, and views of the roles "
            f"{named} have an encoder each; set symmetric=true"
        )
    wanted = objective.num_generated
    if wanted != len(roles):
        raise UsageError(
            f"objective {settings.objective.name!r} takes {wanted} views of an image; the views have the "
            f"roles {named}"
        )
    if settings.assimilation.transform == "expert" and "cache" in settings.views.entry.needs:
        raise UsageError(
            f"transform is 'expert', whose colours mean nothing for cached views of the roles {named}; "
            "choose flip or weak-crop, or let the training make the views (--generated)"
        )


def cached_entry(cache: CacheSpec | None) -> ViewEntry | None:
    """Return the entry of the source that made a cache; None if there is no cache or no such source here."""
    return None if cache is None or cache.method not in VIEWS else VIEWS.entry(cache.method)


def _check_pair(settings: TrainSettings, made_by: ViewEntry) -> None:
    """Check that a training takes as many views of an image as a source of interchangeable views fixes."""
    fixed, wanted = made_by.num_views, build_objective(settings).num_generated
    if "clips" in made_by.needs and settings.assimilation.transform != "none":
        raise UsageError(
            f"transform is {settings.assimilation.transform!r}, which would move each frame of a clip by "
            "itself; leave it out, or give none"
        )
    if fixed is None or (fixed == wanted and settings.assimilation.kind == "none"):
        return
    kind = settings.assimilation.kind
    reason = f"objective {settings.objective.name!r} takes {wanted} generated ones"
    if kind != "none":
        reason = f"assimilation {kind} adds them to expert views; give --assimilation none"
    raise UsageError(f"{made_by.name} makes {fixed} views of an image, which belong together, and {reason}")
