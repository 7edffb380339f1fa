"""Pictures of a concentration: curves 1 − σ(δ) with their intervals, and main parts with outliers."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from viewgen.diagnostics.concentration.measurement import Concentration
from viewgen.picture import tile

__all__ = ["draw_curves", "draw_main_parts"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHOWN = 12
MIN_SIDE = 32


def draw_curves(document: Mapping[str, Any]) -> bytes:
    """Return a PNG of the curves in a document of `concentration_json`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), dpi=120, layout="constrained")
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
    panels[0].set_title(f"{document['views']}: images outside of the main part, worst class", fontsize=10)
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
