"""The digits of scikit-learn: 1797 images of 8×8 pixels and 17 grey levels, enlarged to 32×32 RGB.

``digits.npz`` holds levels `(1797, 8, 8)` and labels `(1797,)`, both uint8: the test part of the UCI data
set "Optical Recognition of Handwritten Digits".

Level 16 becomes 255; the enlargement is bilinear, so every pixel lies between its neighbours (no ringing).
Train is the first 1437 images (80 %), test the last 360, in scikit-learn's order; a source index counts from
the start of its split.

References:
    Optical Recognition of Handwritten Digits. Ethem Alpaydin, Cenk Kaynak. UCI Machine Learning Repository,
    1998. https://doi.org/10.24432/C50P49
"""

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, MemoryImages, canonical_split
from viewgen.settings import Settings

__all__ = ["ENTRY"]

NAME = "digits"
NUM_TRAIN, NUM_TEST = 1437, 360
SMALL, LARGE = 8, 32
MAX_LEVEL = 16


def bilinear_weights(small: int, large: int) -> NDArray[np.float64]:
    """Return `(large, small)` weights of linear interpolation between pixel centres; rows sum to 1."""
    centres = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    weights: NDArray[np.float64] = np.clip(1 - np.abs(centres[:, None] - np.arange(small)), 0, None)
    return weights


@cache
def _enlarged() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with resources.files("viewgen.datasets").joinpath("digits.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        levels, labels = stored["levels"], stored["labels"]
    weights = bilinear_weights(SMALL, LARGE)
    grey = weights @ (levels.astype(np.float64) * (255 / MAX_LEVEL)) @ weights.T
    return np.floor(grey + 0.5).astype(np.uint8), labels.astype(np.int64)


def load(settings: Settings, split: str, root: Path, download: bool) -> ImageDataset:
    """Return one split."""
    split = canonical_split(NAME, split, INFO.num_images)
    rows = slice(0, NUM_TRAIN) if split == "train" else slice(NUM_TRAIN, None)
    grey, labels = _enlarged()
    return ImageDataset(
        name=NAME,
        split=split,
        image_size=LARGE,
        num_classes=10,
        class_names=tuple("0123456789"),
        pixels=MemoryImages(np.repeat(grey[rows, None], 3, axis=1)),
        targets=labels[rows],
    )


INFO = DatasetInfo(
    name=NAME,
    image_size=LARGE,
    num_classes=10,
    num_images={"train": NUM_TRAIN, "test": NUM_TEST},
    source="UCI, embedded",
    licence="CC BY 4.0 (UCI, Alpaydin and Kaynak 1998)",
)
ENTRY = DatasetEntry(
    name=NAME, summary="1,797 handwritten digits, embedded", settings=Settings, build=load, info=INFO
)
