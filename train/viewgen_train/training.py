"""`viewgen train` as a function: train an encoder on expert and generated views."""

import csv
import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.errors import DataError, UsageError
from viewgen.messages import shown
from viewgen.progress import Progress
from viewgen_train.checkpoints import (
    BEST,
    CHECKPOINT,
    KINDS_BESIDE,
    LAST,
    PREVIOUS,
    PREVIOUS_WEIGHTS,
    use_previous,
)
from viewgen_train.loggers import FOLDERS, chosen_loggers
from viewgen_train.loop import only_run
from viewgen_train.plan import TrainOptions, TrainPlan, make_plan
from viewgen_train.processes import check_workers, usable_device
from viewgen_train.records import assimilation_name
from viewgen_train.run import CONFIG, CURVES
from viewgen_train.worker import train_worker

__all__ = ["TrainResult", "train"]

log = logging.getLogger(__name__)

# what a run writes, the loggers' folders apart
FILES = (
    *(CHECKPOINT, PREVIOUS, LAST, PREVIOUS_WEIGHTS, BEST, CONFIG, CURVES),
    *(f"{kind}.safetensors" for kind in KINDS_BESIDE),
    *("identity.json", "metrics.csv", "evaluation.json", "evaluation-best.json", "diverged.json"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Result of a training.

    Attributes:
        run: folder of the run.
        epochs: number of passes over the images.
        loss: mean loss of the last steps.
        top1, top1_sd: mean and standard deviation over seeds of the linear-probe accuracy, in [0, 1]; NaN if
            it was not requested or the data set has no labelled test images.
        knn5_top1: 5-NN accuracy on the test split, in [0, 1]; NaN in the same cases.
        images_per_second: training throughput of this call, without evaluation; NaN if no steps were left.
        unconverged: number of images in the cache of views that did not converge.
        unconverged_used: True if their views were used.
    """

    run: str
    epochs: int
    loss: float
    top1: float
    top1_sd: float
    knn5_top1: float
    images_per_second: float
    unconverged: int = 0
    unconverged_used: bool = False

    def lines(self) -> list[str]:
        """Return the known values as lines of text."""
        lines = [f"{self.epochs} epoch{'s' * (self.epochs > 1)}, loss {self.loss:.4f}"]
        if self.images_per_second == self.images_per_second:
            lines[0] += f", {self.images_per_second:.0f} images per second"
        if self.top1 == self.top1:
            lines.append(f"linear probe {100 * self.top1:.2f} ± {100 * self.top1_sd:.2f} %")
        if self.knn5_top1 == self.knn5_top1:
            lines.append(f"5-NN {100 * self.knn5_top1:.2f} %")
        return [*lines, f"curves: {Path(self.run) / CURVES}"]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; null for unknown values."""
        values = dataclasses.asdict(self)
        return {
            name: None if isinstance(value, float) and value != value else value
            for name, value in values.items()
        }


def train(
    dataset: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    cache: str | None = None,
    inversions: str | None = None,
    generator: str | None = None,
    models: str | None = None,
    out: str | None = None,
    split: str = "train",
    limit: int | None = None,
    data_root: str | None = None,
    storage_options: dict[str, Any] | None = None,
    device: str = "auto",
    gpus: int | None = None,
    workers: int | None = None,
    memory_bytes: int | None = None,
    use_unconverged: bool = False,
    by_number: bool = True,
    checkpoint_seconds: float = 60.0,
    overwrite: bool = False,
    previous_checkpoint: bool = False,
    loggers: Sequence[str] | None = None,
    evaluate: bool = True,
    quiet: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train an encoder, or resume an earlier call with the same options.

    Args:
        dataset: name of the data set; by default the cache's.
        settings: overrides of the data set's recipe (see `viewgen_train.resolve.train_settings`).
        cache: URL of the cache of views. By default the most recently changed complete cache in the folder of
            `viewgen cache`, of the data set if one is named. If there is none, a cache of the embedded data
            set (digits) is made.
        inversions: URL of the cache of inversions, for the sources wperturb and online; same default.
        generator: weights file of g, for wperturb and online; by default the data set's generator.
        models: folder of a `viewgen pretrain` run with the generator.
        out: folder of the run; by default ``runs/<dataset>-<assimilation>-<views>-seed<seed>``.
        split: split of the training images.
        limit: maximum number of images, taken from the start of the split.
        data_root: folder of data sets.
        storage_options: options of the cache's fsspec file system.
        device: torch device; ``"auto"`` selects a GPU if there is one.
        gpus: number of GPUs, with one process per GPU.
        workers: number of CPU processes.
        memory_bytes: host memory limit for images and views, in bytes; data beyond it are streamed.
        use_unconverged: True to use the views of images that did not converge; by default an expert view
            takes their place, except in a run that began with them.
        by_number: True to take width, batch, learning rate and length by the number of images, where the data
            set has no recipe (`viewgen_train.sizes.settings_by_number`).
        checkpoint_seconds: seconds between checkpoints.
        overwrite: True to discard an earlier run in `out`.
        previous_checkpoint: True to go on from the checkpoint before the last one, which is discarded.
        loggers: destinations of metrics besides ``metrics.csv``, of `viewgen_train.loggers.LOGGERS`; by
            default TensorBoard, where it is installed.
        evaluate: True to measure linear probes and nearest neighbours at the end, unless the views have
            another size than the images.
        quiet: True to suppress messages about resolved options.
        progress: display of the progress of one process, and no messages; by default a bar on standard error.

    Returns:
        result of the training. The folder holds ``last.safetensors``, ``best.safetensors``, ``config.json``,
        ``metrics.csv``, ``curves.png``, TensorBoard events and ``evaluation.json``, and with views of a
        Viewmaker ``viewmaker.safetensors``.

    Raises:
        UsageError: an option or a setting is invalid.
        MissingFileError: data, weights or a cache are missing; the message says how to get them.
        CacheMismatchError: the cache belongs to another data set, split or image size, or `out` holds another
            training; the message lists the differences.
        IncompleteError: the cache lacks shards.
        CorruptDataError: a cache or checkpoint is damaged.
        LeaseError: another process trains in `out`.
        TrainingDivergedError: the loss or a weight is not finite; ``diverged.json`` names the images.
    """

    if overwrite and previous_checkpoint:
        raise UsageError("--overwrite discards the checkpoints that --previous-checkpoint asks for; give one")
    chosen = chosen_loggers(loggers)
    device = usable_device(device, gpus, workers)
    options = TrainOptions(
        dataset=dataset,
        split=split,
        limit=limit,
        cache=cache,
        inversions=inversions,
        generator=generator,
        models=models,
        out=out,
        settings=settings,
        data_root=data_root,
        storage_options=storage_options,
        device=device,
        memory_bytes=memory_bytes,
        use_unconverged=use_unconverged,
        by_number=by_number,
        overwrite=overwrite,
    )
    with shown(quiet=quiet or progress is not None):
        plan = make_plan(options)
        num_workers = check_workers(plan.settings, gpus, workers)
        folder = Path(plan.out)
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            with only_run(folder):
                _forget(folder)
        elif previous_checkpoint:
            with only_run(folder):
                step = use_previous(folder)
            log.info("going on from the checkpoint before the last one, of step %d", step)
        name = assimilation_name(plan.settings)
        log.info("%s, %s, %d steps; the run is in %s", plan.dataset, name, plan.num_steps, folder)
        arguments: dict[str, Any] = {
            "plan": plan,
            "device": device,
            "checkpoint_seconds": checkpoint_seconds,
            "loggers": chosen,
        }
        if num_workers > 1:
            from viewgen_train.launch import distribute

            speed = distribute(
                train_worker, arguments, num_workers=num_workers, folder=folder, use_gpu=bool(gpus)
            )
        else:
            speed = train_worker(**arguments, progress=progress)
        return _result(plan, speed, evaluate=evaluate, device=device)


def _forget(folder: Path) -> None:
    """Remove an earlier run's files."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _result(plan: TrainPlan, images_per_second: float, *, evaluate: bool, device: str) -> TrainResult:
    values: dict[str, float] = {}
    with open(Path(plan.out) / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            values |= {name: float(text) for name, text in row.items() if text}
    unknown = float("nan")
    found: dict[str, Any] = {}
    if evaluate and plan.view_size is not None:
        log.info(
            "no linear probe: the views, and so the encoder's images, have %d px, those of %s another size; "
            "`viewgen eval %s --dataset D` reads the encoder out on a data set of %d px",
            *(plan.view_size, plan.dataset, plan.out, plan.view_size),
        )
    elif evaluate:
        from viewgen_train.evaluate import evaluate as evaluate_run

        log.info("measuring linear probes and nearest neighbours")
        try:
            found = evaluate_run(plan.out, data_root=plan.data_root, device=device)
        except (UsageError, DataError) as error:
            log.info("no linear probe: %s", error)
    return TrainResult(
        run=plan.out,
        epochs=plan.settings.optimiser.epochs,
        loss=values.get("loss", unknown),
        top1=found.get("top1", unknown),
        top1_sd=found.get("top1_sd", unknown),
        knn5_top1=found.get("knn5_top1", values.get("knn5_top1", unknown)),
        images_per_second=images_per_second,
        unconverged=plan.unconverged,
        unconverged_used=plan.use_unconverged and plan.unconverged > 0,
    )
