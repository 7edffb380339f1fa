"""Cost of the stages of a cache, from a few images that are made on this machine.

A stage of few steps is run to its end on the images. One that would take long is stopped after a few updates,
and its cost is extrapolated to the largest number of updates: a bound, since most images end earlier.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewgen.datasets import ImageDataset
from viewgen.device import available_cores
from viewgen.diagnostics.generated import spread
from viewgen.networks.batched import images_at_once
from viewgen.networks.files import Models, load_models
from viewgen.progress import duration_text
from viewgen.registry import Choice
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.offline import Batch, offline_step
from viewgen_pipelines.shards.plan import CachePlan

__all__ = ["MethodRun", "StageCost", "cache_costs", "cost_lines", "expected_workers", "stage_costs"]

NUM_IMAGES = 8
PROBE_STEPS = 2
ENOUGH_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRun:
    """One method of a cache, in the order of its stages.

    Attributes:
        method: view method with its settings.
        num_views: V.
        num_images: number of images that are still to be made.
    """

    method: Choice[ViewEntry]
    num_views: int
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """Estimated time of one stage of a cache.

    Attributes:
        stage: name of the method.
        num_images: number of images to be made.
        seconds: time of all of them.
        at_most: True if the time is a bound, for images that all take the largest number of updates.
        measured_images: number of images that were made for the estimate.
        device: measured device.
        workers: number of workers that share the images.
    """

    stage: str
    num_images: int
    seconds: float
    at_most: bool
    measured_images: int
    device: str
    workers: int

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def expected_workers(executor: str, workers: int | None, num_shards: int) -> int:
    """Return the number of workers that an executor of this machine will have for so many shards."""
    if executor == "local":
        return 1
    at_hand = torch.cuda.device_count() or available_cores()
    return max(1, min(workers or at_hand, num_shards))


def cost_lines(costs: Sequence[StageCost]) -> list[str]:
    """Describe the cost of the stages of a cache."""
    parts = [
        f"{cost.stage} {'at most ' if cost.at_most else 'about '}{duration_text(cost.seconds)}"
        for cost in costs
        if cost.num_images
    ]
    if not parts:
        return ["time: nothing is left to be made"]
    first = costs[0]
    what = f"{first.workers} worker{'s' * (first.workers > 1)} on {first.device}"
    images = " and ".join(str(cost.measured_images) for cost in costs if cost.num_images)
    lines = [f"time: {', '.join(parts)}, for {what}; measured on {images} images"]
    if any(cost.at_most for cost in costs):
        lines.append("  at most: if every image takes all max_steps updates; most end earlier")
    return lines


def cache_costs(plan: CachePlan, pending: Sequence[int], *, workers: int, device: str) -> list[StageCost]:
    """Return the cost of the stages of a cache.

    Args:
        plan: plan of the cache.
        pending: number of images that are still to be made, stage by stage.
        workers: number of workers.
        device: torch device.
    """
    paths = {kind: Path(path) for stage in plan.stages for kind, path in stage.model_paths.items()}
    runs = [
        MethodRun(method=stage.method, num_views=stage.spec.num_views, num_images=count)
        for stage, count in zip(plan.stages, pending, strict=True)
    ]
    return stage_costs(runs, load_models(paths, device), plan.dataset, workers=workers)


def stage_costs(
    runs: Sequence[MethodRun],
    models: Models,
    images: ImageDataset,
    *,
    workers: int,
    to_the_end: bool = True,
    seed: int = 0,
) -> list[StageCost]:
    """Return the cost of methods of which a later one starts from the codes of an earlier one.

    Args:
        runs: methods in their order.
        models: networks, on their device.
        images: source images.
        workers: number of workers that share the images; each of several has one thread on a processor.
        to_the_end: False to extrapolate every search from a few updates.
        seed: root of all random numbers.
    """
    # a group of images with one view each takes as long as one such image
    group = images_at_once(images.image_size, models.device)
    counts = [group if run.num_views == 1 else NUM_IMAGES for run in runs]
    rows = spread(len(images), max(counts))
    threads = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        batch = images.batch(rows)
        found = []
        for run, count in zip(runs, counts, strict=True):
            part = spread(len(rows), count)
            measured = {name: values[part] for name, values in batch.items()}
            seconds, outputs, at_most = _timed(run, models, measured, seed, to_the_end)
            found.append(
                StageCost(
                    stage=run.method.name,
                    num_images=run.num_images,
                    seconds=seconds * run.num_images / len(part) / workers,
                    at_most=at_most,
                    measured_images=len(part),
                    device=str(models.device),
                    workers=workers,
                )
            )
            if "anchor_w_plus" in outputs:
                # of the images that were inverted
                batch = measured | {
                    "anchor_w_plus": outputs["anchor_w_plus"],
                    "anchor_error": outputs["inversion_error"],
                }
                rows = rows[part]
        return found
    finally:
        torch.set_num_threads(threads)


def _timed(
    run: MethodRun, models: Models, batch: Batch, seed: int, to_the_end: bool
) -> tuple[float, Batch, bool]:
    """Return the seconds of a method on a batch, its outputs, and True if the seconds are a bound."""
    settings = run.method.settings
    most = getattr(settings, "max_steps", 0)
    brief = settings.replace(max_steps=min(PROBE_STEPS, most)) if most else settings
    seconds, outputs = _clock(_step(run, brief, models, seed), batch)
    if most <= PROBE_STEPS:
        return seconds, outputs, False
    bound = seconds * (most + 1) / (PROBE_STEPS + 1)
    if not to_the_end or bound > ENOUGH_SECONDS:
        return bound, outputs, True
    return *_clock(_step(run, settings, models, seed), batch), False


def _step(run: MethodRun, settings: Any, models: Models, seed: int) -> Callable[[Batch], Batch]:
    resources = Resources(models=models)
    source = Choice(run.method.entry, settings).build(resources)
    return offline_step(source, resources, seed=seed, num_views=run.num_views)


def _clock(make: Callable[[Batch], Batch], batch: Batch) -> tuple[float, Batch]:
    started = time.perf_counter()
    outputs = make(batch)  # arrays on the CPU, so the device has finished
    seconds = time.perf_counter() - started
    return seconds, {name: np.asarray(values) for name, values in outputs.items()}
