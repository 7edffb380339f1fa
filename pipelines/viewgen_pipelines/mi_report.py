"""Results of `viewgen mi` in readable form: table, CSV, bar plot."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from viewgen.diagnostics import ESTIMATORS
from viewgen.store import Storage
from viewgen_pipelines.view_pairs import PairResult

__all__ = ["alignment_table", "caveat_lines", "csv_text", "draw_plot", "table", "write_reports"]


def _unit(bits: bool) -> tuple[str, float]:
    return ("bits", 1 / math.log(2)) if bits else ("nats", 1.0)


def _others(estimator: str) -> list[str]:
    return [name for name in ESTIMATORS.built_in if name != estimator]


def _title(estimator: str) -> str:
    return ESTIMATORS.entry(estimator).title


def _rows(pairs: Sequence[PairResult], estimator: str, bits: bool) -> list[dict[str, Any]]:
    unit, factor = _unit(bits)
    rows = []
    for pair in pairs:
        measured = pair.estimate
        row: dict[str, Any] = {"x": pair.x, "y": pair.y, "estimator": estimator, "unit": unit}
        row |= dict.fromkeys((unit, "low", "high", *_others(estimator), "held_out"))
        if measured is not None:
            row |= {
                unit: measured.nats * factor,
                "low": measured.low * factor,
                "high": measured.high * factor,
            }
            row |= {name: measured.bounds[name].nats * factor for name in _others(estimator)}
            row["held_out"] = measured.num_held_out
        row |= {name: getattr(pair, name) for name in ("alignment", "uniformity_x", "uniformity_y")}
        row["warnings"] = pair.refused if measured is None else "; ".join(measured.warnings)
        rows.append(row)
    return rows


def csv_text(pairs: Sequence[PairResult], estimator: str, *, bits: bool = False) -> str:
    """Return the results as CSV with a header line."""
    rows = _rows(pairs, estimator, bits)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
        )
    return text.getvalue()


def table(pairs: Sequence[PairResult], estimator: str, *, bits: bool = False) -> Any:
    """Return the estimates as a `rich` table; an asterisk marks a saturated reading."""
    unit, factor = _unit(bits)
    others = _others(estimator)
    grid = _grid("pair", f"{_title(estimator)}, {unit}", "interval", *map(_title, others))
    for pair in pairs:
        measured = pair.estimate
        if measured is None:
            grid.add_row(f"{pair.x}, {pair.y}", "refused")
            continue
        cells = [
            f"{bound.nats * factor:.2f}{'*' if bound.saturated else ' '}"
            for bound in (measured.bounds[name] for name in (estimator, *others))
        ]
        interval = f"{measured.low * factor:.2f} … {measured.high * factor:.2f}"
        grid.add_row(f"{pair.x}, {pair.y}", cells[0], interval, *cells[1:])
    return grid


def alignment_table(pairs: Sequence[PairResult]) -> Any:
    """Return alignment and uniformity as a `rich` table, None without an encoder."""
    measured = [pair for pair in pairs if pair.alignment is not None]
    if not measured:
        return None
    grid = _grid("pair", "alignment", "uniformity of x", "of y")
    for pair in measured:
        values = (pair.alignment, pair.uniformity_x, pair.uniformity_y)
        grid.add_row(f"{pair.x}, {pair.y}", *(f"{value:.3f}" for value in values))
    return grid


def _grid(first: str, *others: str) -> Any:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(first, no_wrap=True)
    for name in others:
        grid.add_column(name, justify="right", no_wrap=True)
    return grid


def caveat_lines(pairs: Sequence[PairResult]) -> list[str]:
    """Return every warning with the pairs that it concerns."""
    concerned: dict[str, list[str]] = {}
    for pair in pairs:
        texts = [f"refused: {pair.refused}"] if pair.estimate is None else pair.estimate.warnings
        for text in texts:
            concerned.setdefault(text, []).append(f"({pair.x}, {pair.y})")
    return [f"{' '.join(names)}: {text}" for text, names in concerned.items()]


def draw_plot(pairs: Sequence[PairResult], estimator: str, title: str, *, bits: bool = False) -> bytes:
    """Return a PNG: a bar per pair with its interval, the other estimators' readings as marks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unit, factor = _unit(bits)
    shown = [pair for pair in pairs if pair.estimate is not None]
    figure = Figure(figsize=(7.2, 1.3 + 0.55 * max(1, len(shown))), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(shown))
    estimates = [pair.estimate for pair in shown if pair.estimate is not None]
    values = [measured.nats * factor for measured in estimates]
    errors = [
        [max(0.0, (measured.nats - measured.low) * factor) for measured in estimates],
        [max(0.0, (measured.high - measured.nats) * factor) for measured in estimates],
    ]
    axes.barh(places, values, height=0.6, color="#9db8d9", label=f"{_title(estimator)}, 95 %")
    if values:
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="#1f3552", elinewidth=1.6, capsize=4)
    for name, marker, colour in zip(
        _others(estimator), "D^sv", ("#b5532a", "#3a7d44", "#7a4a8c", "#555555"), strict=False
    ):
        readings = [measured.bounds[name].nats * factor for measured in estimates]
        axes.plot(readings, places, marker, color=colour, markersize=5, label=_title(name))
    axes.set_yticks(list(places), [f"{pair.x}, {pair.y}" for pair in shown])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"mutual information, held out [{unit}]")
    axes.set_title(title, fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def write_reports(
    storage: Storage, estimator: str, pairs: Sequence[PairResult], dataset: str, *, bits: bool = False
) -> None:
    """Write ``mi.csv`` and ``mi.png`` beside the results."""
    storage.write("mi.csv", csv_text(pairs, estimator, bits=bits).encode())
    if any(pair.estimate is not None for pair in pairs):
        held_out = max(pair.estimate.num_held_out for pair in pairs if pair.estimate is not None)
        title = f"{dataset}: what the views share, on {held_out:,} held-out images"
        storage.write("mi.png", draw_plot(pairs, estimator, title, bits=bits))
