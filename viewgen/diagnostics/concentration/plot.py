"""Pictures of concentration: curves 1 − σ(δ) with their intervals, and main parts with outliers."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from viewgen.diagnostics.concentration.measurement import Concentration
from viewgen.picture import tile

__all__ = ["draw_compared", "draw_curves", "draw_main_parts"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", ":", "-.")
SHOWN = 12
MIN_SIDE = 32


def draw_curves(document: Mapping[str, Any]) -> bytes:
    """Return a PNG of the curves in a document of `concentration_json`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.1), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    delta = np.array(document["delta"])
    by_views = document["by_num_views"]
    for number, (count, curve) in enumerate(by_views.items()):
        low, high = 1 - np.array(curve["sigma_high"]), 1 - np.array(curve["sigma_low"])
        whole = number == len(by_views) - 1
        label = {"0": "images alone", "1": "1 view"}.get(count, f"{count} views")
        colour = "#999999" if count == "0" else COLOURS[number % len(COLOURS)]
        panels[0].step(delta, high, where="post", color=colour, linewidth=2 if whole else 1, label=label)
        panels[0].fill_between(delta, low, high, step="post", color=colour, alpha=0.25, linewidth=0)
    panels[0].set_ylabel("1 − σ(δ)")
    panels[0].set_title("images outside of the main part, worst class", fontsize=10)
    figure.suptitle(_title(document), fontsize=11)
    for number, one in enumerate(document["classes"]):
        low, high = 1 - np.array(one["sigma_high"]), 1 - np.array(one["sigma_low"])
        colour = COLOURS[number % len(COLOURS)]
        panels[1].step(delta, high, where="post", color=colour, linewidth=0.8, alpha=0.7)
        panels[1].fill_between(delta, low, high, step="post", color=colour, alpha=0.1, linewidth=0)
    for name, style in (("within", "-"), ("between", "--")):
        if name in document.get("pairs", {}):
            share = 1 - np.array(document["pairs"][name])
            panels[1].plot(delta, share, style, color="black", label=f"pairs {name} classes, not within δ")
    panels[1].set_title("each class, and pairs of images", fontsize=10)
    for panel in panels:
        panel.set_xlabel("δ (pixels in [0, 1])")
        panel.set_ylim(-0.02, 1.02)
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _title(document: Mapping[str, Any]) -> str:
    """Return data set and views in words; of earlier documents, the kind of the views alone."""
    words = (document.get("dataset"), f"{document['views']} {document.get('augment') or ''}".strip())
    return ", ".join(filter(None, words))


def draw_compared(documents: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return a PNG of several concentrations: curves 1 − σ(δ) with all views, and their areas.

    Args:
        documents: label → document of `concentration_json`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(4.0, 1.2 + 0.3 * len(documents))
    figure = Figure(figsize=(10.5, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    curves, areas = figure.subplots(1, 2, width_ratios=(3, 2))
    grids = [document["delta"] for document in documents.values()]
    # samples of other images end at another δ: then in shares of it, as the areas are
    shared = all(grid == grids[0] for grid in grids)
    for number, (label, document) in enumerate(documents.items()):
        delta = np.array(document["delta"])
        at = delta if shared else delta / delta[-1]
        low, high = 1 - np.array(document["sigma_high"]), 1 - np.array(document["sigma_low"])
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        curves.step(at, high, style, where="post", color=colour, linewidth=1.4, label=label)
        curves.fill_between(at, low, high, step="post", color=colour, alpha=0.2, linewidth=0)
        area = document["area"]
        ends = [[max(0.0, area["value"] - area["low"])], [max(0.0, area["high"] - area["value"])]]
        areas.errorbar(area["value"], number, xerr=ends, fmt="o", color=colour, capsize=3)
    curves.set(
        xlabel="δ (pixels in [0, 1])" if shared else "δ in shares of its largest value", ylabel="1 − σ(δ)"
    )
    curves.set_title("images outside of the main part, worst class", fontsize=10)
    curves.set_ylim(-0.02, 1.02)
    curves.legend(fontsize=7)
    areas.set_yticks(range(len(documents)), documents, fontsize=8)
    areas.set_ylim(len(documents) - 0.5, -0.5)
    areas.set_title("area under the curve, with its interval", fontsize=10)
    for panel in (curves, areas):
        panel.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def draw_main_parts(found: Concentration) -> bytes:
    """Return a PNG with a row per class: images of its main part, then, after a gap, images outside of it.

    The main part is that of the largest share that was searched.
    """
    sample = found.sample
    share = max(found.main_parts, default=None)
    rows = []
    for label in range(sample.num_classes):
        pictures = sample.images(label)
        inside = np.zeros(len(pictures), np.bool_)
        if share is not None:
            inside = np.isin(sample.rows[label], found.main_parts[share][label].members)
        blank = np.full((1, *pictures.shape[1:]), 255, np.uint8)
        parts = [pictures[chosen][:SHOWN] for chosen in (inside, ~inside)]
        filled = [
            np.concatenate([part, np.repeat(blank, SHOWN - len(part), axis=0)]) if len(part) < SHOWN else part
            for part in parts
        ]
        rows.append(np.concatenate([filled[0], blank, filled[1]]))
    images = np.concatenate(rows)
    if images.shape[1] != 3:
        images = np.repeat(images[:, :1], 3, axis=1)
    scale = max(1, MIN_SIDE // images.shape[-1])
    data = io.BytesIO()
    Image.fromarray(tile(images, 2 * SHOWN + 1, scale=scale)).save(data, format="PNG")
    return data.getvalue()
