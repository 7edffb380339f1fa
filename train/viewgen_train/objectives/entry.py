"""Registry entries of objectives; free of torch, which takes seconds to import."""

from dataclasses import dataclass

from viewgen.registry import Entry

__all__ = ["ObjectiveEntry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveEntry(Entry):
    """Registry entry of an objective; `build` takes its settings.

    Its `needs` are the outputs that it reads besides projections: ``"features"``, ``"images"``, ``"views"``.

    Attributes:
        bears: assimilations that can be built on it.
        weighted: whether A2 over it weighs generated views by α.
        only_a2: settings that have an effect in A2 only.
        reason: why it bears no others, for messages.
    """

    bears: frozenset[str] = frozenset({"A1", "A2"})
    weighted: bool = True
    only_a2: frozenset[str] = frozenset()
    reason: str = "it says so"
