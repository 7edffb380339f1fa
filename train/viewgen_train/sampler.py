"""Training batches as a function of the step: epochs of addressed permutations."""

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

    The batches walk through one permutation of the data set after another, so every image is seen equally
    often whatever the batch size.
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
    """Which images each step trains on.

    Attributes:
        steps_per_epoch: whole batches of a pass over the images; the rest is left out.
        identity: JSON values on which the order depends besides seed and batch size.
    """

    steps_per_epoch: int
    identity: dict[str, int | str]

    def rows(self, step: int) -> _Rows:
        """Return the images of a step, int64 `(batch_size,)`, none twice."""
        ...


def _steps_per_epoch(num_images: int, batch_size: int) -> int:
    if batch_size > num_images:
        raise UsageError(
            f"a batch of {batch_size} does not fit {num_images} images, for none may be its own negative; "
            "give a smaller batch_size"
        )
    return num_images // batch_size


class FullOrder:
    """A permutation of all images in every epoch.

    Args:
        num_images: how many there are.
        batch_size: images of a step, over all workers.
        seed: of the training.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self.steps_per_epoch = _steps_per_epoch(num_images, batch_size)
        self.identity: dict[str, int | str] = {"order": "full"}
        self._num_images, self._batch_size, self._seed = num_images, batch_size, seed

    def rows(self, step: int) -> _Rows:
        """Return the images of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(self._num_images, self._seed, epoch)
        return order[place * self._batch_size : (place + 1) * self._batch_size]


class BlockOrder:
    """Shards in random order, and a shuffle buffer of some shards, from which images are drawn at random.

    Storage is then read shard-wise, once per epoch.

    Args:
        num_images: how many there are.
        batch_size: images of a step, over all workers.
        seed: of the training.
        shard_images: consecutive images of a shard.
        buffer_shards: shards that are shuffled together.
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
        """Return the images of a step."""
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
