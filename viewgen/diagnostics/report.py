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


def measure_table(measured: Sequence[Measured]) -> Any:
    """Return measures for a terminal of any width: a heading for what is measured on what, its numbers below.

    The part of `Measure.on` before a semicolon goes to the heading; what follows stands beside the number.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sections: dict[tuple[str, str, str], list[tuple[Measure, str]]] = {}
    for row in measured:
        context, _, remark = row.measure.on.partition("; ")
        key = (row.diagnostic, row.measure.group, context)
        sections.setdefault(key, []).append((row.measure, remark))
    widest = max((len(row.measure.name) for row in measured), default=0)
    number = max((len(_number(row.measure.value)) for row in measured), default=0)
    parts: list[Any] = []
    for (diagnostic, group, context), rows in sections.items():
        title = ", ".join(part for part in (diagnostic, group) if part)
        parts.append(Text.assemble((title, "bold"), "  " if title and context else "", (context, "dim")))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, min_width=widest + 2, overflow="fold")
        table.add_column(no_wrap=True, min_width=number)
        table.add_column(overflow="fold")
        for measure, remark in rows:
            known = measure.low is not None and measure.high is not None
            interval = f"{measure.low:.4g} … {measure.high:.4g}" if known else ""
            beside = "   ".join(part for part in (interval, remark) if part)
            table.add_row(f"  {measure.name}", _number(measure.value), beside)
        parts.append(table)
    return Group(*parts)


def _number(value: float) -> str:
    return f"{value:.4g}"


def over_seeds(measured: Sequence[Measured]) -> list[Measured]:
    """Return one measure over all seeds of each: their mean, with the interval from lowest to highest."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for row in measured:
        key = (row.diagnostic, row.measure.group, row.measure.name)
        groups.setdefault(key, []).append(row)
    return [found[0] if len(found) == 1 else _mean(found) for found in groups.values()]


def _mean(found: Sequence[Measured]) -> Measured:
    """Return the mean over the seeds."""
    first = found[0].measure
    values = [row.measure.value for row in found]
    context, semicolon, remark = first.on.partition("; ")
    seeds = f"{len(found)} seeds"
    return Measured(
        diagnostic=found[0].diagnostic,
        seed=found[0].seed,
        measure=Measure(
            name=first.name,
            value=sum(values) / len(values),
            low=min(values),
            high=max(values),
            on=(f"{context}, {seeds}" if context else seeds) + semicolon + remark,
            group=first.group,
        ),
    )
