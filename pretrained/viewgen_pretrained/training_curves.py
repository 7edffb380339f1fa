"""Curves of a network's training: ``curves.png`` beside ``metrics.csv``, redrawn during training."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from viewgen.picture import write_png
from viewgen_train.curves import read_series

__all__ = ["TrainingCurves", "draw_training_curves"]

# panel: metric → label
PANELS: dict[str, dict[str, str]] = {
    "encoder: contrastive loss": {"loss": "loss"},
    "generator: adversarial loss": {"d_loss": "discriminator", "g_loss": "generator"},
    "generator: R1, squared gradient norm": {"r1": "R1"},
    "generator: sign of logits on images": {"real_sign": "mean sign", "ada_p": "ADA's probability p"},
    "generator: path length": {"path_length": "running mean"},
    "inverter: reconstruction loss": {"pixel": "pixels", "perceptual": "discriminator features"},
    "inverter: adversarial loss": {"adversarial": "inverter", "critic": "critic"},
    "flow: I_NCE of the views, nats": {"i_nce": "I_NCE"},
    "flow: cross-entropy of the classes, nats": {
        "cross_entropy_first": "first view",
        "cross_entropy_rest": "second view",
    },
    "flow: least standard deviation of a channel": {"least_deviation": "least deviation"},
}
DRAWING_PAUSE_SECONDS = 30.0
LONGEST_LINE = 200


class TrainingCurves:
    """A `viewgen_train.loop.Observer` that draws the curves at checkpoints and at the end."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._drawn = -math.inf

    def start(self, folder: Path, first_step: int) -> None:
        """Set the folder of metrics and curves."""
        self._folder = folder

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing: the values are in ``metrics.csv``."""

    def checkpoint(self) -> None:
        """Draw the curves, unless they were drawn recently."""
        if time.monotonic() - self._drawn > DRAWING_PAUSE_SECONDS:
            self.close()
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Draw the curves."""
        if self._folder is not None:
            draw_training_curves([self._folder / "metrics.csv"], self._folder / "curves.png")


def draw_training_curves(tables: Sequence[Path], target: Path) -> None:
    """Draw the metrics of trainings as one picture, with one panel per kind of metric.

    Args:
        tables: ``metrics.csv`` of each training; missing files are skipped.
        target: path of the PNG to write; nothing is written without metrics.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = []
    for table in tables:
        series = read_series(table)
        panels += [
            (title, {label: series[name] for name, label in lines.items() if name in series})
            for title, lines in PANELS.items()
            if lines.keys() & series.keys()
        ]
    if not panels:
        return
    num_columns = min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(4.4 * num_columns, 3.0 * num_rows), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for axis, (title, lines) in zip(grid, panels, strict=False):
        for label, (steps, values) in lines.items():
            axis.plot(*_thinned(steps, values), label=label, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.3)
        axis.margins(x=0.02)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    for axis in list(grid):
        axis.set_axis_off()
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    write_png(pixels[..., :3].copy(), target)


def _thinned(steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return means over groups of consecutive points, at most `LONGEST_LINE` groups."""
    size = -(-len(steps) // LONGEST_LINE)
    starts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts
