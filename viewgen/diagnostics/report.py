"""Formats of measures: terminal table, JSON, CSV, TensorBoard."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.diagnostics.measure import Measure

__all__ = ["Measured", "csv_text", "measure_table", "over_seeds", "to_json", "write_tensorboard"]

COLUMNS = ("diagnostic", "seed", "group", "name", "value", "low", "high", "on")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A measure and its origin.

    Attributes:
        diagnostic: name of the diagnostic.
        seed: seed of the diagnostic.
        measure: the number.
    """

    diagnostic: str
    seed: int
    measure: Measure

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values; non-finite numbers become None."""
        values = {"diagnostic": self.diagnostic, "seed": self.seed, **self.measure.to_json()}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


def to_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return one JSON object for each measure."""
    return [row.to_json() for row in measured]


def csv_text(measured: Sequence[Measured]) -> str:
    """Return CSV with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in measured:
        writer.writerow(row.to_json())
    return text.getvalue()


def write_tensorboard(measured: Sequence[Measured], folder: str | Path) -> None:
    """Write scalars ``diagnostic/group/name``, with the seed as their step."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    try:
        for row in measured:
            tag = "/".join(part for part in (row.diagnostic, row.measure.group, row.measure.name) if part)
            writer.add_scalar(tag, row.measure.value, row.seed)
    finally:
        writer.close()


def _widest(measures: Sequence[Measure], title: str) -> int | None:
    """Return the width of a column of numbers; None for words, which may wrap."""
    if title == "value":
        return max((len(f"{measure.value:.4g}") for measure in measures), default=None)
    return len("-0.0000 … -0.0000") if title == "interval" else None


def measure_table(measures: Sequence[Measure]) -> Any:
    """Return measures as a `rich` table, with a column for intervals if there are any."""
    from rich.table import Table

    intervals = any(measure.low is not None for measure in measures)
    table = Table(box=None, header_style="bold")
    for title in ("", "measure", "value", *(["interval"] if intervals else []), "on"):
        # where the terminal is narrow, words wrap and numbers stay whole
        number = title in ("value", "interval")
        table.add_column(title, no_wrap=number, overflow="fold", min_width=_widest(measures, title))
    for measure in measures:
        cells = [measure.group, measure.name, f"{measure.value:.4g}"]
        if intervals:
            known = measure.low is not None and measure.high is not None
            cells.append(f"{measure.low:.4g} … {measure.high:.4g}" if known else "")
        table.add_row(*cells, measure.on)
    return table


def over_seeds(measured: Sequence[Measured]) -> list[Measure]:
    """Return one measure over all seeds of each: their mean, with the interval from lowest to highest."""
    groups: dict[tuple[str, str, str], list[Measure]] = {}
    for row in measured:
        key = (row.diagnostic, row.measure.group, row.measure.name)
        groups.setdefault(key, []).append(row.measure)
    return [
        found[0]
        if len(found) == 1
        else Measure(
            name=found[0].name,
            value=sum(measure.value for measure in found) / len(found),
            low=min(measure.value for measure in found),
            high=max(measure.value for measure in found),
            on=f"{found[0].on}, {len(found)} seeds".removeprefix(", "),
            group=found[0].group,
        )
        for found in groups.values()
    ]
