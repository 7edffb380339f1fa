"""Draw accuracy over the steps of trainings: ``python docs/scripts/training.py PICTURE RUN [RUN...]``.

Runs named alike up to ``-seed1``, ``-seed2`` … share a colour; their mean is drawn thick.
"""

import csv
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#000000", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00"]


def read_accuracy(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps, and the 5-NN accuracy on the test images after them in per cent."""
    with (Path(folder) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["knn5_top1"]]
    return (
        np.array([int(row["step"]) + 1 for row in rows]),
        np.array([100 * float(row["knn5_top1"]) for row in rows]),
    )


def main() -> None:
    picture, *folders = sys.argv[1:]
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for folder in sorted(folders, key=lambda folder: (not Path(folder).name.startswith("none"), folder)):
        groups.setdefault(re.sub(r"-seed\d+$", "", Path(folder).name), []).append(read_accuracy(folder))
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    for (name, curves), colour in zip(groups.items(), COLOURS, strict=False):
        for steps, accuracy in curves:
            axis.plot(steps, accuracy, color=colour, lw=0.6, alpha=0.5)
        mean = np.mean([accuracy for _, accuracy in curves], axis=0)
        axis.plot(curves[0][0], mean, color=colour, lw=1.8, marker="o", ms=3, label=name)
    axis.set(xlabel="steps", ylabel="5-NN, test images [%]")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(picture, dpi=110, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
