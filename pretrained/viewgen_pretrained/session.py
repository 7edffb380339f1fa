"""A resumable training run: checkpoints, metrics, sample grids, progress.

A step is a function of (state, step number): whatever randomness it needs is seeded by the step's address.
Killing the process and running the same command again therefore continues to the same weights.
"""

import csv
import dataclasses
import json
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from viewgen.errors import CacheMismatchError, CorruptDataError, ViewgenError
from viewgen.malloc import keep_freed_memory
from viewgen.picture import write_png
from viewgen.randomness import addressed_seed

__all__ = ["Trainer", "TrainingDivergedError", "run_training"]

CHECKPOINT = "checkpoint.pt"


class TrainingDivergedError(ViewgenError, ArithmeticError):
    """A loss became NaN or infinite."""


class Trainer(ABC):
    """What `run_training` needs of a network's training.

    Attributes:
        kind: ``"generator"``, ``"inverter"`` or ``"encoder"``.
        identity: JSON values that a resumed run must share (data digest, configuration, seed).
        num_steps: length of the run.
        seed: seed of the run.
    """

    kind: str
    identity: dict[str, Any]
    num_steps: int
    seed: int

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """Train on one batch, and return metrics that must be finite."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and plain containers."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""

    def picture(self) -> np.ndarray[Any, Any] | None:
        """Return a sample grid, uint8 `(height, width, 3)`, or None."""
        return None


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _check_identity(path: Path, trainer: Trainer) -> None:
    wanted = json.loads(json.dumps(trainer.identity))
    if path.exists():
        found = json.loads(path.read_text())
        different = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if different:
            lines = "\n".join(f"  {key}: there {found.get(key)!r}, asked {wanted.get(key)!r}" for key in different)
            raise CacheMismatchError(
                f"{path.parent} holds another {trainer.kind} training:\n{lines}\n"
                "give another --out, or --overwrite to start afresh"
            )
    _write_atomically(path, json.dumps(wanted, indent=1, sort_keys=True).encode())


def _load_checkpoint(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise CorruptDataError(f"{path} cannot be read ({error}); delete it, or give --overwrite to start afresh") from error
    return loaded


class Metrics:
    """A CSV of metrics per step; rows past the checkpoint are cut when a run resumes."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        kept: list[dict[str, str]] = []
        if path.exists():
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or [])
                kept = [row for row in reader if row["step"].isdigit() and int(row["step"]) < first_step]
        self.rows: list[Mapping[str, Any]] = list(kept)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self.columns += [name for name in ("step", *values) if name not in self.columns]
        self.rows.append({"step": step, **{name: f"{value:.6g}" for name, value in values.items()}})

    def write(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)


def run_training(
    trainer: Trainer,
    out: Path,
    *,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    log_every: int = 20,
    picture_seconds: float = 120.0,
    stop_after: int | None = None,
) -> float:
    """Run or resume a training in the folder `out/<kind>-training`.

    Args:
        trainer: the network's training.
        out: folder of the run.
        overwrite: forget an earlier run.
        checkpoint_seconds: pause between checkpoints.
        log_every: steps that one row of ``metrics.csv`` averages.
        picture_seconds: pause between sample grids ``samples.png``.
        stop_after: stop after this step as if interrupted.

    Returns:
        seconds of training, those of earlier parts of the run included.

    Raises:
        CacheMismatchError: the folder holds a run of another configuration.
        TrainingDivergedError: a metric is not finite; the last checkpoint stays.
    """
    keep_freed_memory()
    folder = out / f"{trainer.kind}-training"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint_path = folder / CHECKPOINT
    if overwrite:
        for name in (CHECKPOINT, "identity.json", "metrics.csv"):
            (folder / name).unlink(missing_ok=True)
    _check_identity(folder / "identity.json", trainer)
    checkpoint = _load_checkpoint(checkpoint_path)
    first_step, seconds_before = 0, 0.0
    if checkpoint is not None:
        trainer.restore(checkpoint["trainer"])
        first_step, seconds_before = checkpoint["step"], checkpoint["seconds"]
    metrics = Metrics(folder / "metrics.csv", first_step)
    started = last_checkpoint = last_picture = time.monotonic()

    def save(next_step: int) -> None:
        state = {
            "trainer": trainer.state(),
            "step": next_step,
            "seconds": seconds_before + time.monotonic() - started,
        }
        temporary = checkpoint_path.with_name(f".{CHECKPOINT}.{os.getpid()}")
        torch.save(state, temporary)
        temporary.replace(checkpoint_path)
        metrics.write()

    last_step = trainer.num_steps if stop_after is None else min(stop_after, trainer.num_steps)
    recent: dict[str, list[float]] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    interactive = sys.stderr.isatty()
    with Progress(*columns, console=_console(), disable=not interactive) as progress:
        task = progress.add_task(
            f"training {trainer.kind}", total=trainer.num_steps, completed=first_step, note=""
        )
        for step in range(first_step, last_step):
            torch.manual_seed(addressed_seed(trainer.seed, trainer.kind, step))
            values = trainer.step(step)
            for name, value in values.items():
                if not math.isfinite(value):
                    raise TrainingDivergedError(
                        f"{trainer.kind} training: {name} is {value} at step {step}; the checkpoint of an earlier "
                        f"step is in {folder}. Lower the learning rate or check the data"
                    )
                recent.setdefault(name, []).append(value)
            progress.update(task, advance=1)
            now = time.monotonic()
            if (step + 1) % log_every == 0 or step + 1 == last_step:
                means = {name: sum(numbers) / len(numbers) for name, numbers in recent.items()}
                recent.clear()
                metrics.add(step, means)
                note = " ".join(f"{name} {value:.3g}" for name, value in means.items())
                progress.update(task, note=note)
                if not interactive and (step + 1) % (log_every * 10) == 0:
                    print(f"{trainer.kind} step {step + 1}/{trainer.num_steps} {note}", file=sys.stderr, flush=True)
            if now - last_picture > picture_seconds:
                _write_picture(trainer, folder)
                last_picture = now
            if now - last_checkpoint > checkpoint_seconds:
                save(step + 1)
                last_checkpoint = now
        if last_step > first_step:
            save(last_step)
    _write_picture(trainer, folder)
    return seconds_before + time.monotonic() - started


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _write_picture(trainer: Trainer, folder: Path) -> None:
    pixels = trainer.picture()
    if pixels is not None:
        write_png(pixels, folder / "samples.png")


def as_identity(config: Any) -> dict[str, Any]:
    """Return a dataclass as JSON values."""
    return dict(json.loads(json.dumps(dataclasses.asdict(config))))
