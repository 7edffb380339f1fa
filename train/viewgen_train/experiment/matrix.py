"""Rows of several groups beside each other: where groups share one axis, a table of its values by groups."""

from collections.abc import Mapping, Sequence

from viewgen_train.experiment.grid import SYMBOLS, axis_text
from viewgen_train.experiment.page import TableBlock
from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.summary import RowSummary, Summary, is_share, mean_cell, measure_label

__all__ = ["matrices"]

# fewer values than these are read as well from the table of all rows
LEAST_VALUES = 3


def matrices(plan: ExperimentPlan, summary: Summary, measures: Sequence[str]) -> list[tuple[str, TableBlock]]:
    """Return the title and the table of every measure, for each axis of which groups have values in common.

    Args:
        plan: the experiment.
        summary: its rows.
        measures: measures that the page shows.
    """
    found = []
    for axis, groups in _shared(summary).items():
        values = dict.fromkeys(text for rows in groups.values() for text in rows)
        common = [text for text in values if sum(text in rows for rows in groups.values()) > 1]
        if not common or len(values) < LEAST_VALUES:
            continue
        name = axis.partition(".")[2]
        labels = [plan.document.rows[group].label or group for group in groups]
        titles = [SYMBOLS.get(name, name), *(labels if len({*labels}) == len(labels) else groups)]
        for measure in measures:
            lines = [[text, *(_cell(rows.get(text), measure) for rows in groups.values())] for text in values]
            label = measure_label(measure) + (", %" if is_share(measure) else "")
            found.append((f"{label}, by {titles[0]}", TableBlock(titles, lines)))
    return found


def _shared(summary: Summary) -> dict[str, dict[str, dict[str, RowSummary]]]:
    """Return axis → group → value → row, for the groups whose grid has one axis."""
    found: dict[str, dict[str, dict[str, RowSummary]]] = {}
    for one in summary.rows.values():
        if len(one.row.axes) == 1:
            (axis,) = one.row.axes
            places = found.setdefault(axis, {}).setdefault(one.row.group, {})
            places[axis_text(one.row.axes[axis])] = one
    for axis, groups in found.items():
        for one in summary.rows.values():
            if not one.row.axes:
                _take_in(one, axis, groups)
    return found


def _take_in(single: RowSummary, axis: str, groups: Mapping[str, dict[str, RowSummary]]) -> None:
    """Add a row without a grid, such as the baseline, to a group from which it differs in the axis alone."""
    owner, _, name = axis.partition(".")
    if owner != "train" or name not in single.row.train:
        return
    for rows in groups.values():
        other = next(iter(rows.values())).row
        settings = [
            {key: value for key, value in row.train.items() if key != name} for row in (single.row, other)
        ]
        if settings[0] == settings[1] and single.row.cache == other.cache:
            rows.setdefault(axis_text(single.row.train[name]), single)


def _cell(row: RowSummary | None, measure: str) -> str:
    return "–" if row is None else mean_cell(row, measure) or "–"
