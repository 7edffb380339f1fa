"""Draws the documentation's figures from small caches of digits: ``python docs/scripts/figures.py FOLDER``.

Caches that the folder holds already are used again.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

from viewgen.datasets import load_dataset
from viewgen.store import CacheReader
from viewgen.views.wsearch.loss import feasible_spread
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.steps import PAIRWISE_BINS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parents[1] / "figures"
NUM_IMAGES = 128
SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.4)
EPSILON = 0.3
COLOURS = {"wsearch": "#0072b2", "wperturb": "#d55e00", "expert": "#009e73"}


def make_caches(work: Path) -> dict[str, CacheReader]:
    """Return readers of the caches by name; ``wperturb-0.1`` is W-perturb with σ 0.1."""
    wanted = {"wsearch": {}, "expert": {}} | {f"wperturb-{sigma}": {"sigma": sigma} for sigma in SIGMAS}
    readers = {}
    for name, settings in wanted.items():
        url = str(work / f"{name}.zarr")
        method = name.partition("-")[0]
        limit = NUM_IMAGES if method != "wperturb" or settings["sigma"] == 0.2 else 64
        # the inversions' cache depends on the number of images
        inversions = {} if method == "expert" else {"inversions": str(work / f"inversions-{limit}.zarr")}
        cache(
            "digits", method=method, out=url, limit=limit, shard_images=64, executor="local", **inversions,
            **settings,
        )  # fmt: skip
        readers[name] = CacheReader(url)
    return readers


def pairwise(reader: CacheReader) -> tuple[float, np.ndarray]:
    """Return the mean distance between an image's views, and the counts of images by it."""
    stats = [commit.stats for commit in reader.commits.values()]
    return (
        float(np.mean([shard["mean_pairwise"] for shard in stats])),
        np.sum([shard["mean_pairwise_counts"] for shard in stats], axis=0),
    )


def draw_views(readers: dict[str, CacheReader]) -> None:
    """Three digits, and five views of each by every method."""
    rows = np.array([3, 4, 9])
    images = load_dataset("digits").images(rows)
    methods = {"expert": "expert", "wperturb-0.2": "W-perturb", "wsearch": "W-search"}
    figure, axes = plt.subplots(len(rows), 1 + 5 * len(methods), figsize=(12.4, 2.7))
    for line, row in enumerate(rows):
        pictures = [images[line]]
        for name in methods:
            pictures += list(readers[name].views(np.array([row]))[0][:5])
        for axis, picture in zip(axes[line], pictures, strict=True):
            axis.imshow(picture.transpose(1, 2, 0), cmap="gray")
            axis.set_axis_off()
    for column, title in ((0, "image"), *((3 + 5 * k, title) for k, title in enumerate(methods.values()))):
        axes[0, column].set_title(title, fontsize=11)
    save(figure, "views")


def draw_boundary(readers: dict[str, CacheReader]) -> None:
    """Distances of views from their anchor, and between the views of an image."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2))
    for name, title in (
        ("expert", "expert (from the image)"),
        ("wperturb-0.2", "W-perturb, σ 0.2"),
        ("wsearch", "W-search"),
    ):
        colour = COLOURS[name.partition("-")[0]]
        reader = readers[name]
        distance = reader.distance[reader.rows].ravel()
        left.hist(distance, np.linspace(0, 0.8, 81), histtype="step", lw=1.6, label=title, color=colour)
        if name != "expert":
            _, counts = pairwise(reader)
            right.stairs(counts, PAIRWISE_BINS, lw=1.6, label=title, color=colour)
    left.axvline(EPSILON, color="k", ls=":", lw=1)
    left.annotate("ε₁", (EPSILON, 1), xycoords=("data", "axes fraction"), xytext=(3, -12),
                  textcoords="offset points")  # fmt: skip
    left.set_yscale("log")
    left.set(xlabel="distance from the anchor", ylabel="views")
    bound = feasible_spread(EPSILON, 8)
    right.axvline(bound, color="k", ls="--", lw=1)
    right.annotate(f"bound {bound:.3f}", (bound, 1), xycoords=("data", "axes fraction"), xytext=(4, -12),
                   textcoords="offset points")  # fmt: skip
    right.set(xlabel="mean distance between an image's views", ylabel="images", xlim=(0, 1.2))
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    save(figure, "boundary")


def draw_feasible() -> None:
    """The largest spread that n views on a sphere of radius ε₁ can have."""
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    counts = np.arange(2, 33)
    for epsilon, style in ((0.2, "-"), (0.3, "-"), (0.4, "-")):
        axis.plot(counts, [feasible_spread(epsilon, n) for n in counts], style, label=f"ε₁ = {epsilon}")
    axis.axhline(0.5, color="k", ls=":", lw=1)
    axis.annotate("ε₂ = 0.5", (32, 0.5), xytext=(-46, 4), textcoords="offset points", fontsize=9)
    axis.set(xlabel="views per image, n", ylabel="largest mean pairwise distance", ylim=(0, 0.9))
    axis.legend(frameon=False)
    save(figure, "feasible")


def draw_sigma(readers: dict[str, CacheReader]) -> None:
    """What σ does to W-perturb's views."""
    rows = np.arange(3)
    figure = plt.figure(figsize=(9.6, 3.0))
    grid = figure.add_gridspec(3, len(SIGMAS) + 6, wspace=0.08, hspace=0.08)
    for column, sigma in enumerate(SIGMAS):
        views = readers[f"wperturb-{sigma}"].views(rows)[:, 0]
        for line in range(3):
            axis = figure.add_subplot(grid[line, column])
            axis.imshow(views[line].transpose(1, 2, 0))
            axis.set_axis_off()
            if not line:
                axis.set_title(f"{sigma:g}", fontsize=10)
    axis = figure.add_subplot(grid[:, len(SIGMAS) + 1 :])
    distances = [readers[f"wperturb-{sigma}"].distance for sigma in SIGMAS]
    axis.errorbar(
        SIGMAS,
        [values.mean() for values in distances],
        [values.std() for values in distances],
        fmt="o-",
        color=COLOURS["wperturb"],
        capsize=3,
        label="from the anchor, ± sd",
    )
    axis.plot(SIGMAS, [pairwise(readers[f"wperturb-{sigma}"])[0] for sigma in SIGMAS], "s--",
              color="0.35", label="between views")  # fmt: skip
    axis.set(xlabel="σ", ylabel="distance", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    save(figure, "sigma")


def save(figure: plt.Figure, name: str) -> None:
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def main() -> None:
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    readers = make_caches(work)
    draw_views(readers)
    draw_boundary(readers)
    draw_feasible()
    draw_sigma(readers)
    for name in ("wsearch", "wperturb-0.2", "expert"):
        distance = readers[name].distance
        print(f"{name}: distance {distance.mean():.3f} ± {distance.std():.3f}", end="")
        print("" if name == "expert" else f", between views {pairwise(readers[name])[0]:.3f}")


if __name__ == "__main__":
    main()
