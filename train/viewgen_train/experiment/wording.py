"""Sentences about results, written from the numbers alone.

A difference is called one only where its interval leaves out 0; otherwise the sentence says that none is
shown, and how large a difference would have fitted. Whether a measure is better when it is higher is not
judged here: "higher" and "lower" are all that is said.
"""

import math
from collections.abc import Sequence

from viewgen_train.experiment.statistics import Correlation, Paired

__all__ = ["answer", "chance_line", "correlation_words", "difference_cell", "summary_lines"]

# trainings below which an interval rests on too little
FEW = 3
MOST_DECIMALS = 5


def answer(found: Paired | None, row: str, against: str, measure: str, *, points: bool = True) -> str:
    """Return the answer to whether a row differs from another.

    Args:
        found: paired differences row − against.
        row, against: labels of the rows.
        measure: label of the measure.
        points: True if the measure is a share, told in percentage points.
    """
    if found is None:
        return f"Not known: {row} and {against} have no finished training with the same seed."
    unit, scale = (" points", 100.0) if points else ("", 1.0)
    digits = _decimals(found, scale)
    interval = _interval(found, scale)
    record = _record(found)
    if found.count < 2:
        return (
            f"Not known: one training of each. {row} is {_signed(found.mean * scale)}{unit} from {against} "
            f"in {measure}, and what another seed would change was not measured."
        )
    few = f" {found.count} trainings are few." if found.count < FEW else ""
    if found.low > 0 or found.high < 0:
        word = "higher" if found.mean > 0 else "lower"
        return (
            f"{row} is {word} than {against} in {measure}: by {abs(found.mean) * scale:.{digits}f}{unit} "
            f"({interval}), {record}.{few}"
        )
    return (
        f"No difference in {measure} is shown between {row} and {against}: "
        f"{_signed(found.mean * scale, digits)}{unit} on average, and the interval {interval} holds 0; "
        f"{record}. Differences within that interval are not ruled out.{few}"
    )


def difference_cell(found: Paired | None, *, points: bool = True) -> str:
    """Return a paired difference for a table: mean, interval, wins; empty without pairs."""
    if found is None:
        return ""
    scale = 100.0 if points else 1.0
    if found.count < 2:
        return f"{_signed(found.mean * scale)} (one pair)"
    mean = _signed(found.mean * scale, _decimals(found, scale))
    return f"{mean} ({_interval(found, scale)}), {found.wins} of {found.count}"


def summary_lines(differences: Sequence[tuple[str, Paired | None]], baseline: str, measure: str) -> list[str]:
    """Return what the intervals of all rows say together.

    Args:
        differences: (label of a row, its paired difference to the baseline).
        baseline: label of the baseline.
        measure: label of the measure.
    """
    known = [(label, one) for label, one in differences if one is not None and one.count > 1]
    if not known:
        return []
    parts = {
        "higher than": [label for label, one in known if one.low > 0],
        "lower than": [label for label, one in known if one.high < 0],
        "not shown to differ from": [label for label, one in known if one.low <= 0 <= one.high],
    }
    return [
        f"In {measure}, {len(labels)} of {len(known)} rows {'is' if len(labels) == 1 else 'are'} {words} "
        f"{baseline}: {'; '.join(labels)}."
        for words, labels in parts.items()
        if labels
    ]


def chance_line(count: int) -> str:
    """Return what chance alone does to so many intervals of rows, all of their measures together."""
    return (
        f"Each interval is that of one row and measure alone: of {count} that equal the baseline, "
        f"{0.05 * count:.1g} would leave out 0 by chance, on average."
    )


def correlation_words(found: Correlation, x: str, y: str, *, over: str = "rows") -> str:
    """Return what a correlation over rows, or trainings, says."""
    if math.isnan(found.r):
        return f"{x} and {y}: no correlation, because one of them does not vary over the {over}."
    value = f"{x} and {y}: {found.symbol} = {found.r:.2f}".replace("= -", "= −")
    if math.isnan(found.low):
        return f"{value} over {found.count} {over}, too few for an interval."
    shown = "" if found.low > 0 or found.high < 0 else ", which holds 0: no correlation is shown"
    interval = f"{found.low:.2f} to {found.high:.2f}".replace("-", "−")
    return f"{value} ({interval}) over {found.count} {over}{shown}."


def _record(found: Paired) -> str:
    ties = f", {found.ties} equal" if found.ties else ""
    return f"higher in {found.wins} of {found.count} trainings{ties}"


def _interval(found: Paired, scale: float) -> str:
    digits = _decimals(found, scale)
    return f"{_signed(found.low * scale, digits)} to {_signed(found.high * scale, digits)}"


def _decimals(found: Paired, scale: float) -> int:
    """Return decimals that show two digits of half the interval, and at least two."""
    half = (found.high - found.low) / 2 * scale
    if not half > 0 or not math.isfinite(half):
        return 2
    return min(MOST_DECIMALS, max(2, 1 - math.floor(math.log10(half))))


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
