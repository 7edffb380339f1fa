"""Histograms and small charts as inline SVG, drawn on the server; colours come from the style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bars", "Mark", "bar_chart", "bin_values"]

WIDTH, HEIGHT = 420, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 6, 6, 18, 20
MOST_FOR_PERCENTILES = 100_000
# width of a character in a name
_CHARACTER = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Counts in equal bins.

    Attributes:
        counts: values per bin, `(B,)`.
        low: left edge of the first bin.
        high: right edge of the last bin.
        outside: number of values beyond the edges.
    """

    counts: NDArray[Any]
    low: float
    high: float
    outside: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A vertical line at a value of interest, such as ε₁."""

    value: float
    name: str


def bin_values(values: NDArray[Any], *, num_bins: int = 40, include: Sequence[float] = ()) -> Bars | None:
    """Count finite values in equal bins that cover them and `include`; None without a finite value.

    The bins end at the 0.5th and 99.5th percentile, widened a little: otherwise a few outliers would squeeze
    the rest into one bin. The percentiles of many values are those of an evenly spread part of them.
    """
    finite = np.asarray(values).ravel()
    known = np.isfinite(finite)
    if not known.all():
        finite = finite[known]
    if not finite.size:
        return None
    part = finite[:: max(1, finite.size // MOST_FOR_PERCENTILES)].astype(np.float64)
    low, high = (float(edge) for edge in np.percentile(part, [0.5, 99.5]))
    margin = max(0.05 * (high - low), 1e-9)
    low, high = max(low - margin, float(finite.min())), min(high + margin, float(finite.max()))
    low, high = min(low, *include, math.inf), max(high, *include, -math.inf)
    if include or high <= low:
        margin = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
        low, high = low - margin, high + margin
        if finite.min() >= 0:
            low = max(low, 0.0)
    counts, _ = np.histogram(finite, bins=num_bins, range=(low, high))
    return Bars(counts=counts, low=float(low), high=float(high), outside=int(finite.size - counts.sum()))


def bar_chart(
    bars: Bars | None,
    *,
    title: str,
    unit: str = "",
    marks: Sequence[Mark] = (),
    noun: str = "images",
    categories: Sequence[str] = (),
) -> str:
    """Return an SVG chart, or a sentence if there is nothing to draw.

    Args:
        bars: counts to draw, or None.
        title: title, which a screen reader reads first.
        unit: text appended to the numbers of the axis.
        marks: lines to draw.
        noun: plural noun for the counted objects.
        categories: names of the bars, for bars that an interval of the axis does not describe.
    """
    if bars is None or not bars.counts.any():
        return '<p class="nothing">Nothing to show yet.</p>'
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    base = HEIGHT - _BOTTOM
    peak = float(bars.counts.max())
    step = plot_width / len(bars.counts)
    bin_width = (bars.high - bars.low) / len(bars.counts)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_description(bars, title, unit, marks, noun), quote=True)}">'
    ]
    for number, count in enumerate(bars.counts.tolist()):
        if not count:
            continue
        height = max(plot_height * count / peak, 1.0)
        first = bars.low + number * bin_width
        what = categories[number] if categories else f"{_short(first)} – {_short(first + bin_width)}{unit}"
        amount = f"{count:,}" if isinstance(count, int) else f"{count:,.3g}"
        parts.append(
            f'<rect class="bar" x="{_LEFT + number * step:.2f}" y="{base - height:.2f}" '
            f'width="{max(step - 1, 0.8):.2f}" height="{height:.2f}">'
            f"<title>{escape(what)}: {amount} {escape(noun)}</title></rect>"
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{WIDTH - _RIGHT}" y2="{base}"/>')
    parts += _axis_labels(bars, unit, base, plot_width)
    parts += _mark_lines(bars, marks, base, plot_width)
    return "".join([*parts, "</svg>"])


def _axis_labels(bars: Bars, unit: str, base: int, plot_width: int) -> list[str]:
    parts = []
    for value in _ticks(bars.low, bars.high):
        x = _LEFT + plot_width * (value - bars.low) / (bars.high - bars.low)
        anchor = "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{base + 14}" text-anchor="{anchor}">'
            f"{_short(value)}{escape(unit)}</text>"
        )
    return parts


def _mark_lines(bars: Bars, marks: Sequence[Mark], base: int, plot_width: int) -> list[str]:
    parts = []
    inside = sorted((mark for mark in marks if bars.low <= mark.value <= bars.high), key=lambda m: m.value)
    free = math.inf
    for number, mark in reversed(list(enumerate(inside))):
        x = _LEFT + plot_width * (mark.value - bars.low) / (bars.high - bars.low)
        text = f"{mark.name} {_short(mark.value)}"
        # of two marks, the names go to either side, so that they do not meet; at the edge both stand before
        before = x > WIDTH - 90 or (number == 0 and len(inside) > 1 and x > 90)
        place = min(x - 4, free) if before else x + 4
        free = place - _CHARACTER * (len(text) + 1) if before else free
        parts.append(
            f'<line class="mark" x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{base}"/>'
            f'<text class="mark-name" x="{place:.1f}" y="{_TOP - 6}" '
            f'text-anchor="{"end" if before else "start"}">{escape(text)}</text>'
        )
    return parts


def _description(bars: Bars, title: str, unit: str, marks: Sequence[Mark], noun: str) -> str:
    peak = int(bars.counts.argmax())
    width = (bars.high - bars.low) / len(bars.counts)
    said = "".join(f"; {mark.name} is {_short(mark.value)}" for mark in marks)
    return (
        f"{title}: from {_short(bars.low)} to {_short(bars.high)}{unit}, most {noun} near "
        f"{_short(bars.low + (peak + 0.5) * width)}{unit}{said}"
    )


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers between two values."""
    raw = (high - low) / wanted
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


def _short(value: float) -> str:
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e−").replace("e-", "e−")
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
