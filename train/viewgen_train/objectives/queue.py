"""First-in, first-out queue of keys of past steps.

Shape legend: K keys, N new keys, D projection dimension.

References:
    Momentum Contrast for Unsupervised Visual Representation Learning, He et al., 2020, section 3.2,
    https://arxiv.org/abs/1911.05722
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.errors import UsageError
from viewgen_train.settings import OptimiserSettings

__all__ = ["Queue", "check_queue"]


class Queue(nn.Module):
    """The last K keys; new ones take the places of the oldest.

    Args:
        size: K.

    Attributes:
        keys: unit vectors, `(K, D)`; random before training.
        next: index of the oldest key, `()`.
    """

    keys: Tensor
    next: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.empty(size, 0))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def allocate(self, dim: int) -> None:
        """Fill the queue with random unit vectors of `dim` coordinates."""
        self.keys = F.normalize(torch.randn(self.size, dim), dim=1)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by new ones, `(N, D)`; of more than K, the last K stay."""
        kept = keys[-self.size :]
        places = (self.next + torch.arange(len(kept), device=self.keys.device)) % self.size
        self.keys[places] = kept.to(self.keys.dtype)
        self.next.copy_((self.next + len(kept)) % self.size)


def check_queue(size: int, optimiser: OptimiserSettings, keys: int = 1) -> None:
    """Check that a queue holds the keys of a step, of which every image has `keys`.

    Raises:
        UsageError: it is shorter than a batch.
    """
    if size < keys * optimiser.batch_size:
        each = " with two keys each" if keys > 1 else ""
        raise UsageError(
            f"queue_size is {size}, shorter than a batch of {optimiser.batch_size} images{each}, so that "
            "keys would be lost before any query meets them; give a larger queue_size, or a smaller "
            "batch_size"
        )
