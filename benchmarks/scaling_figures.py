"""The pictures of `scaling.py`; each says in its title that it is simulated, or what is measured."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#e69f00", "#999999"]
SHARES = {
    "work": "work",
    "slow": "half-speed workers",
    "start": "start",
    "overhead": "driver and requests",
    "failures": "failures",
    "log": "opening the log",
    "idle": "idle at the end",
}
_SHARE_COLOURS = ["#0072b2", "#56b4e9", "#999999", "#e69f00", "#d55e00", "#cc79a7", "#dddddd"]
_TIMES = {"minute": 60, "hour": 3600, "day": 86400, "30 days": 30 * 86400}


def _words(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:g} {letter}"
    return str(number)


def _plain(axis: Any, ticks: list[int]) -> None:
    axis.set_ticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


def _time_axis(axes: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_ticks(list(_TIMES.values()), list(_TIMES))
    axes.minorticks_off()


def draw_workers(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time and efficiency by the number of workers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    runs = sweeps["workers, dynamic"]
    workers = sorted({run["num_workers"] for run in runs})
    for colour, images in zip(COLOURS, sorted({run["num_images"] for run in runs}), strict=False):
        seconds, efficiency, static = (
            [run[key] if key == "seconds" else run["shares"]["work"] for run in sweep]
            for key, sweep in (
                ("seconds", [run for run in runs if run["num_images"] == images]),
                ("work", [run for run in runs if run["num_images"] == images]),
                ("work", [run for run in sweeps["workers, static"] if run["num_images"] == images]),
            )
        )
        ideal = [seconds[0] / count for count in workers]
        left.plot(workers, ideal, color=colour, linewidth=0.8, linestyle=":")
        left.plot(workers, seconds, "o-", color=colour, label=f"{_words(images)} images")
        right.plot(workers, efficiency, "o-", color=colour, label=f"{_words(images)}, dynamic")
        right.plot(workers, static, "x--", color=colour, linewidth=1, label=f"{_words(images)}, static")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        _plain(axes.xaxis, workers)
        axes.set_xlabel("workers")
        axes.grid(alpha=0.3)
    _time_axis(left)
    left.set_title("time of a run (dotted: one worker's time, divided)")
    left.legend()
    right.set_ylim(0, 1)
    right.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    right.set_title("share of the workers' time that is work")
    right.legend(fontsize=8, loc="lower left")
    figure.suptitle(
        "Simulated: shards of 512 images, 5 % of the workers at half speed, one failure a day each"
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_shards(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Where the workers' time goes, by the number of images in a shard."""
    names = [name for name in sweeps if name.startswith("shards")]
    figure, grid = plt.subplots(
        2, 2, figsize=(11, 6.6), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axes, name in zip(grid.flat, names, strict=True):
        runs = sweeps[name]
        bottom = np.zeros(len(runs))
        for (key, label), colour in zip(SHARES.items(), _SHARE_COLOURS, strict=True):
            values = np.array([max(run["shares"][key], 0) for run in runs])
            axes.bar(range(len(runs)), values, bottom=bottom, color=colour, label=label, width=0.85)
            bottom += values
        for place, run in enumerate(runs):
            text = f"{run['shares']['work']:.0%}"
            axes.text(place, run["shares"]["work"] / 2, text, ha="center", va="center", color="w", fontsize=8)
        axes.set_xticks(range(len(runs)), [str(run["shard_images"]) for run in runs])
        _, workers, speed = name.split(", ")
        factor = float(speed.removeprefix("speed "))
        pace = "recorded speed" if factor == 1 else f"{factor:g} × the recorded speed"
        axes.set_title(f"{_words(runs[0]['num_images'])} images, {workers}, {pace}")
    grid[0, 0].set_ylim(0, 1)
    grid[0, 0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    for axes in grid[1]:
        axes.set_xlabel("images per shard")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of the workers' time")
    figure.suptitle("Simulated: where the workers' time goes")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_log(document: dict[str, Any], log: dict[str, Any], path: Path) -> None:
    """What the commit log costs: opening it, and beginning a shard beside its markers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    times = document["times"]
    records = np.geomspace(1000, 1_000_000, 30)
    local = log["local_disk"]
    for form, colour, cost in zip(
        ("single", "compacted"), (COLOURS[2], COLOURS[0]), times["list_record"], strict=True
    ):
        measured = [entry["seconds"][f"list {form}"] for entry in local]
        counts = [entry["records"] for entry in local]
        slope = measured[-1] / counts[-1]
        left.plot(counts, measured, "o", color=colour, label=f"{form}, local disk, measured")
        left.plot(records, slope * records, color=colour, linewidth=1, label="… in proportion")
        label = f"{form}, object store, assumed requests"
        left.plot(records, cost * records, "--", color=colour, linewidth=1, label=label)
    left.axvline(200_000, color="k", linewidth=0.8, alpha=0.5)
    left.text(210_000, 0.045, "200,000", fontsize=8)
    left.set_title("seconds to open the log")
    left.set_xlabel("shards in the log")
    left.set_ylim(0.03, 3e4)
    left.legend(fontsize=7.5, loc="upper left")
    runs = {form: document["sweeps"][f"log, {form}"] for form in ("single", "compacted")}
    for (form, found), colour in zip(runs.items(), (COLOURS[2], COLOURS[0]), strict=True):
        shards = [run["num_images"] / run["shard_images"] for run in found]
        share = [run["shares"]["log"] + run["shares"]["overhead"] for run in found]
        right.plot(shards, share, "o-", color=colour, label=f"records and markers {form}")
    right.set_title("simulated: share of 1,024 workers' time\nfor log, markers, requests and driver")
    right.set_xlabel("shards of the run")
    right.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    right.yaxis.set_major_locator(matplotlib.ticker.MultipleLocator(0.05))
    right.set_ylim(0, None)
    right.legend(fontsize=8)
    left.set_yscale("log")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    figure.suptitle("The commit log: measured on a local disk, and simulated on an object store")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_all(document: dict[str, Any], log: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every picture; return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scaling-{name}.png" for name in ("workers", "shards", "log")]
    draw_workers(document["sweeps"], paths[0])
    draw_shards(document["sweeps"], paths[1])
    draw_log(document, log, paths[2])
    return paths
