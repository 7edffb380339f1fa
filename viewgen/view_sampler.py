"""A sampler of batches that goes on in the middle of an epoch, for any map-style data set of PyTorch."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from viewgen.errors import UsageError
from viewgen.randomness import addressed_seed

__all__ = ["ResumableBatchSampler"]

_KEYS = {"seed", "epoch", "samples", "num_samples", "shuffle"}


class ResumableBatchSampler(Sampler[list[int]]):
    """Batches of positions in an order of seed and epoch alone, for ``batch_sampler=`` of a loader.

    One pass over it is (the rest of) an epoch; the next pass is the next epoch. Ranks take different parts of
    each step's positions. Its state is the number of samples that all ranks have taken in the epoch, so that
    a training goes on with another batch size or number of ranks too, each position once.

    A loader with workers draws batches ahead: give `state_dict` the batches of the epoch that the loop has
    done.

    Args:
        data: the data set, or its length.
        batch_size: samples of a batch, in each rank.
        shuffle: False for the data set's own order.
        seed: seed of the order; it must be the same in every rank.
        drop_last: leave out what does not fill a batch of every rank; otherwise the last batches are smaller,
            and only what does not divide by the ranks is left out.
        rank, world_size: this process and the number of processes; by default those of `torch.distributed`,
            if it is initialised.

    Raises:
        UsageError: a number is out of range, or not a single batch fits.
    """

    def __init__(
        self,
        data: Sized | int,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.num_samples = data if isinstance(data, int) else len(data)
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; expected at least 1")
        if (rank is None) != (world_size is None):
            raise UsageError(f"rank is {rank} and world_size {world_size}; give both or neither")
        if rank is None or world_size is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if distributed else 0
            world_size = torch.distributed.get_world_size() if distributed else 1
        if not 0 <= rank < world_size:
            raise UsageError(f"rank is {rank}; expected 0 … {world_size - 1}")
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch, self._first = 0, 0
        self._begun = (0, 0)  # epoch and first sample of the pass under way
        if not len(self):
            raise UsageError(
                f"{self.num_samples} samples do not fill a batch of {batch_size} in each of {world_size} "
                "ranks; choose a smaller batch_size, or drop_last=False"
            )

    def __len__(self) -> int:
        """Return the batches of the pass that comes next."""
        left, step = self.num_samples - self._first, self.batch_size * self.world_size
        whole, rest = divmod(left, step)
        return whole + (not self.drop_last and rest >= self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.num_samples)
        if self.shuffle:
            generator = np.random.default_rng(addressed_seed(self.seed, "batch sampler", self.epoch))
            generator.shuffle(order)
        num_batches, first = len(self), self._first
        # the state is that of the next pass from here on, whatever a loader's workers draw ahead
        epoch, self._begun = self.epoch, (self.epoch, self._first)
        for _ in range(num_batches):
            step = order[first : first + self.batch_size * self.world_size]
            size = len(step) // self.world_size
            yield step[self.rank * size : (self.rank + 1) * size].tolist()
            first += self.batch_size * self.world_size
        if self.epoch == epoch:
            self.epoch, self._first = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of an epoch, from its beginning."""
        self.epoch, self._first = epoch, 0

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return the place in the order.

        Args:
            batches: batches of this pass that the loop has done; None between passes.
        """
        epoch, samples = self.epoch, self._first
        if batches is not None:
            epoch, samples = self._begun
            samples += batches * self.batch_size * self.world_size
        return {
            "seed": self.seed,
            "epoch": epoch,
            "samples": samples,
            "num_samples": self.num_samples,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place; batch size and number of ranks may differ from those before.

        Raises:
            UsageError: the state is of another data set or order.
        """
        if set(state) != _KEYS:
            raise UsageError(f"the state has {sorted(state)}; expected {sorted(_KEYS)}")
        for name in ("seed", "num_samples", "shuffle"):
            if state[name] != getattr(self, name):
                raise UsageError(
                    f"the state is of another order: {name} is {state[name]} there and "
                    f"{getattr(self, name)} here"
                )
        self.epoch, self._first = int(state["epoch"]), int(state["samples"])
        if not len(self):
            self.epoch, self._first = self.epoch + 1, 0
