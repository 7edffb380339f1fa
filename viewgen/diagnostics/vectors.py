"""Feature vectors by name: those of an encoder's images, or of a file that another program wrote.

A file is a NumPy ``.npz`` with ``features``, `(N, D)` numbers, and ``id``, the N names that a table of
outcomes calls them by.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets.arrays import opened_arrays, read_array
from viewgen.datasets.files import open_file
from viewgen.errors import DataError

__all__ = ["Vectors", "read_vectors"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """Features of N things.

    Attributes:
        names: name of each; of images, the source index.
        read: function that computes or returns them, float32 `(N, D)`, on the CPU.
    """

    names: tuple[str, ...]
    read: Callable[[], Tensor]


def read_vectors(path: Path) -> Vectors:
    """Read a file of vectors.

    Raises:
        MissingFileError: there is no such file.
        CorruptDataError: it is no ``.npz`` file, or is damaged.
        OutOfMemoryError: its features do not fit into the free memory.
        DataError: an array is missing, has another shape, or holds numbers that are not finite; a name occurs
            twice.
    """
    with open_file(str(path)) as file, opened_arrays(file, str(path)) as arrays:
        missing = sorted({"features", "id"} - {*arrays.files})
        if missing:
            raise DataError(
                f"{path} lacks {', '.join(missing)} (it has {', '.join(arrays.files) or 'nothing'}); "
                "expected features, (N, D), and id, (N,), as numpy.savez(PATH, features=features, "
                "id=names) writes them"
            )
        features = np.asarray(read_array(arrays, "features", str(path)), np.float32)
        names = read_array(arrays, "id", str(path))
    if features.ndim != 2 or names.shape != features.shape[:1]:
        raise DataError(
            f"{path}: features have shape {features.shape} and id {names.shape}; expected (N, D) and (N,)"
        )
    if not np.isfinite(features).all():
        raise DataError(f"{path}: a feature is not finite")
    found = tuple(map(str, names.tolist()))
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise DataError(f"{path}: id {twice!r} occurs twice; expected a vector of each")
    return Vectors(names=found, read=lambda: torch.from_numpy(features))
