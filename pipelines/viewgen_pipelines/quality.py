"""View quality at the end of `viewgen cache`: a sample of its views measured, a verdict, and their record."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from viewgen.datasets import ImageDataset
from viewgen.device import resolve_device
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.report import Measured, to_json
from viewgen.diagnostics.verdict import verdict
from viewgen.errors import UsageError, ViewgenError
from viewgen.networks.files import load_model
from viewgen.progress import Progress
from viewgen.store import CacheReader, open_storage
from viewgen.store.quality import read_report, write_report
from viewgen_pipelines.shards.driver import Stage

__all__ = [
    "ViewQuality",
    "cache_quality",
    "check_strict",
    "quality_lines",
    "verdict_line",
    "view_quality",
]

NUM_IMAGES = 256
# diagnostic → its settings in the report, besides the number of images
REPORTED: dict[str, dict[str, Any]] = {
    "reach": {},
    "distinct": {},
    "label_kept": {"per_class": False},
    "realism": {},
    "diversity": {"num_lpips": 0},
    "seen": {"num_lpips": 0},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewQuality:
    """Measures of a cache's views, and what they say.

    Attributes:
        measured: measures of a sample of its images.
        verdict: reasons why the views cannot be trusted; none if nothing measured speaks against them.
        notes: quantities that could not be measured, with the reason.
    """

    measured: tuple[Measured, ...]
    verdict: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object; `from_json` is its inverse."""
        return {
            "measures": to_json(self.measured),
            "verdict": list(self.verdict),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "ViewQuality":
        """Return the measures in a document of `to_json`."""
        # JSON has no number that is none
        rows = [
            {**row, "value": math.nan if row["value"] is None else row["value"]}
            for row in document["measures"]
        ]
        return cls(
            measured=tuple(
                Measured(diagnostic=row.pop("diagnostic"), seed=row.pop("seed"), measure=Measure(**row))
                for row in rows
            ),
            verdict=tuple(document["verdict"]),
            notes=tuple(document["notes"]),
        )


def view_quality(subject: Subject, *, num_images: int = NUM_IMAGES, seed: int = 0) -> ViewQuality:
    """Measure the views of a subject with a cache by the diagnostics of the report.

    Args:
        subject: subject with the parts ``cache`` and ``train``, and as many of ``encoder`` and
            ``inversions`` as there are.
        num_images: images measured, at most.
        seed: seed of resamples and draws.
    """
    name = subject.train.name
    measured: list[Measured] = []
    notes = []
    for diagnostic, settings in REPORTED.items():
        entry = DIAGNOSTICS.entry(diagnostic)
        if subject.missing(entry.needs):
            continue
        choice = DIAGNOSTICS.resolve(diagnostic, name, {"num_images": num_images, **settings})
        try:
            found = choice.build().measure(subject, seed)
        except ViewgenError as error:
            notes.append(f"{diagnostic} was not measured: {error}")
            continue
        measured += [Measured(diagnostic=diagnostic, seed=seed, measure=measure) for measure in found]
    reasons = verdict(row.measure for row in measured)
    return ViewQuality(measured=tuple(measured), verdict=tuple(reasons), notes=(*notes, *subject.notes))


def cache_quality(
    stage: Stage,
    reader: CacheReader,
    dataset: ImageDataset,
    *,
    storage_options: dict[str, Any],
    progress: Progress,
    again: bool,
) -> ViewQuality | None:
    """Return the quality of a finished cache's views, and keep it in the cache.

    Args:
        stage: the stage that made the views.
        reader: the cache.
        dataset: the images.
        storage_options: options of the cache's file system.
        progress: output of the command.
        again: True to measure although a report is there.

    Returns:
        None for a cache of reconstructions, and for one without views.
    """
    if stage.spec.method == "invert" or not len(reader):
        return None
    storage = open_storage(stage.url, storage_options)
    kept = None if again else read_report(storage, stage.spec)
    if kept is not None:
        return ViewQuality.from_json(kept)
    progress.say(f"measuring the views of up to {NUM_IMAGES} images")
    device = resolve_device("auto")
    parts: dict[str, Any] = {"cache": lambda: reader, "train": lambda: dataset}
    if "encoder" in stage.model_paths:
        parts["encoder"] = partial(load_model, stage.model_paths["encoder"], "encoder", device)
    if stage.inversions_url is not None:
        parts["inversions"] = partial(CacheReader, stage.inversions_url, storage_options)
    try:
        found = view_quality(Subject(parts, name=reader.url, device=device))
    except Exception as error:  # a finished cache is worth more than its report
        return ViewQuality(measured=(), verdict=(), notes=(f"view quality was not measured: {error}",))
    try:
        write_report(storage, stage.spec, found.to_json())
    except (ViewgenError, OSError) as error:
        progress.say(f"the quality of the views could not be kept: {error}")
    return found


def quality_lines(quality: ViewQuality) -> list[str]:
    """Describe the quality of views in a few lines; the last one is the verdict."""
    found = {row.measure.name: row.measure for row in quality.measured if not row.measure.group}
    lines = [line for line in (_labels(found), _diversity(found), _realism(found)) if line]
    if found:
        lines.append(verdict_line(quality.verdict))
    elif quality.notes:
        lines.append(quality.notes[0])
    return lines


def verdict_line(reasons: Sequence[str]) -> str:
    """Return the verdict as one sentence."""
    if not reasons:
        return "verdict: nothing measured speaks against these views"
    return "verdict: these views cannot be trusted: " + "; ".join(reasons)


def check_strict(strict: bool, quality: bool) -> None:
    """Raise UsageError if a verdict is asked for and none will be measured."""
    if strict and not quality:
        raise UsageError("--strict asks for a verdict on the views, which --no-quality leaves out; give one")


def _interval(measure: Measure, form: str) -> str:
    if measure.low is None or measure.high is None:
        return form.format(measure.value)
    return f"{form.format(measure.value)} ({form.format(measure.low)} to {form.format(measure.high)})"


def _labels(found: dict[str, Measure]) -> str:
    if (kept := found.get("label_kept")) is None or (accuracy := found.get("classifier_accuracy")) is None:
        return ""
    foreign = found.get("images_with_foreign_view")
    text = (
        f"label kept by {_interval(kept, '{:.1%}')} of the views, by a classifier that reads "
        f"{accuracy.value:.1%} of real images right"
    )
    return (
        text if foreign is None else f"{text}; {foreign.value:.1%} of the images have a view of another class"
    )


def _diversity(found: dict[str, Measure]) -> str:
    parts = []
    if (count := found.get("distinct_views")) is not None:
        parts.append(f"{_interval(count, '{:.1f}')} distinct views of an image")
    if (pixels := found.get("pixel_diversity")) is not None:
        parts.append(f"pixel diversity {pixels.value:.3f}")
    if (still := found.get("images_without_step")) is not None:
        parts.append(f"{still.value:.0%} of the images made no step")
    return ", ".join(parts)


def _realism(found: dict[str, Measure]) -> str:
    parts = []
    for name, measure in found.items():
        if name.startswith("kernel_distance[") and name.endswith("]"):
            noise = found[f"{name} of shuffled pixels"]
            space = name.removeprefix("kernel_distance[").removesuffix("]")
            parts.append(f"{measure.value:.3g} in {space} (shuffled pixels: {noise.value:.3g})")
    return "kernel distance from real images " + ", ".join(parts) if parts else ""
