"""Plots of an experiment: bars with intervals, curves, scatter with correlation, heat maps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from viewgen.picture import write_png
from viewgen_train.experiment.document import Scatter
from viewgen_train.experiment.grid import SYMBOLS
from viewgen_train.experiment.statistics import (
    Correlation,
    correlation,
    rank_correlation,
    resampled_correlation,
)
from viewgen_train.experiment.summary import RowSummary, Summary, is_share, measure_label

__all__ = [
    "axis_label",
    "draw_bars",
    "draw_curves",
    "draw_heat_map",
    "draw_scatter",
    "heat_maps",
    "new_figure",
    "row_value",
    "save_figure",
    "scaled",
    "scatter_correlation",
]

CURVES = ("knn5_top1", "probe_top1")
DPI = 110


def scaled(measure: str, values: Any) -> Any:
    """Return values of a measure as they are drawn: shares in percent."""
    return 100 * np.asarray(values) if is_share(measure) else np.asarray(values)


def axis_label(measure: str) -> str:
    """Return the label of a measure's axis."""
    return measure_label(measure) + (", %" if is_share(measure) else "")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    write_png(pixels[..., :3].copy(), path)


def new_figure(width: float, height: float) -> Any:
    """Return a figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def draw_bars(summary: Summary, measures: Sequence[str], path: Path) -> bool:
    """Draw the mean of every row with its 95 % interval, and every training as a dot.

    Returns:
        False if no row has any of the measures; nothing is written then.
    """
    shown = [one for one in measures if any(row.values.get(one) for row in summary.rows.values())]
    if not shown:
        return False
    labels = [row.row.label for row in summary.rows.values()]
    figure = new_figure(4.2 + 3.2 * len(shown), 1.2 + 0.34 * len(labels))
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for panel, measure in zip(panels, shown, strict=True):
        seen: list[float] = []
        for place, row in enumerate(summary.rows.values()):
            found = row.spread(measure)
            if found is None:
                continue
            values = scaled(measure, list(row.values[measure].values()))
            mean = float(scaled(measure, found.mean))
            colour = "0.35" if row is summary.baseline else "C0"
            panel.barh(place, mean, color=colour, alpha=0.35, height=0.7)
            panel.plot(values, [place] * len(values), ".", color=colour, markersize=4)
            seen += [*values]
            if not math.isnan(found.low):
                half = float(scaled(measure, found.mean - found.low))
                panel.errorbar(mean, place, xerr=half, color=colour, capsize=3, lw=1.4)
                seen += [mean - half, mean + half]
        panel.set_xlabel(f"{axis_label(measure)} (95 % interval)")
        panel.grid(axis="x", alpha=0.3)
        low, high = min(seen), max(seen)
        room = 0.15 * (high - low) or 1.0
        # bars from a value, not from 0: what is compared are differences
        low, high = low - room, high + room
        # an interval of few trainings may reach where no share is
        panel.set_xlim(*((max(low, 0.0), min(high, 100.0)) if is_share(measure) else (low, high)))
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    save_figure(figure, path)
    return True


def draw_curves(summary: Summary, path: Path) -> bool:
    """Draw accuracy over epochs, the mean of each row's trainings; False if none was measured twice."""

    def is_line(name: str) -> bool:
        return any(len(mean_curve(row.curves.get(name, {}))) > 1 for row in summary.rows.values())

    names = [one for one in CURVES if is_line(one)]
    if not names:
        return False
    figure = new_figure(5.6 * len(names) + 2.6, 4.6)
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for panel, name in zip(panels, names, strict=True):
        for place, row in enumerate(summary.rows.values()):
            found = mean_curve(row.curves.get(name, {}))
            if not found:
                continue
            style = {"color": "k", "lw": 2.2} if row is summary.baseline else {"color": f"C{place % 10}"}
            line = "-" if place < 10 else "--"
            epochs, values = zip(*found, strict=True)
            panel.plot(epochs, scaled(name, values), line, label=row.row.label, **style)
        panel.set(xlabel="epoch", ylabel=axis_label(name))
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    save_figure(figure, path)
    return True


def mean_curve(curves: Mapping[int, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return (epoch, mean over trainings), at the epochs that all trainings have measured."""
    tables = [dict(points) for points in curves.values() if points]
    if not tables:
        return []
    shared = set(tables[0]).intersection(*tables[1:])
    return [(epoch, fmean(table[epoch] for table in tables)) for epoch in sorted(shared)]


def row_value(summary: Summary, row: RowSummary, measure: str) -> float | None:
    """Return the mean of a measure over a row's trainings, or that of its cache."""
    found = row.spread(measure)
    if found is not None:
        return found.mean
    cache = summary.caches.get(row.row.cache or "")
    return None if cache is None else cache.mean(measure)


def scatter_points(summary: Summary, pair: Scatter) -> list[tuple[str, float, float]]:
    """Return (label, x, y) of the chosen rows, or their trainings, that have both measures."""
    rows = [
        row for name, row in summary.rows.items() if not pair.rows or {name, row.row.group} & set(pair.rows)
    ]
    if pair.over == "trainings":
        found = []
        for row in rows:
            x, y = row.values.get(pair.x, {}), row.values.get(pair.y, {})
            found += [(row.row.label, x[seed], y[seed]) for seed in sorted(x.keys() & y.keys())]
        return found
    means = [
        (row.row.label, row_value(summary, row, pair.x), row_value(summary, row, pair.y)) for row in rows
    ]
    return [(label, x, y) for label, x, y in means if x is not None and y is not None]


def scatter_correlation(summary: Summary, pair: Scatter) -> Correlation | None:
    """Return the correlation of a plot's two measures with its interval; None below three points."""
    points = scatter_points(summary, pair)
    if len(points) < 3:
        return None
    correlate = rank_correlation if pair.correlation == "spearman" else correlation
    x, y = [one[1] for one in points], [one[2] for one in points]
    return resampled_correlation(x, y, correlate) if pair.over == "trainings" else correlate(x, y)


def draw_scatter(summary: Summary, pair: Scatter, path: Path) -> bool:
    """Draw one measure over another; False for fewer than three points with both."""
    points, found = scatter_points(summary, pair), scatter_correlation(summary, pair)
    if found is None:
        return False
    figure = new_figure(6.4, 4.4)
    panel = figure.subplots()
    labels = [label for label, _, _ in points]
    for place, (label, at_x, at_y) in enumerate(points):
        where = (float(scaled(pair.x, at_x)), float(scaled(pair.y, at_y)))
        panel.plot(*where, "o", color="C0")
        if label not in labels[:place]:
            panel.annotate(label, where, xytext=(4, 3), textcoords="offset points", fontsize=7)
    interval = "" if math.isnan(found.low) else f" ({found.low:.2f} to {found.high:.2f})"
    panel.set(
        xlabel=axis_label(pair.x),
        ylabel=axis_label(pair.y),
        title=f"{found.symbol} = {found.r:.2f}{interval}, {found.count} {pair.over}",
    )
    panel.margins(0.15)
    panel.grid(alpha=0.3)
    save_figure(figure, path)
    return True


def heat_maps(summary: Summary) -> dict[str, tuple[str, str]]:
    """Return group of rows → its two axes, for the groups whose grid has two with several values."""
    found = {}
    for group in dict.fromkeys(row.row.group for row in summary.rows.values()):
        rows = [row for row in summary.rows.values() if row.row.group == group]
        axes = [axis for axis in rows[0].row.axes if len({str(one.row.axes[axis]) for one in rows}) > 1]
        if len(axes) == 2 and _is_grid(rows, axes):
            found[group] = (axes[0], axes[1])
    return found


def _is_grid(rows: Sequence[RowSummary], axes: Sequence[str]) -> bool:
    """Return whether the rows are a grid of two axes, and not pairs of values."""
    sides = [len({str(row.row.axes[axis]) for row in rows}) for axis in axes]
    return len(rows) > max(sides)


def draw_heat_map(summary: Summary, group: str, axes: tuple[str, str], measure: str, path: Path) -> bool:
    """Draw the mean of a measure over a grid of two axes; False if no row has it."""
    rows = [row for row in summary.rows.values() if row.row.group == group and row.spread(measure)]
    if not rows:
        return False
    first, second = (
        [*{str(value): value for row in rows for value in (row.row.axes[axis],)}.values()] for axis in axes
    )
    table = np.full((len(first), len(second)), np.nan)
    for row in rows:
        found = row.spread(measure)
        assert found is not None
        place = (first.index(row.row.axes[axes[0]]), second.index(row.row.axes[axes[1]]))
        table[place] = scaled(measure, found.mean)
    figure = new_figure(2.6 + 0.9 * len(second), 1.9 + 0.6 * len(first))
    panel = figure.subplots()
    image = panel.imshow(table, cmap="viridis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for line, column in np.argwhere(~np.isnan(table)):
        value = table[line, column]
        colour = "w" if value < middle else "k"
        panel.text(column, line, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    panel.set_yticks(range(len(first)), map(str, first))
    panel.set_xticks(range(len(second)), map(str, second))
    names = [axis.partition(".")[2] for axis in axes]
    panel.set(ylabel=SYMBOLS.get(names[0], names[0]), xlabel=SYMBOLS.get(names[1], names[1]))
    figure.colorbar(image, label=axis_label(measure))
    save_figure(figure, path)
    return True
