"""Training batches as a function of the step: epochs of addressed permutations."""

import numpy as np
import torch
from numpy.typing import NDArray

from viewgen.randomness import addressed_generator

__all__ = ["batch_rows"]


def batch_rows(num_images: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Return the image indices of one step's batch, int64 `(batch_size,)`.

    The batches walk through one permutation of the data set after another, so every image is seen equally
    often whatever the batch size.
    """
    start = step * batch_size
    rows: list[NDArray[np.int64]] = []
    wanted = batch_size
    while wanted > 0:
        epoch, offset = divmod(start, num_images)
        order = torch.randperm(num_images, generator=addressed_generator(seed, "epoch", epoch)).numpy()
        part = order[offset : offset + wanted]
        rows.append(part)
        start += len(part)
        wanted -= len(part)
    return np.concatenate(rows)
