"""Sweeps: accuracy over what views share, along a strength of the views, with a quadratic.

Tian et al. expect a reverse U: too little shared, and what the task needs is missing; too much, and views
share noise besides. The sweet spot is the row of the highest mean accuracy. Least squares fit
y = a + b·x + c·x²; a reverse U is said to be shown only if the interval of c lies below 0 and the top inside
the range of x. Trainings of one row count as independent. Rows with an I_NCE within 1 nat of its ceiling
share at least so much; they are named, and drawn hollow.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 3, https://arxiv.org/abs/2005.10243
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viewgen_train.experiment.document import Sweep
from viewgen_train.experiment.plots import axis_label, new_figure, save_figure, scaled
from viewgen_train.experiment.statistics import student_quantile
from viewgen_train.experiment.summary import RowSummary, Summary, is_share, measure_label

__all__ = ["Quadratic", "draw_sweep", "fit_quadratic", "sweep_rows", "sweep_words"]

NUM_COEFFICIENTS = 3
GROUP_COLOURS = ("C0", "C1", "C2", "C4", "C5")  # C3 is the sweet spot's


@dataclass(frozen=True, kw_only=True, slots=True)
class Quadratic:
    """y = a + b·x + c·x² through pairs of values.

    Attributes:
        coefficients: a, b, c.
        curvature_low, curvature_high: 95 % interval of c by Student's t.
        peak: place −b / 2c of the extreme.
        peak_low, peak_high: 95 % interval of the place, by Student's t and linearised in b and c.
        low, high: smallest and largest x.
        count: number of pairs.
    """

    coefficients: tuple[float, float, float]
    curvature_low: float
    curvature_high: float
    peak: float
    peak_low: float
    peak_high: float
    low: float
    high: float
    count: int

    @property
    def is_reverse_u(self) -> bool:
        """True if the curve bends down, beyond its interval, and has its top inside the range of x."""
        return self.curvature_high < 0 and self.low < self.peak < self.high


def fit_quadratic(x: Sequence[float], y: Sequence[float]) -> Quadratic | None:
    """Return the least-squares quadratic through pairs; None for fewer than four, or three values of x."""
    count = len(x)
    if count <= NUM_COEFFICIENTS or len(set(x)) < NUM_COEFFICIENTS:
        return None
    at_x, at_y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    # around the mean, in deviations: powers of x alone are nearly the same column
    middle, width = float(at_x.mean()), float(at_x.std())
    powers = np.stack([((at_x - middle) / width) ** power for power in range(NUM_COEFFICIENTS)], axis=1)
    fitted, *_ = np.linalg.lstsq(powers, at_y)
    residual = at_y - powers @ fitted
    variance = float(residual @ residual) / (count - NUM_COEFFICIENTS)
    covariance = variance * np.linalg.inv(powers.T @ powers)
    quantile = student_quantile(count - NUM_COEFFICIENTS)
    slope, bend = float(fitted[1]), float(fitted[2])
    half = quantile * math.sqrt(covariance[2, 2])
    peak = -slope / (2 * bend) if bend else math.nan
    gradient = np.array([-1 / (2 * bend), slope / (2 * bend**2)]) if bend else np.full(2, math.nan)
    spread = quantile * math.sqrt(float(gradient @ covariance[1:, 1:] @ gradient)) if bend else math.nan
    c = bend / width**2
    b = slope / width - 2 * c * middle
    a = float(fitted[0]) - slope * middle / width + c * middle**2
    return Quadratic(
        coefficients=(a, b, c),
        curvature_low=(bend - half) / width**2,
        curvature_high=(bend + half) / width**2,
        peak=middle + width * peak,
        peak_low=middle + width * (peak - spread),
        peak_high=middle + width * (peak + spread),
        low=float(at_x.min()),
        high=float(at_x.max()),
        count=count,
    )


def sweep_rows(summary: Summary, sweep: Sweep) -> list[RowSummary]:
    """Return the rows of a sweep that have both measures: grid by grid, in the order of each."""
    return [
        row
        for group in (sweep.row, *sweep.beside)
        for row in summary.rows.values()
        if row.row.group == group and row.spread(sweep.x) and row.spread(sweep.y)
    ]


def _trainings(rows: Sequence[RowSummary], sweep: Sweep) -> list[tuple[float, float]]:
    """Return (x, y) of every training that has both measures."""
    return [
        (row.values[sweep.x][seed], row.values[sweep.y][seed])
        for row in rows
        for seed in sorted(row.values[sweep.x].keys() & row.values[sweep.y].keys())
    ]


def _is_saturated(row: RowSummary, sweep: Sweep) -> bool:
    """Return whether any training of a row has a saturated value on the horizontal axis."""
    return any(row.values.get(f"{sweep.x}_saturated", {}).values())


def _mean(row: RowSummary, measure: str) -> float:
    found = row.spread(measure)
    assert found is not None
    return found.mean


def draw_sweep(summary: Summary, sweep: Sweep, path: Path) -> bool:
    """Draw a sweep: means of the rows in their order, every training, the sweet spot and the quadratic.

    Returns:
        False for fewer than three rows with both measures; nothing is written then.
    """
    rows = sweep_rows(summary, sweep)
    if len(rows) < NUM_COEFFICIENTS:
        return False
    points = _trainings(rows, sweep)
    figure = new_figure(6.4, 4.6)
    panel = figure.subplots()
    panel.plot(
        scaled(sweep.x, [one[0] for one in points]),
        scaled(sweep.y, [one[1] for one in points]),
        ".",
        color="0.7",
        markersize=4,
        label="trainings",
    )
    means = [
        (float(scaled(sweep.x, _mean(row, sweep.x))), float(scaled(sweep.y, _mean(row, sweep.y))))
        for row in rows
    ]
    groups = [row.row.group for row in rows]
    single = {group for group in groups if groups.count(group) == 1}  # plain rows, which have no order
    if single:
        panel.plot([], [], "o", color="C0", label="means of the rows")
    for number, group in enumerate(dict.fromkeys(groups)):
        colour = "C0" if group in single else GROUP_COLOURS[number % len(GROUP_COLOURS)]
        along = [place for row, place in zip(rows, means, strict=True) if row.row.group == group]
        name = "means, in the order of the sweep" if not sweep.beside else f"{group}: means, in its order"
        if group not in single:
            panel.plot(*zip(*along, strict=True), "-", color=colour, lw=1, label=name)
        for row, place in zip(rows, means, strict=True):
            if row.row.group == group:
                face = "w" if _is_saturated(row, sweep) else colour
                panel.plot(*place, "o", color=colour, markerfacecolor=face)
                panel.annotate(row.row.label, place, xytext=(4, 3), textcoords="offset points", fontsize=7)
    best = max(range(len(rows)), key=lambda number: means[number][1])
    panel.plot(*means[best], "*", color="C3", markersize=13, label="sweet spot")
    found = fit_quadratic([one[0] for one in points], [one[1] for one in points])
    if found is not None:
        grid = np.linspace(found.low, found.high, 100)
        a, b, c = found.coefficients
        panel.plot(
            scaled(sweep.x, grid),
            scaled(sweep.y, a + b * grid + c * grid**2),
            "--",
            color="0.4",
            label="quadratic",
        )
    panel.set(xlabel=axis_label(sweep.x), ylabel=axis_label(sweep.y))
    panel.margins(0.12)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
    save_figure(figure, path)
    return True


def sweep_words(summary: Summary, sweep: Sweep) -> list[str]:
    """Return sentences about a sweep: its sweet spot, and whether a reverse U is shown."""
    rows = sweep_rows(summary, sweep)
    if len(rows) < NUM_COEFFICIENTS:
        return []
    x, y = measure_label(sweep.x), measure_label(sweep.y)
    best = max(rows, key=lambda row: _mean(row, sweep.y))
    factor, unit = (100, " %") if is_share(sweep.y) else (1, "")
    order = sorted(rows, key=lambda row: _mean(row, sweep.x))
    inside = best is not order[0] and best is not order[-1]
    where = "between the ends" if inside else "at an end"
    words = [
        f"Sweep of {', '.join((sweep.row, *sweep.beside))}: {y} is highest for {best.row.label} "
        f"({factor * _mean(best, sweep.y):.2f}{unit}), at {x} {_mean(best, sweep.x):.2f}, {where} of the "
        f"range {_mean(order[0], sweep.x):.2f} to {_mean(order[-1], sweep.x):.2f}."
    ]
    saturated = [row.row.label for row in rows if _is_saturated(row, sweep)]
    if saturated:
        words.append(
            f"Within 1 nat of the ceiling of {x}, which says at least so much: {', '.join(saturated)}. Their "
            "order along the axis means nothing; a larger batch raises the ceiling."
        )
    points = _trainings(rows, sweep)
    found = fit_quadratic([one[0] for one in points], [one[1] for one in points])
    if found is None:
        return [*words, "Too few trainings for a quadratic."]
    interval = f"{factor * found.curvature_low:.3g} to {factor * found.curvature_high:.3g}".replace("-", "−")
    if found.is_reverse_u:
        told = (
            f"A reverse U of {y} over {x} is shown: the quadratic's curvature lies within {interval}{unit} "
            f"per nat², its top at {found.peak:.2f} ({found.peak_low:.2f} to {found.peak_high:.2f})"
        )
    else:
        told = (
            f"No reverse U of {y} over {x} is shown: the quadratic's curvature lies within {interval}{unit} "
            "per nat²"
        )
        if found.curvature_high < 0:
            told += f", and its top at {found.peak:.2f} is outside of the range"
    return [*words, f"{told}; {found.count} trainings, taken as independent."]
