"""The views of a cache as a map-style data set of PyTorch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from viewgen.errors import UsageError
from viewgen.view_samples import Sample, ViewSamples

__all__ = ["ViewDataset"]


class ViewDataset(ViewSamples, Dataset[Sample]):
    """Views of a cache by position, for `torch.utils.data.DataLoader`; arguments as in `ViewSamples`.

    ``dataset[3]`` is a sample; ``dataset[10:20]`` and ``dataset[[4, 2]]`` are batches, as the loader's
    default collation makes them. A loader reads a batch at once.
    """

    def __len__(self) -> int:
        return len(self._labels)

    def __repr__(self) -> str:
        n = self.num_views
        return f"ViewDataset({len(self):,} samples of {n} view{'s' * (n > 1)}, {self._reader!r})"

    def __getitem__(self, index: Any) -> Sample:
        """Return the sample at a position, or a batch for a slice, an array or a list of positions.

        Raises:
            IndexError: a position is outside.
        """
        if isinstance(index, Tensor | np.ndarray) and index.ndim == 0:
            index = index.item()
        if isinstance(index, int | np.integer):
            return self.__getitems__([int(index)])[0]
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        found = self.__getitems__(index)
        if not found:
            raise UsageError(f"no position is selected; the data set has {len(self)} samples")
        batch: Sample = default_collate(found)
        return batch

    def __getitems__(self, indices: Any) -> list[Sample]:
        """Return the samples at some positions, read at once."""
        return self.samples(self._rows[self._checked(indices)])

    def _checked(self, indices: Any) -> NDArray[np.int64]:
        if isinstance(indices, torch.Tensor):
            indices = indices.cpu().numpy()
        positions = np.asarray(indices)
        if positions.size == 0:
            return np.empty(0, np.int64)
        if positions.dtype == np.bool_ and positions.shape == (len(self),):
            return np.flatnonzero(positions)
        if positions.ndim != 1 or positions.dtype.kind not in "iu":
            raise UsageError(
                f"positions are {positions.dtype} {positions.shape}; expected integers (B,), or a mask "
                f"({len(self)},)"
            )
        positions = positions.astype(np.int64)
        if positions.min() < -len(self) or positions.max() >= len(self):
            raise IndexError(f"a position is outside of the {len(self)} samples")
        return positions % len(self)
