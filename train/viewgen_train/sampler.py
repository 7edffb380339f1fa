"""Image indices of training batches as a function of the step: one seeded permutation per epoch."""

import functools
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from viewgen.errors import UsageError
from viewgen.randomness import addressed_generator

__all__ = ["BlockOrder", "FullOrder", "RowOrder", "batch_rows"]

_Rows = NDArray[np.int64]


def batch_rows(num_images: int, batch_size: int, step: int, seed: int) -> _Rows:
    """Return the image indices of one step's batch, int64 `(batch_size,)`.

    Batches are consecutive parts of a sequence of permutations of the data set. Every image therefore
    occurs equally often, for any batch size.
    """
    start = step * batch_size
    rows: list[_Rows] = []
    wanted = batch_size
    while wanted > 0:
        epoch, offset = divmod(start, num_images)
        order = _permutation(num_images, seed, epoch)
        part = order[offset : offset + wanted]
        rows.append(part)
        start += len(part)
        wanted -= len(part)
    return np.concatenate(rows)


@functools.lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, epoch: int) -> _Rows:
    order: _Rows = torch.randperm(num_images, generator=addressed_generator(seed, "epoch", epoch)).numpy()
    order.flags.writeable = False
    return order


class RowOrder(Protocol):
    """Order of the training images.

    Attributes:
        steps_per_epoch: number of full batches of a pass over the images; the remainder is dropped.
        identity: JSON values that determine the order, besides seed and batch size.
    """

    steps_per_epoch: int
    identity: dict[str, int | str]

    def rows(self, step: int) -> _Rows:
        """Return the image indices of a step, int64 `(batch_size,)`, without repetition."""
        ...


def _steps_per_epoch(num_images: int, batch_size: int) -> int:
    if batch_size > num_images:
        raise UsageError(
            f"a batch of {batch_size} does not fit {num_images} images, for none may be its own negative; "
            "give a smaller batch_size"
        )
    return num_images // batch_size


class FullOrder:
    """Order by a new permutation of all images in every epoch.

    Args:
        num_images: number of images.
        batch_size: number of images per step, over all workers.
        seed: root seed of the training.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self.steps_per_epoch = _steps_per_epoch(num_images, batch_size)
        self.identity: dict[str, int | str] = {"order": "full"}
        self._num_images, self._batch_size, self._seed = num_images, batch_size, seed

    def rows(self, step: int) -> _Rows:
        """Return the image indices of a step, int64 `(batch_size,)`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(self._num_images, self._seed, epoch)
        return order[place * self._batch_size : (place + 1) * self._batch_size]


class BlockOrder:
    """Order by random shards, with a shuffle buffer of several shards.

    Storage is read by whole shards, once per epoch.

    Args:
        num_images: number of images.
        batch_size: number of images per step, over all workers.
        seed: root seed of the training.
        shard_images: number of consecutive images per shard.
        buffer_shards: number of shards that are shuffled together.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, *, shard_images: int, buffer_shards: int
    ) -> None:
        self.steps_per_epoch = _steps_per_epoch(num_images, batch_size)
        self.identity: dict[str, int | str] = {
            "order": "blocks",
            "shard_images": shard_images,
            "buffer_shards": buffer_shards,
        }
        self._num_images, self._batch_size, self._seed = num_images, batch_size, seed
        self._shard_images, self._buffer_shards = shard_images, buffer_shards
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def rows(self, step: int) -> _Rows:
        """Return the image indices of a step, int64 `(batch_size,)`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place * self._batch_size : (place + 1) * self._batch_size]

    def _order(self, epoch: int) -> _Rows:
        num_shards = -(-self._num_images // self._shard_images)
        generator = addressed_generator(self._seed, "shards", epoch)
        blocks = torch.randperm(num_shards, generator=generator).split(self._buffer_shards)
        offsets = torch.arange(self._shard_images)
        parts = []
        for block in blocks:
            rows = (block[:, None] * self._shard_images + offsets).flatten()
            rows = rows[rows < self._num_images]
            parts.append(rows[torch.randperm(len(rows), generator=generator)])
        order: _Rows = torch.cat(parts).numpy()
        return order
