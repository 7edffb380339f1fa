"""Registry entries of objectives. This module does not import torch, which takes seconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from viewgen.registry import Entry

__all__ = ["ALL_COMBINATORS", "CONSTANT_UNDER_IFM", "NO_NEGATIVES", "ObjectiveEntry"]

ALL_COMBINATORS = frozenset({"A1", "A2", "IFM", "hard negatives"})
NO_NEGATIVES = dict.fromkeys(("IFM", "hard negatives"), "it has no negatives")
CONSTANT_UNDER_IFM = {
    "IFM": "its denominator has no positive, so that a perturbation of size ε only adds a constant to it"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveEntry(Entry):
    """Registry entry of an objective; the argument of `build` is its settings.

    `needs` names the outputs used besides projections: ``"features"``, ``"patches"``, ``"images"``,
    ``"views"``, ``"labels"``.

    Attributes:
        bears: combinators that support this objective, of `ALL_COMBINATORS`.
        weighted: True if A2 over this objective weights generated views by α.
        only_a2: settings that have an effect only in A2.
        pair_weights: True if it multiplies the loss of each pair by `Outputs.weights`.
        check: function of the objective's settings and those of the optimiser, a
            `viewgen_train.settings.OptimiserSettings`, that raises `UsageError` if they do not fit.
        reasons: reasons against the other combinators, by combinator, for error messages.
    """

    bears: frozenset[str] = frozenset({"A1", "A2"})
    weighted: bool = True
    only_a2: frozenset[str] = frozenset()
    pair_weights: bool = False
    check: Callable[[Any, Any], None] | None = None
    reasons: Mapping[str, str] = field(default_factory=lambda: NO_NEGATIVES)
