"""What a diagnostic is: parts of a subject in, measures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from viewgen.errors import DataError, MissingFileError, UsageError

if TYPE_CHECKING:
    import torch

    from viewgen.datasets import ImageDataset
    from viewgen.diagnostics.features import Features
    from viewgen.diagnostics.mutual_information.pairs import Pairs
    from viewgen.networks.encoder import Encoder
    from viewgen.networks.files import Models
    from viewgen.views.expert import ExpertConfig

__all__ = ["PARTS", "Diagnostic", "Measure", "Subject", "ViewPair"]

T = TypeVar("T")

# name → what it is; a diagnostic needs some of them
PARTS = {
    "train": "images that probes and neighbours learn from",
    "test": "images held out",
    "encoder": "network f",
    "generator": "network g",
    "inverter": "network e",
    "discriminator": "network that the generator was trained against",
    "expert": "strength of the expert transform",
    "pairs": "pairs of views of the same images",
    "cache": "reader of a cache of views",
    "run": "folder of a training",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number.

    Attributes:
        name: name of the measure; in brackets the network whose features it is taken on.
        value: the number.
        low, high: interval around it, or None.
        on: images measured, with their counts.
        group: what else tells it from others of its name: a network, an attribute, a pair of views.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    on: str = ""
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPair:
    """Two kinds of view, to be compared.

    Attributes:
        x, y: what they are called.
        views: draws them.
    """

    x: str
    y: str
    views: Pairs

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.x}, {self.y}"


class Diagnostic(Protocol):
    """Measures a subject.

    Attributes:
        needs: names of `PARTS` without which it cannot.
    """

    needs: frozenset[str]

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return what is measured; the same seed gives the same numbers."""
        ...


class Subject:
    """What is measured: its parts are made when a diagnostic asks for them, and once.

    Args:
        parts: name of `PARTS` → function that makes it; what it raises tells why the part is not at hand.
        name: what the subject is called.
        device: torch device of networks and features.
        batch_size: images embedded at once.
        tell: is told (what is done, how much of it, of how much).
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

    def note(self, text: str) -> None:
        """Keep what a reader of the measures should know, once: what could not be measured, and why."""
        if text not in self.notes:
            self.notes.append(text)

    def part(self, name: str) -> Any:
        """Return a part.

        Raises:
            UsageError: the subject has no such part.
            ViewgenError: it cannot be made.
        """
        if name not in self._made:
            if name not in self._makers:
                what = PARTS.get(name, "no part that is known")
                raise UsageError(f"{self.name or 'the subject'} has no {name!r} ({what})")
            self._made[name] = self._makers[name]()
        return self._made[name]

    def has(self, name: str) -> bool:
        """Say whether a part is at hand."""
        return self.missing([name]) == {}

    def missing(self, needs: Any) -> dict[str, str]:
        """Return those of `needs` that are not at hand, with the reason."""
        found = {}
        for name in sorted(needs):
            try:
                self.part(name)
            except (UsageError, MissingFileError, DataError) as error:
                found[name] = str(error)
        return found

    def derived(self, name: str, make: Callable[[], T]) -> T:
        """Return what several diagnostics make of the parts, made once under a name."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    @property
    def train(self) -> ImageDataset:
        """Images that probes and neighbours learn from."""
        found: ImageDataset = self.part("train")
        return found

    @property
    def test(self) -> ImageDataset:
        """Images held out."""
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
        """Return networks of the kinds that are at hand, on the device."""
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
