"""The value of one estimator."""

from dataclasses import dataclass, replace

__all__ = ["Bound", "at_least_zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """One estimator's value on the held-out scores, in nats.

    Attributes:
        nats: the estimate.
        low: lower end of its confidence interval.
        high: upper end of its confidence interval.
        saturated: True if the estimate is too near to the estimator's ceiling to show a larger value.
        below_zero: value on the held-out scores if that is below 0, where `nats` is 0; else None.
    """

    nats: float
    low: float
    high: float
    saturated: bool = False
    below_zero: float | None = None


def at_least_zero(bound: Bound) -> Bound:
    """Return the bound with 0 in place of a negative value; equal scores for all pairs would read 0."""
    if bound.nats >= 0:
        return replace(bound, low=max(bound.low, 0.0))
    return replace(bound, nats=0.0, low=0.0, high=max(bound.high, 0.0), below_zero=bound.nats)
