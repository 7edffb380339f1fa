"""A resumable training run: checkpoints, metrics, sample grids, progress.

A step is a function of (state, step number): its random numbers are seeded by the step number. A killed run
therefore reaches the same weights when the same command runs again.
"""

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from viewgen.documents import read_object
from viewgen.errors import CacheMismatchError, CorruptDataError, LeaseError, ViewgenError
from viewgen.files import file_sha256, write_atomically
from viewgen.locking import lock
from viewgen.memory import keep_freed_memory
from viewgen.picture import write_png
from viewgen.progress import Progress
from viewgen.randomness import addressed_seed
from viewgen.terminal import shortened
from viewgen_train.checkpoints import CHECKPOINT, PREVIOUS, keep_previous, read_checkpoint, write_checkpoint
from viewgen_train.metrics import Metrics

__all__ = ["Observer", "Trainer", "TrainingDivergedError", "only_run", "run_training"]

IDENTITY = "identity.json"


class TrainingDivergedError(ViewgenError, ArithmeticError):
    """A loss or a weight became NaN or infinite."""


class Observer(Protocol):
    """Receiver of the rows of ``metrics.csv``."""

    def start(self, folder: Path, first_step: int) -> None:
        """Prepare for logging from `first_step` on."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Receive metrics averaged over the steps up to `step`."""
        ...

    def checkpoint(self) -> None:
        """Write out the logged metrics; called after each checkpoint."""
        ...

    def close(self) -> None:
        """Release resources, after success or failure."""
        ...


class Trainer(ABC):
    """Interface between a network's training and `run_training`.

    Attributes:
        kind: ``"generator"``, ``"inverter"`` or ``"encoder"``.
        identity: JSON values that must be equal in a resumed run (data digest, configuration, seed).
        num_steps: number of steps of the run.
        seed: seed of the run.
        files: further files of the folder that must not change between parts of a run, name → sha256 of what
            this version would write.
        settle_every: interval, in steps, at which metric tensors are read. An interval above 1 avoids
            synchronising an accelerator in every step.
    """

    kind: str
    identity: dict[str, Any]
    num_steps: int
    seed: int
    files: Mapping[str, str] = {}
    settle_every: int = 1

    def earlier_identity(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return the identity found in the folder, converted to the current format."""
        return found

    @abstractmethod
    def step(self, step: int) -> Mapping[str, float | Tensor]:
        """Train on one batch and return its metrics, which must be finite."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state on which the next step depends, as tensors and plain containers."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""

    def check(self, step: int, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Raise `TrainingDivergedError` if the metrics of a step, when they are read, tell that it failed."""

    def picture(self) -> np.ndarray[Any, Any] | None:
        """Return a sample grid, uint8 `(height, width, 3)`, or None."""
        return None

    def before_checkpoint(self, folder: Path, next_step: int) -> None:  # noqa: B027
        """Write files to which the next checkpoint refers."""

    def after_checkpoint(self, folder: Path, next_step: int) -> None:  # noqa: B027
        """Give those files their final names, after the checkpoint is written."""

    def after_training(self, folder: Path) -> None:  # noqa: B027
        """Write what a finished training leaves behind; a later call of a finished one writes it again."""

    def on_divergence(self, folder: Path, step: int) -> str:
        """Write diagnostics of a metric that is not finite; return a sentence for the error message."""
        return ""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it if the process dies."""
    with open(folder / ".lock", "w") as handle:
        try:
            lock(handle.fileno(), wait=False)
        except BlockingIOError as error:
            raise LeaseError(
                f"another process trains in {folder}; wait for its end, or give another --out"
            ) from error
        yield


def _check_identity(path: Path, trainer: Trainer, digests: Mapping[str, str]) -> None:
    """Compare the identity in the folder with the trainer's, and write it.

    Args:
        path: ``identity.json``.
        trainer: training that is about to begin.
        digests: name → sha256 of the folder's files when the checkpoint was written.
    """
    wanted = json.loads(json.dumps(trainer.identity))
    text = json.dumps(wanted, indent=1, sort_keys=True).encode()
    if path.exists():
        # a killed run may have written this identity after its checkpoint
        _check_files(path.parent, digests, {path.name: hashlib.sha256(text).hexdigest()})
        try:
            found = trainer.earlier_identity(read_object(path))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise CorruptDataError(
                f"{path} cannot be read ({error}); give --overwrite to start afresh"
            ) from error
        there, asked = dict(_leaves(found)), dict(_leaves(wanted))
        different = sorted(key for key in there | asked if there.get(key) != asked.get(key))
        if different:
            lines = "\n".join(
                f"  {key}: there {shortened(there.get(key))!r}, asked {shortened(asked.get(key))!r}"
                for key in different
            )
            raise CacheMismatchError(
                f"{path.parent} holds another {trainer.kind} training:\n{lines}\n"
                "give another --out, or --overwrite to start afresh"
            )
    write_atomically(path, text, sole_writer=True)


def _check_files(folder: Path, digests: Mapping[str, str], also: Mapping[str, str]) -> None:
    """Compare files with their digests in the checkpoint, or with those in `also`; missing ones pass.

    Raises:
        CorruptDataError: a file differs.
    """
    for name, digest in digests.items():
        path = folder / name
        if path.exists() and file_sha256(path) not in (digest, also.get(name)):
            raise CorruptDataError(
                f"{path} differs from the file that the run wrote (its sha256); restore it, or delete it: "
                "the same command writes it again"
            )


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field."""
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def run_training(
    trainer: Trainer,
    out: Path,
    *,
    folder: Path | None = None,
    writes: bool = True,
    observer: Observer | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    log_every: int = 20,
    picture_seconds: float = 120.0,
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> float:
    """Run or resume a training in the folder `out/<kind>-training`.

    Args:
        trainer: training to run.
        out: folder of the run.
        folder: folder of checkpoint and metrics; by default `out/<kind>-training`.
        writes: True if this process writes files; true for only one process of a training.
        observer: receiver of the metrics.
        overwrite: True to discard an earlier run.
        checkpoint_seconds: seconds between checkpoints.
        log_every: number of steps averaged in a row of ``metrics.csv``.
        picture_seconds: seconds between sample grids (``samples.png``).
        stop_after: step after which to stop as if interrupted.
        progress: display of the progress; by default a bar on standard error.

    Returns:
        training time in seconds, including earlier parts of a resumed run.

    Raises:
        CacheMismatchError: the folder holds a run of another configuration.
        CorruptDataError: the checkpoint or another file of the run is damaged.
        LeaseError: another process trains in the folder.
        TrainingDivergedError: a metric or a weight is not finite; the last checkpoint stays.
    """
    keep_freed_memory()
    folder = folder or out / f"{trainer.kind}-training"
    folder.mkdir(parents=True, exist_ok=True)
    with only_run(folder) if writes else nullcontext():
        return _run(
            trainer,
            folder,
            writes=writes,
            observer=observer if writes else None,
            overwrite=overwrite and writes,
            checkpoint_seconds=checkpoint_seconds,
            log_every=log_every,
            picture_seconds=picture_seconds,
            last_step=trainer.num_steps if stop_after is None else min(stop_after, trainer.num_steps),
            progress=progress or Progress(quiet=not writes, logger=__name__),
        )


def _run(
    trainer: Trainer,
    folder: Path,
    *,
    writes: bool,
    observer: Observer | None,
    overwrite: bool,
    checkpoint_seconds: float,
    log_every: int,
    picture_seconds: float,
    last_step: int,
    progress: Progress,
) -> float:
    checkpoint_path = folder / CHECKPOINT
    if overwrite:
        for name in (CHECKPOINT, PREVIOUS, "identity.json", "metrics.csv"):
            (folder / name).unlink(missing_ok=True)
    checkpoint = read_checkpoint(checkpoint_path)
    digests = {} if checkpoint is None else checkpoint.get("files", {})
    if writes:
        _check_files(
            folder, {name: digest for name, digest in digests.items() if name != IDENTITY}, trainer.files
        )
        _check_identity(folder / IDENTITY, trainer, digests)
    first_step, seconds_before = 0, 0.0
    recent: dict[str, list[float]] = {}
    if checkpoint is not None:
        trainer.restore(checkpoint["trainer"])
        first_step, seconds_before = checkpoint["step"], checkpoint["seconds"]
        recent = checkpoint.get("recent", {})
    saved_step = first_step
    metrics = Metrics(folder / "metrics.csv", first_step)
    if checkpoint is not None and writes:
        metrics.check(checkpoint.get("metrics"))
    # steps whose metrics nobody has looked at yet
    unsettled: list[tuple[int, Mapping[str, float | Tensor]]] = []
    started = last_checkpoint = last_picture = time.monotonic()

    def diverged(what: str) -> TrainingDivergedError:
        kept = f"the checkpoint before it is in {folder}. " if checkpoint_path.exists() else ""
        return TrainingDivergedError(
            f"{trainer.kind} training: {what}; {kept}Lower the learning rate or check the data"
        )

    def settle() -> None:
        for at, values in unsettled:
            numbers = {name: float(value) for name, value in values.items()}
            trainer.check(at, numbers)
            for name, number in numbers.items():
                if not math.isfinite(number):
                    explanation = trainer.on_divergence(folder, at) if writes else ""
                    raise diverged(f"{name} is {number} at step {at}{explanation}")
                recent.setdefault(name, []).append(number)
        unsettled.clear()

    def save(next_step: int) -> None:
        settle()
        state = trainer.state()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(state)):
            raise diverged(f"a weight is not finite after step {next_step - 1}")
        # metrics first: rows past the checkpoint are cut, rows before it could not be made again
        metrics.write()
        trainer.before_checkpoint(folder, next_step)
        keep_previous(folder)
        names = [name for name in (IDENTITY, *trainer.files) if (folder / name).exists()]
        checkpoint = {
            "trainer": state,
            "step": next_step,
            "seconds": seconds_before + time.monotonic() - started,
            "recent": recent,
            "metrics": metrics.digest(),
            "files": {name: file_sha256(folder / name) for name in names},
        }
        write_checkpoint(checkpoint_path, checkpoint)
        trainer.after_checkpoint(folder, next_step)
        if observer is not None:
            observer.checkpoint()

    title = f"training {trainer.kind}"
    with (
        closing(observer) if observer is not None else nullcontext(),
        progress.bar(title, trainer.num_steps, done=first_step, unit="steps") as bar,
    ):
        if observer is not None:
            observer.start(folder, first_step)
        for step in range(first_step, last_step):
            torch.manual_seed(addressed_seed(trainer.seed, trainer.kind, step))
            unsettled.append((step, trainer.step(step)))
            log_now = (step + 1) % log_every == 0 or step + 1 == trainer.num_steps
            if log_now or len(unsettled) >= trainer.settle_every:
                settle()
            now = time.monotonic()
            note = None
            if log_now:
                means = {name: sum(numbers) / len(numbers) for name, numbers in recent.items()}
                recent.clear()
                metrics.add(step, means)
                if observer is not None:
                    observer.log(step, means)
                note = " ".join(f"{name} {value:.3g}" for name, value in means.items())
            bar.advance(1, note)
            if writes and now - last_picture > picture_seconds:
                _write_picture(trainer, folder)
                last_picture = now
            if writes and now - last_checkpoint > checkpoint_seconds:
                save(step + 1)
                last_checkpoint, saved_step = now, step + 1
        settle()
        if writes and last_step > saved_step:
            save(last_step)
    if writes:
        _write_picture(trainer, folder)
        if max(first_step, last_step) == trainer.num_steps:
            trainer.after_training(folder)
    return seconds_before + time.monotonic() - started


def _write_picture(trainer: Trainer, folder: Path) -> None:
    pixels = trainer.picture()
    if pixels is not None:
        write_png(pixels, folder / "samples.png")
