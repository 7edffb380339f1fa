"""Registry entries of objectives. This module does not import torch, which takes seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from viewgen.registry import Entry

__all__ = ["ObjectiveEntry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveEntry(Entry):
    """Registry entry of an objective; the argument of `build` is its settings.

    `needs` names the outputs used besides projections: ``"features"``, ``"patches"``, ``"images"``,
    ``"views"``.

    Attributes:
        bears: assimilations that support this objective.
        weighted: True if A2 over this objective weights generated views by α.
        only_a2: settings that have an effect only in A2.
        pair_weights: True if it multiplies the loss of each pair by `Outputs.weights`.
        check: function of the objective's settings and those of the optimiser, a
            `viewgen_train.settings.OptimiserSettings`, that raises `UsageError` if they do not fit.
        reason: reason against other assimilations, for error messages.
    """

    bears: frozenset[str] = frozenset({"A1", "A2"})
    weighted: bool = True
    only_a2: frozenset[str] = frozenset()
    pair_weights: bool = False
    check: Callable[[Any, Any], None] | None = None
    reason: str = "it says so"
