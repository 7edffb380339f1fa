"""The protocol of a diagnostic: parts of a subject in, measures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from viewgen.errors import DataError, MissingFileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from viewgen.datasets import ImageDataset
    from viewgen.diagnostics.features import Features
    from viewgen.diagnostics.mutual_information.pairs import Pairs
    from viewgen.networks.encoder import Encoder
    from viewgen.networks.files import Models
    from viewgen.roles import Role
    from viewgen.views.expert import ExpertConfig

__all__ = ["PARTS", "Diagnostic", "Measure", "Subject", "ViewPair"]

T = TypeVar("T")

# name → what it is; a diagnostic needs some of them
PARTS = {
    "train": "images that probes and neighbours learn from",
    "test": "images held out",
    "encoder": "network f",
    "trainable": "network f with its batch normalisations, to be trained on",
    "vectors": "features by name, computed by f or read from a file",
    "generator": "network g",
    "inverter": "network e",
    "inverting": "network g with the start of its codes, which may be network e",
    "discriminator": "network that the generator was trained against",
    "expert": "strength of the expert transform",
    "pairs": "pairs of views of the same images",
    "cache": "reader of a cache of views",
    "inversions": "reader of the cache of inversions that the views start from",
    "run": "folder of a training",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number.

    Attributes:
        name: name of the measure, with the feature network in brackets where there is one.
        value: the number.
        low: lower end of the interval around it, or None.
        high: upper end of the interval around it, or None.
        on: images measured, with their counts.
        group: distinction from other measures of the same name: a network, an attribute, a pair of views.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    on: str = ""
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPair:
    """Two kinds of view to compare.

    Attributes:
        x: name of the first kind.
        y: name of the second kind.
        views: source of the pairs.
        roles: roles of both views, if they are images of different kinds; empty if they are alike.
    """

    x: str
    y: str
    views: Pairs
    roles: tuple[Role, ...] = ()

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.x}, {self.y}"


class Diagnostic(Protocol):
    """Measures a subject.

    Attributes:
        needs: names of the required `PARTS`.
    """

    needs: frozenset[str]

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the measures; the same seed gives the same numbers."""
        ...


class Subject:
    """Object of a measurement; each part is built once, on a diagnostic's first request.

    Args:
        parts: name of `PARTS` → function that builds it; its exception says why a part is unavailable.
        name: name of the subject.
        device: torch device of networks and features.
        batch_size: images embedded at once.
        tell: progress callback, called with (task, amount done, total).
    """

    def __init__(
        self,
        parts: Mapping[str, Callable[[], Any]],
        *,
        name: str = "",
        device: torch.device | str = "cpu",
        batch_size: int = 512,
        tell: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        self.name, self.device, self.batch_size, self.tell = name, device, batch_size, tell
        self._makers = dict(parts)
        self._made: dict[str, Any] = {}
        self.notes: list[str] = []
        self.files: dict[str, bytes] | None = None
        self.columns: dict[str, NDArray[np.float32]] = {}

    def keep_column(self, name: str, source_index: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Keep a number for each of some images of a cache, beside its scores if the caller asked for them.

        Args:
            name: name of the score.
            source_index: rows of the data set, `(M,)`; images that the cache lacks are passed over.
            values: their numbers, `(M,)`; other images get NaN.
        """
        import numpy as np

        reader = self.part("cache")
        order = np.argsort(source_index)
        place = np.searchsorted(source_index, reader.source_index, sorter=order).clip(max=len(order) - 1)
        there = source_index[order[place]] == reader.source_index
        column = np.full(reader.spec.num_images, np.nan, np.float32)
        column[reader.rows[there]] = values[order[place[there]]]
        self.columns[name] = column

    def keep_file(self, name: str, make: Callable[[], bytes]) -> None:
        """Keep a file of results, such as a plot, where the caller has asked for files.

        Args:
            name: name of the file.
            make: function that returns its contents, called only if they are kept.
        """
        if self.files is not None:
            self.files[name] = make()

    def note(self, text: str) -> None:
        """Record, once, a note for readers of the measures: what could not be measured, and why."""
        if text not in self.notes:
            self.notes.append(text)

    def part(self, name: str) -> Any:
        """Return a part.

        Raises:
            UsageError: the subject has no such part.
            ViewgenError: it cannot be built.
        """
        if name not in self._made:
            if name not in self._makers:
                what = PARTS.get(name, "no part that is known")
                raise UsageError(f"{self.name or 'the subject'} has no {name!r} ({what})")
            self._made[name] = self._makers[name]()
        return self._made[name]

    def has(self, name: str) -> bool:
        """Return True if a part is available."""
        return self.missing([name]) == {}

    def missing(self, needs: Any) -> dict[str, str]:
        """Return the unavailable ones of `needs`, with the reason."""
        found = {}
        for name in sorted(needs):
            try:
                self.part(name)
            except (UsageError, MissingFileError, DataError) as error:
                found[name] = str(error)
        return found

    def derived(self, name: str, make: Callable[[], T]) -> T:
        """Return a value that several diagnostics derive from the parts, computed once per name."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    @property
    def train(self) -> ImageDataset:
        """Training images of probes and nearest neighbours."""
        found: ImageDataset = self.part("train")
        return found

    @property
    def test(self) -> ImageDataset:
        """Held-out images."""
        found: ImageDataset = self.part("test")
        return found

    @property
    def encoder(self) -> Encoder:
        """Network f, in evaluation mode."""
        found: Encoder = self.part("encoder")
        return found

    @property
    def expert(self) -> ExpertConfig:
        """Strength of the expert transform."""
        found: ExpertConfig = self.part("expert")
        return found

    @property
    def pairs(self) -> list[ViewPair]:
        """Pairs of views of the same images."""
        found: list[ViewPair] = self.part("pairs")
        return found

    def models(self, *kinds: str) -> Models:
        """Return the networks of the available kinds, on the device."""
        from viewgen.networks.files import Models

        at_hand = {kind: self.part(kind) for kind in kinds if self.has(kind)}
        import torch

        return Models(device=torch.device(self.device), **at_hand)

    @property
    def features(self) -> tuple[Features, Features]:
        """Backbone features of all images of both splits."""
        return self.derived("features", self._features)

    def _features(self) -> tuple[Features, Features]:
        from viewgen.diagnostics.features import extract_features

        splits = (self.train, self.test)
        total, done = sum(map(len, splits)), 0

        def embedded(count: int) -> None:
            nonlocal done
            done += count
            self.tell("features", done, total)

        train, test = (
            extract_features(
                self.encoder, split, batch_size=self.batch_size, device=self.device, progress=embedded
            )
            for split in splits
        )
        return train, test
