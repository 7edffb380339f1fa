"""scikit-learn's digits: 1797 images of 8×8 pixels and 17 grey levels, shown at 32×32 RGB.

Level 16 becomes 255; the enlargement is bilinear, so every pixel lies between its neighbours (no ringing).
Train is the first 1437 images (80 %), test the last 360, in scikit-learn's order; a source index counts from
the start of its split.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetInfo, ImageDataset, MemoryImages, canonical_split, refuse_argument

__all__ = ["DIGITS"]

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
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    weights = bilinear_weights(SMALL, LARGE)
    grey = weights @ (levels.reshape(-1, SMALL, SMALL) * (255 / MAX_LEVEL)) @ weights.T
    return np.floor(grey + 0.5).astype(np.uint8), labels.astype(np.int64)


class Digits:
    """The digits, embedded in scikit-learn."""

    info = DatasetInfo(
        name=NAME,
        image_size=LARGE,
        num_classes=10,
        num_images={"train": NUM_TRAIN, "test": NUM_TEST},
        source="scikit-learn, embedded",
        licence="CC BY 4.0 (UCI, Alpaydin and Kaynak 1998)",
    )

    def is_present(self, root: Path) -> bool:
        return True

    def download(self, root: Path) -> list[Path]:
        return []

    def load(self, argument: str, split: str, root: Path, download: bool) -> ImageDataset:
        refuse_argument(NAME, argument)
        split = canonical_split(NAME, split, self.info.num_images)
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


DIGITS = Digits()
