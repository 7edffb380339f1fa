"""Run folder of a training: its contents and the loading of its encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from viewgen.documents import Document, checked, read_object
from viewgen.errors import CorruptDataError, MissingFileError, ModelError, UsageError
from viewgen.networks.files import read_header
from viewgen.views.branched import ImageEncoder, load_image_encoder
from viewgen_train.records import read_record
from viewgen_train.settings import TrainSettings

__all__ = ["CONFIG", "CURVES", "Run", "open_run"]

CONFIG = "config.json"
CURVES = "curves.png"


class _Dataset(Document):
    name: str
    split: str
    digest: str
    num_images: int = Field(ge=1, le=10**9)


class _Cache(Document):
    url: str


class _Config(Document):
    """Types and bounds of ``config.json``."""

    dataset: _Dataset
    config: dict[str, Any]
    cache: _Cache | None
    num_steps: int = Field(ge=1, le=10**12)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished or unfinished training.

    Attributes:
        path: folder of the run.
        which: selected weights, ``"last"`` or ``"best"``.
        encoder: trained encoder, for inference (see `viewgen.views.branched.load_image_encoder`).
        settings: settings of the training.
        dataset: name of the data set.
        split: split of the data set.
        digest: digest of the data set's images and labels.
        num_images: number of leading images of the split that are trained on.
        cache: ``{"url", "identity", "method"}`` of the cache of views, or None.
        step: number of optimiser steps behind the weights.
        num_steps: number of optimiser steps of the whole training.
        complete: True if the training is finished.
    """

    path: Path
    which: str
    encoder: ImageEncoder
    settings: TrainSettings
    dataset: str
    split: str
    digest: str
    num_images: int
    cache: Mapping[str, Any] | None
    step: int
    num_steps: int

    @property
    def complete(self) -> bool:
        return read_step(self.path / "last.safetensors") >= self.num_steps

    @property
    def epochs(self) -> float:
        """Number of passes over the images behind the weights."""
        optimiser = self.settings.optimiser
        if optimiser.num_steps is None:
            return round(optimiser.epochs * self.step / self.num_steps, 2)
        return round(self.step * optimiser.batch_size / self.num_images, 2)

    @property
    def weights(self) -> Path:
        """Weights file of the encoder, also accepted by `viewgen cache --encoder`."""
        return self.path / f"{self.which}.safetensors"


def open_run(
    path: str | Path, which: Literal["last", "best"] = "last", device: torch.device | str = "cpu"
) -> Run:
    """Open the folder of a training.

    Args:
        path: run folder, the ``--out`` of `viewgen train`.
        which: ``"last"`` for the weights after the last epoch, ``"best"`` for those with the highest 5-NN
            accuracy on held-out training images.
        device: device of the encoder.

    Raises:
        MissingFileError: there is no training at `path`, or it has no weights yet.
        CorruptDataError: ``config.json`` cannot be read.
        ModelError: the weights are damaged.
    """
    folder = Path(path).expanduser()
    if which not in ("last", "best"):
        raise UsageError(f"which is {which!r}; expected 'last' or 'best'")
    document = read_config(folder)
    weights = folder / f"{which}.safetensors"
    if not weights.is_file():
        raise MissingFileError(
            f"{folder} holds a training without {weights.name} yet; run its `viewgen train` command again, "
            "or wait for its first checkpoint"
        )
    dataset = document["dataset"]
    return Run(
        path=folder,
        which=which,
        encoder=load_image_encoder(weights, device),
        settings=read_record(document["config"]),
        dataset=dataset["name"],
        split=dataset["split"],
        digest=dataset["digest"],
        num_images=dataset["num_images"],
        cache=document["cache"],
        step=read_step(weights),
        num_steps=document["num_steps"],
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the contents of a run's ``config.json``."""
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(
            f"no training in {folder}: it has no {CONFIG}; give the folder that `viewgen train` printed, or "
            "train with\n  viewgen train --assimilation A2 --out " + str(folder)
        )
    try:
        document = read_object(path)
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error}") from error
    missing = {"dataset", "config", "cache", "num_steps"} - document.keys()
    if missing:
        raise CorruptDataError(f"{path} lacks {', '.join(sorted(missing))}")
    try:
        return checked(_Config, document)
    except UsageError as error:
        raise CorruptDataError(f"{path} is damaged: {error}") from error


def read_step(weights: Path) -> int:
    """Return the number of optimiser steps behind a weights file of a training."""
    step = read_header(weights).get("step", 0)
    if type(step) is not int or step < 0:
        raise ModelError(f"{weights} is damaged: its step is {step!r}, expected a number of steps")
    return step
