"""Registry entries of view sources; free of torch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from viewgen.errors import ModelError, UsageError
from viewgen.registry import Choice, Entry
from viewgen.roles import Role
from viewgen.store.columns import Column

if TYPE_CHECKING:
    from pathlib import Path

    from viewgen.datasets import ImageDataset
    from viewgen.memory import BatchSize
    from viewgen.networks.files import Models
    from viewgen.networks.precision import Precision
    from viewgen.views.source import ViewMemory, ViewScores

__all__ = ["Resources", "Situation", "TrainingResources", "ViewEntry", "further_encoder", "in_training"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """Facts that are known before any network is loaded, for settings that depend on them.

    Attributes:
        dataset: source images.
        networks: kind → file of the available networks.
        seed: root of all random numbers.
        say: callback for messages about slow work.
        inversion: the inversion whose codes the method starts from; None for a method without.
    """

    dataset: ImageDataset
    networks: dict[str, Path]
    seed: int
    say: Callable[[str], object]
    inversion: Choice[ViewEntry] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Resources for building a view source.

    Attributes:
        models: networks that its entry needs, frozen, on their device, with their execution settings.
        batch_size: number of images optimised at once, ``"auto"`` for as many as fit into memory, or None for
            the source's own choice; no effect on the views.
    """

    models: Models
    batch_size: BatchSize = None
    _ready: dict[tuple[str, Precision], Any] = field(default_factory=dict, repr=False)

    def network(self, kind: str, precision: Precision = "float32") -> Any:
        """Return the network of a kind for execution, compiled if the execution settings say so.

        Raises:
            ModelError: there is no such network.
        """
        found: Any = getattr(self.models, kind)
        if found is None:
            raise ModelError(f"the method needs a network of kind {kind!r}, and none was given")
        return self._run(kind, found, precision)

    def encoders(self, precision: Precision = "float32") -> list[Any]:
        """Return f and the further encoders of the job, for execution."""
        more = self.models.further_encoders
        return [
            self.network("encoder", precision),
            *(self._run(further_encoder(place), one, precision) for place, one in enumerate(more)),
        ]

    def inverting(self, precision: Precision = "float32") -> Any:
        """Return the generator with the start of its codes, for execution."""
        return self._run("inverting", self.models.inverting(), precision)

    def _run(self, name: str, network: Any, precision: Precision) -> Any:
        from viewgen.networks.precision import at_precision

        if (name, precision) not in self._ready:
            self._ready[name, precision] = self.models.execution.accelerate(at_precision(network, precision))
        return self._ready[name, precision]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResources(Resources):
    """Resources for building a view source of a training step; `models.encoder` is the encoder in training.

    Attributes:
        average_gradients: function that replaces gradients of parameters by their means over the training's
            processes.
        dataset: images of the training.
        memory: views of a cache, if the source reads one.
        roles: roles of the cache's views.
        scores: scores of these views, if the training uses any.
    """

    average_gradients: Callable[[Iterable[Any]], None]
    dataset: ImageDataset | None = None
    memory: ViewMemory | None = None
    roles: tuple[Role, ...] = ()
    scores: ViewScores | None = None


def in_training(resources: Resources, name: str) -> TrainingResources:
    """Return the resources of a training step, for a source that requires them.

    Raises:
        UsageError: the resources are those of a cache or a measurement.
    """
    if not isinstance(resources, TrainingResources):
        raise UsageError(
            f"{name} views are made in a training step only; use them with `viewgen train --generated {name}`"
        )
    return resources


def _as_given(settings: Any, situation: Situation) -> Any:
    return settings


def _as_fitted(settings: Any, dataset: ImageDataset) -> Any:
    return settings


def _unchanged(settings: Any) -> Any:
    return settings


def _unchecked(settings: Any) -> None:
    return None


def _nothing(settings: Any) -> frozenset[str]:
    return frozenset()


def _no_files(settings: Any) -> tuple[str, ...]:
    return ()


def further_encoder(place: int) -> str:
    """Return the name of a further encoder among a job's networks and a cache's digests: ``encoder:2`` …"""
    return f"encoder:{place + 2}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewEntry(Entry):
    """Registry entry of a view source; `build` takes its settings and `Resources`.

    Its `needs` are networks by kind, ``"inversions"`` if it starts from refined codes, ``"cache"`` if it
    reads views, ``"clips"`` if it renders frames of the data set, and ``"training"`` if it requires
    an encoder in training.

    Attributes:
        num_views: number of views of an image, if the source fixes it; with `roles` their number.
        roles: roles of an image's views in their order, if they are images of different kinds and not
            interchangeable.
        columns: arrays that it always adds to those of every cache.
        keeps_codes: True if the codes of its views can be stored as its column ``w_plus``.
        settle: settings and situation → settings without open values such as ``"auto"``.
        fit: settings and source images → settings with the facts of the images that it uses, such as
            their mean; refuses images that it cannot use.
        view_size: settings and side of the images → side of the views, in pixels; None if it is the same.
        transform: transform of its views in a training, unless another is given; empty for the usual one.
        joint: True if a training transforms the views of an image alike although they are interchangeable,
            because their places in the image belong together.
        random: False if it draws no random numbers, so that it has one view, or one of each role.
        optional: settings → needs that the source does not use with them.
        further: settings, as they were given → files of further encoders that the source needs.
        check: settings → error if a file that they name is missing; called before images are loaded.
        stand_in: settings → settings of a source that takes as long and reads no file, to estimate its cost.
    """

    num_views: int | None = None
    roles: tuple[Role, ...] = ()
    columns: tuple[Column, ...] = ()
    keeps_codes: bool = False
    settle: Callable[[Any, Situation], Any] = field(default=_as_given)
    fit: Callable[[Any, ImageDataset], Any] = field(default=_as_fitted)
    view_size: Callable[[Any, int], int] | None = None
    transform: str = ""
    joint: bool = False
    random: bool = True
    optional: Callable[[Any], frozenset[str]] = field(default=_nothing)
    further: Callable[[Any], tuple[str, ...]] = field(default=_no_files)
    check: Callable[[Any], object] = field(default=_unchecked)
    stand_in: Callable[[Any], Any] = field(default=_unchanged)

    def __post_init__(self) -> None:
        if self.roles and self.num_views not in (None, len(self.roles)):
            raise UsageError(f"{self.name} has {len(self.roles)} roles and fixes {self.num_views} views")
        if self.roles:
            object.__setattr__(self, "num_views", len(self.roles))

    def side(self, settings: Any, image_size: int) -> int:
        """Return the side of the views of images with the given side, in pixels."""
        return image_size if self.view_size is None else self.view_size(settings, image_size)

    def uses(self, settings: Any) -> frozenset[str]:
        """Return the needs that the source uses with the given settings."""
        return self.needs - self.optional(settings)
