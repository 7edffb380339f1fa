"""Logging of a training: ``curves.png``, and whatever loggers were chosen."""

import csv
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from viewgen.picture import write_png
from viewgen_train.loggers import Logger, open_logger

__all__ = ["CurveWriter", "draw_curves", "read_series"]

# metric: (panel, label)
PANELS: dict[str, tuple[int, str]] = {
    "loss": (0, "loss"),
    "viewmaker_loss": (0, "Viewmaker's loss"),
    "knn5_top1": (1, "5-NN, test images"),
    "knn5_heldout": (1, "5-NN, held-out training images"),
    "knn5_r2_top1": (1, "R² of 5-NN, test images"),
    "knn5_r2_heldout": (1, "R² of 5-NN, held-out training images"),
    "probe_top1": (1, "linear probe, test images"),
    "probe_heldout": (1, "linear probe, held-out training images"),
    "learning_rate": (2, "learning rate"),
}
DRAWING_PAUSE_SECONDS = 20.0
TITLES = ("loss", "accuracy", "learning rate")


class CurveWriter:
    """A `viewgen_train.loop.Observer` that passes metrics on, and draws curves now and then.

    Args:
        steps_per_epoch: number of steps per epoch, the unit of the curves' horizontal axis.
        loggers: names of loggers, of `viewgen_train.loggers.LOGGERS`.
    """

    def __init__(self, steps_per_epoch: int, loggers: Sequence[str] = ()) -> None:
        self._steps_per_epoch = steps_per_epoch
        self._folder: Path | None = None
        self._names = tuple(loggers)
        self._loggers: list[Logger] = []
        self._drawn = math.inf

    def start(self, folder: Path, first_step: int) -> None:
        """Open the loggers; they go on from `first_step`."""
        self._folder, self._drawn = folder, time.monotonic()
        for name in self._names:
            self._loggers.append(open_logger(name, folder, first_step))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass scalars on."""
        for logger in self._loggers:
            logger.log(step + 1, values)

    def checkpoint(self) -> None:
        """Flush what was logged, and draw the curves if that was long ago."""
        for logger in self._loggers:
            logger.flush()
        if time.monotonic() - self._drawn > DRAWING_PAUSE_SECONDS:
            self._draw()

    def close(self) -> None:
        """Close the loggers."""
        for logger in self._loggers:
            logger.close()
        self._draw()

    def _draw(self) -> None:
        if self._folder is not None:
            draw_curves(self._folder, self._steps_per_epoch)
            self._drawn = time.monotonic()


def draw_curves(folder: Path, steps_per_epoch: int) -> None:
    """Draw ``curves.png`` of a run's ``metrics.csv``: loss, accuracy and learning rate by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_series(folder / "metrics.csv")
    figure = Figure(figsize=(13, 3.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(TITLES))
    for panel, title in zip(panels, TITLES, strict=True):
        panel.set_title(title)
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
        panel.margins(x=0.02)
    for metric, (place, label) in PANELS.items():
        for name in (one for one in series if one.partition("[")[0] == metric):
            steps, values = series[name]
            marker = "o" if place == 1 else None
            # of one attribute: knn5_top1[digit]
            told = label + name.removeprefix(metric).replace("[", ", ").replace("]", "")
            panels[place].plot(steps / steps_per_epoch, values, label=told, marker=marker, markersize=3)
    for panel in panels:
        if len(panel.get_lines()) > 1:
            panel.legend()
    if panels[1].get_lines():
        panels[1].set_ylim(top=min(1.0, panels[1].get_ylim()[1]))
    else:
        panels[1].text(0.5, 0.5, "not measured yet", ha="center", transform=panels[1].transAxes)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    write_png(pixels[..., :3].copy(), folder / "curves.png")


def read_series(path: Path) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return metric → (steps done, values), over the rows of a ``metrics.csv`` that have the metric."""
    points: dict[str, list[tuple[int, float]]] = {}
    if path.exists():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name != "step" and text:
                        points.setdefault(name, []).append((int(row["step"]) + 1, float(text)))
    return {name: tuple(np.array(pairs).T) for name, pairs in points.items()}
