"""The views of a cache as an iterable data set of PyTorch, read shard by shard."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from viewgen.errors import UsageError
from viewgen.randomness import addressed_seed
from viewgen.view_samples import Sample, ViewSamples

__all__ = ["ViewStream"]

# rows read from a shard at once
READ_ROWS = 256


class ViewStream(ViewSamples, IterableDataset[Sample]):
    """Views of a cache shard by shard, shuffled: for caches larger than memory, or remote ones.

    The shards' rows, in an order that differs by epoch, are divided among the ranks of a distributed training
    into parts of one length, and a rank's part among the loader's workers: every process reads its own
    shards, and shares at most its first and last with others. What does not divide by the ranks is left out
    of the epoch.

    Args:
        url: URL of the cache.
        shuffle_buffer: samples held to be shuffled, per worker; 0 for the cache's own order.
        seed: seed of the order; it must be the same in every rank.
        rank, world_size: this process and the number of processes; by default those of `torch.distributed`,
            if it is initialised.
        options: further arguments of `viewgen.view_samples.ViewSamples`.
    """

    def __init__(
        self,
        url: str,
        *,
        shuffle_buffer: int = 2048,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(url, **options)
        if shuffle_buffer < 0:
            raise UsageError(f"shuffle_buffer is {shuffle_buffer}; expected 0 or more samples")
        if (rank is None) != (world_size is None):
            raise UsageError(f"rank is {rank} and world_size {world_size}; give both or neither")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise UsageError(f"rank is {rank}; expected 0 … {world_size - 1}")
        self.shuffle_buffer, self.seed = shuffle_buffer, seed
        # in memory that persistent workers of a loader share
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._given = None if rank is None or world_size is None else (rank, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; call it before a loader begins one."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """Number of the epoch whose order is read."""
        return int(self._epoch)

    def __getstate__(self) -> dict[str, Any]:
        # a loader's worker that is spawned belongs to no distributed training of its own
        ranks = {"_given": self._world()} if _is_distributed() else {}
        return super().__getstate__() | ranks

    def __len__(self) -> int:
        """Return the samples of this rank in an epoch."""
        return len(self._labels) // self._world()[1]

    def __repr__(self) -> str:
        return f"ViewStream({len(self):,} samples of {self.num_views} views a rank, {self._reader!r})"

    def __iter__(self) -> Iterator[Sample]:
        rank, _ = self._world()
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = rank * len(self) + number * len(self) // count
        stop = rank * len(self) + (number + 1) * len(self) // count
        address = (self.seed, "view stream", self.epoch)
        samples = self._span(first, stop, np.random.default_rng(addressed_seed(*address)))
        if not self.shuffle_buffer:
            yield from samples
            return
        generator = np.random.default_rng(addressed_seed(*address, rank, number))
        held: list[Sample] = []
        for sample in samples:
            if len(held) < self.shuffle_buffer:
                held.append(sample)
                continue
            place = int(generator.integers(len(held)))
            held[place], sample = sample, held[place]
            yield sample
        generator.shuffle(held)
        yield from held

    def _span(self, first: int, stop: int, generator: np.random.Generator) -> Iterator[Sample]:
        """Yield the samples from `first` to `stop` of the epoch's order."""
        reader = self.reader
        shards = np.array(self._committed, np.int64)
        if self.shuffle_buffer:
            generator.shuffle(shards)
        position = 0
        for shard_id in shards.tolist():
            begin, end = np.searchsorted(self._rows, _bounds(reader.spec.shard_rows(shard_id)))
            length = int(end - begin)
            low, high = max(first - position, 0), min(stop - position, length)
            position += length
            if low < high:
                yield from self._shard(shard_id, self._rows[begin:end], low, high)

    def _shard(self, shard_id: int, rows: NDArray[np.int64], low: int, high: int) -> Iterator[Sample]:
        stored = self.reader.shard(shard_id, ["views"])["views"]
        for start in range(low, high, READ_ROWS):
            part = slice(start, min(start + READ_ROWS, high))
            yield from self.samples(rows[part], stored[part])

    def _world(self) -> tuple[int, int]:
        """Return the rank and the number of ranks."""
        if self._given is not None:
            return self._given
        if _is_distributed():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _bounds(rows: range) -> tuple[int, int]:
    return rows.start, rows.stop
