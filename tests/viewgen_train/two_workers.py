"""A small training alone and on two Ray Train workers, and their comparison."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from viewgen_train.training import train

SETTINGS = {
    "generated": "expert",
    "width": 2,
    "projection_dim": 4,
    "batch_size": 8,
    "epochs": 3,
    # small steps: rounding grows by a factor of ten each time a network this narrow takes a large one
    "learning_rate": 0.001,
    "warm_up_epochs": 0.0,
    "precision": "float32",
}


def write_pictures(folder: Path) -> Path:
    """Write a data set of 16 and 8 random pictures of two classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def losses(run: Path) -> list[float]:
    with open(run / "metrics.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def run(folder: Path, name: str, **options: Any) -> float:
    """Train on the pictures in `folder`; return the last loss."""
    data_root = str(folder / "data")
    pictures = f"folder:{folder / 'pictures'}"
    out = str(folder / name)
    trained = train(
        pictures,
        out=out,
        settings=SETTINGS,
        data_root=data_root,
        evaluate=False,
        checkpoint_seconds=0.0,
        **options,
    )
    return trained.loss


def assert_equal_runs(one: Path, other: Path) -> None:
    """Compare losses and weights, which differ by the rounding of sums in another order."""
    assert losses(one) == pytest.approx(losses(other), rel=1e-4)
    assert len(losses(other)) == 3
    weights = [load_file(folder / "last.safetensors") for folder in (one, other)]
    # Two halves of a batch are summed in another order, and an optimiser's steps carry that on; `atol` is for
    # weights near zero, of which `rtol` leaves nothing.
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
