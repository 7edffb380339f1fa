"""Registry entries of view sources; free of torch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from viewgen.errors import ModelError, UsageError
from viewgen.registry import Entry
from viewgen.store.columns import Column

if TYPE_CHECKING:
    from pathlib import Path

    from viewgen.datasets import ImageDataset
    from viewgen.memory import BatchSize
    from viewgen.networks.files import Models
    from viewgen.networks.precision import Precision
    from viewgen.views.source import ViewMemory

__all__ = ["Resources", "Situation", "TrainingResources", "ViewEntry", "in_training"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What is known before any network is loaded, for settings that depend on it.

    Attributes:
        dataset: images that views are made of.
        networks: kind → file of the networks at hand.
        seed: root of all random numbers.
        say: is told what takes time.
    """

    dataset: ImageDataset
    networks: dict[str, Path]
    seed: int
    say: Callable[[str], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a view source is built from.

    Attributes:
        models: networks that its entry needs, frozen, on their device, and how they are run.
        batch_size: images optimised at once: a number, ``"auto"`` for as many as fit into memory, or None for
            the source's own choice; without influence on the views.
    """

    models: Models
    batch_size: BatchSize = None
    _ready: dict[tuple[str, Precision], Any] = field(default_factory=dict, repr=False)

    def network(self, kind: str, precision: Precision = "float32") -> Any:
        """Return the network of a kind as it is to be run, compiled where the execution says so.

        Raises:
            ModelError: there is none.
        """
        found: Any = getattr(self.models, kind)
        if found is None:
            raise ModelError(f"the method needs a network of kind {kind!r}, and none was given")
        return self._run(kind, found, precision)

    def inverting(self, precision: Precision = "float32") -> Any:
        """Return the generator with what its codes start from, likewise."""
        return self._run("inverting", self.models.inverting(), precision)

    def _run(self, name: str, network: Any, precision: Precision) -> Any:
        from viewgen.networks.precision import at_precision

        if (name, precision) not in self._ready:
            self._ready[name, precision] = self.models.execution.accelerate(at_precision(network, precision))
        return self._ready[name, precision]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResources(Resources):
    """What a view source of a training step is built from; `models.encoder` is the encoder as it trains.

    Attributes:
        average_gradients: replaces gradients of parameters by their means over the processes of the training.
        memory: views of a cache, where the source reads one.
    """

    average_gradients: Callable[[Iterable[Any]], None]
    memory: ViewMemory | None = None


def in_training(resources: Resources, name: str) -> TrainingResources:
    """Return the resources of a training step, for a source that is built from those only.

    Raises:
        UsageError: views are made for a cache or a measurement.
    """
    if not isinstance(resources, TrainingResources):
        raise UsageError(
            f"{name} views are made in a training step only; use them with `viewgen train --generated {name}`"
        )
    return resources


def _as_given(settings: Any, situation: Situation) -> Any:
    return settings


def _nothing(settings: Any) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewEntry(Entry):
    """Registry entry of a view source; `build` takes its settings and `Resources`.

    Its `needs` are networks by kind, ``"inversions"`` if it starts from refined codes, ``"cache"`` if it
    reads views, and ``"training"`` if it is built beside an encoder that trains only.

    Attributes:
        num_views: views of an image where the source fixes their number.
        columns: arrays that it always writes beside those that every cache has.
        keeps_codes: whether the codes of its views can be stored too, as its column ``w_plus``.
        settle: settings and situation → settings in which nothing is left open, such as ``"auto"``.
        optional: settings → those of its needs that the source does without.
    """

    num_views: int | None = None
    columns: tuple[Column, ...] = ()
    keeps_codes: bool = False
    settle: Callable[[Any, Situation], Any] = field(default=_as_given)
    optional: Callable[[Any], frozenset[str]] = field(default=_nothing)

    def uses(self, settings: Any) -> frozenset[str]:
        """Return what of its needs the source uses with some settings."""
        return self.needs - self.optional(settings)
