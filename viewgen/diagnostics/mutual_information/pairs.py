"""Pairs of views: the source of x and y for the estimators.

Everything is counted in images: an image has one or many views, and a split of the images keeps all views of
an image on one side.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import DataError
from viewgen.images import to_model
from viewgen.randomness import addressed_generator

__all__ = ["ArrayPairs", "Pairs", "check_sample"]


class Pairs(Protocol):
    """A source of pairs (x, y), one or several for each image.

    Attributes:
        num_images: number of images, at positions 0 to num_images − 1.
        num_draws: number of draws after which an image has no new views.
    """

    @property
    def num_images(self) -> int: ...

    @property
    def num_draws(self) -> int: ...

    def draw(self, positions: NDArray[np.int64], *address: int | str) -> tuple[Tensor, Tensor]:
        """Draw one pair of every image; the same address draws the same views.

        Args:
            positions: positions of the images, `(B,)`.
            address: address of the random numbers; its last part counts the draws of the same images.

        Returns:
            x and y, `(B, ...)`, float32: vectors `(B, D)` or images `(B, C, H, W)`.
        """
        ...


class ArrayPairs:
    """Pairs in memory, one per row; rows of the same image are views of it.

    Args:
        x, y: numbers `(N, D)` (the lengths may differ), or images `(N, C, H, W)` of one size (their
            channels may differ); uint8 images
            become floating point in [−1, 1].
        image_ids: image of each row, int `(N,)`; by default every row is a separate image.

    Raises:
        DataError: different numbers of rows, different image sizes, other shapes, or non-finite values.
    """

    def __init__(self, x: Any, y: Any, image_ids: Any = None) -> None:
        self.x, self.y = _floats("x", x), _floats("y", y)
        if len(self.x) != len(self.y):
            raise DataError(f"x has {len(self.x)} rows and y {len(self.y)}; row i of x belongs to row i of y")
        check_sample(self.x, self.y)
        ids = np.arange(len(self.x)) if image_ids is None else np.asarray(image_ids)
        if ids.shape != (len(self.x),):
            raise DataError(f"image_ids has shape {ids.shape}; expected one per row, ({len(self.x)},)")
        _, image_of_row, counts = np.unique(ids, return_inverse=True, return_counts=True)
        self._rows = np.argsort(image_of_row, kind="stable")
        self._first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        self._counts = counts

    @property
    def num_images(self) -> int:
        return len(self._counts)

    @property
    def num_draws(self) -> int:
        return int(self._counts.max())

    def draw(self, positions: NDArray[np.int64], *address: int | str) -> tuple[Tensor, Tensor]:
        counts = self._counts[positions]
        picks = view_picks(counts, *address)
        rows = self._rows[self._first[positions] + picks]
        return self.x[rows], self.y[rows]


def view_picks(counts: NDArray[np.int64], *address: int | str) -> NDArray[np.int64]:
    """Return the index of a view of every image, `(B,)`: a random one first, then the next at each draw.

    Args:
        counts: number of views of each image, `(B,)`.
        address: address of the draws, whose last part counts them. With the other parts equal, no view
            repeats before all views have been drawn.
    """
    *stage, draw = address
    first = torch.rand(len(counts), generator=addressed_generator(*stage), dtype=torch.float64).numpy()
    picks: NDArray[np.int64] = ((first * counts).astype(np.int64) + int(draw)) % counts
    return picks


def _floats(name: str, values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    if tensor.dtype == torch.uint8 and tensor.ndim == 4:
        tensor = to_model(tensor)
    if tensor.ndim not in (2, 4):
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)}; expected vectors (N, D) or images (N, C, H, W)"
        )
    return tensor.float()


def check_sample(x: Tensor, y: Tensor, *, variation: bool = True) -> None:
    """Refuse pairs from which mutual information cannot be estimated.

    Args:
        x, y: a sample, `(N, ...)`.
        variation: also refuse a side whose rows are all equal, which can happen by chance in a batch.

    Raises:
        DataError: images of different sizes, values that are not finite, or a side without any variation.
    """
    if x.ndim != y.ndim or (x.ndim == 4 and x.shape[2:] != y.shape[2:]):
        raise DataError(
            f"x has shape {tuple(x.shape[1:])} and y {tuple(y.shape[1:])} per row; the views of a "
            "pair must be images of one size, or both vectors: resize one side, or make the cache of the "
            "same data set"
        )
    for name, side in (("x", x), ("y", y)):
        if not bool(torch.isfinite(side).all()):
            broken = int((~torch.isfinite(side.flatten(1))).any(dim=1).sum())
            raise DataError(f"{broken} of {len(side)} rows of {name} are not finite (NaN or ∞)")
        if variation and len(side) > 1 and bool((side == side[:1]).all()):
            raise DataError(
                f"all {len(side)} rows of {name} are the same: what is constant shares exactly 0 nats with "
                "anything, and there is nothing to estimate"
            )
