"""The work on one shard, without an executor: read, run the method, find bad samples, assemble the arrays.

B is the number of samples handed to the method, R the rows of the shard.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.errors import CorruptDataError, DataError, LeaseError, MissingFileError, StorageError
from viewgen.memory import is_out_of_memory
from viewgen.status import Status
from viewgen.store import CacheSpec

__all__ = ["PAIRWISE_BINS", "Batch", "ShardError", "assemble", "run_finding_bad_samples", "shard_stats"]

Batch = dict[str, NDArray[Any]]

# Edges of the bins in which commit records count images by the mean distance between their views.
PAIRWISE_BINS: NDArray[np.float64] = np.linspace(0, 2, 101)

# Errors of the surroundings: no sample is to blame, and trying them one by one would blame all.
_ENVIRONMENT = (StorageError, MissingFileError, CorruptDataError, LeaseError, MemoryError)
# As many failures before anything succeeded mean that the method fails, not the samples.
_MAX_FAILURES_WITHOUT_SUCCESS = 8


class ShardError(RuntimeError):
    """Failure of the method on a whole shard."""


def run_finding_bad_samples(
    step: Callable[[NDArray[np.int64]], Batch], rows: NDArray[np.int64]
) -> tuple[list[tuple[NDArray[np.int64], Batch]], dict[int, str]]:
    """Run `step` on `rows`; if it raises, halve the rows until the samples that raise are isolated.

    Args:
        step: function from rows `(B,)` to arrays with first axis B.
        rows: rows of the cache, `(R,)`.

    Returns:
        The parts that succeeded as (rows, outputs), in order, and row → reason of the samples that raised.

    Raises:
        ShardError: no sample succeeds.
    """
    parts: list[tuple[NDArray[np.int64], Batch]] = []
    failures: dict[int, str] = {}
    waiting = [rows] if len(rows) else []
    while waiting:
        part = waiting.pop()
        try:
            parts.append((part, step(part)))
        except _ENVIRONMENT:
            raise
        except Exception as error:
            if len(part) > 1:
                # The right half goes below the left one: order stays, and a bad sample is met soon.
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
                continue
            if is_out_of_memory(error):
                raise
            failures[int(part[0])] = f"{type(error).__name__}: {error}"
            if not parts and (len(failures) >= _MAX_FAILURES_WITHOUT_SUCCESS or not waiting):
                raise ShardError(
                    f"every sample tried fails, the last with {failures[int(part[0])]}"
                ) from error
    return parts, failures


def assemble(
    spec: CacheSpec,
    shard_id: int,
    dataset_batch: Batch,
    parts: list[tuple[NDArray[np.int64], Batch]],
) -> Batch:
    """Put the outputs of a shard's parts into its arrays; rows without output get status 3 and fill values.

    Args:
        spec: specification of the cache.
        shard_id: number of the shard.
        dataset_batch: `source_index` `(R,)`, `label` `(R, *label_shape)` and, if the cache stores them,
            `real_target` `(R, ·)` of all rows.
        parts: parts returned by `run_finding_bad_samples`.

    Raises:
        DataError: the method returned arrays of another shape, or no array where one is needed.
    """
    rows = spec.shard_rows(shard_id)
    arrays: Batch = {}
    for name, layout in spec.array_layout().items():
        array = np.full((len(rows), *layout.row_shape), layout.fill, layout.dtype)
        if name in dataset_batch:
            array[:] = dataset_batch[name]
        elif name == "status":
            array[:] = Status.FAILED
        arrays[name] = array
        if name in dataset_batch:
            continue
        for part_rows, outputs in parts:
            if name not in outputs:
                raise DataError(f"method {spec.method!r} returned no {name!r}, only {sorted(outputs)}")
            expected = (len(part_rows), *layout.row_shape)
            if outputs[name].shape != expected:
                raise DataError(
                    f"method {spec.method!r} returned {name!r} {outputs[name].shape}, expected {expected}"
                )
            array[part_rows - rows.start] = outputs[name]
    failed = arrays["status"] == Status.FAILED
    arrays["views"][failed] = 0
    return arrays


def shard_stats(
    spec: CacheSpec, arrays: Batch, parts: list[tuple[NDArray[np.int64], Batch]]
) -> dict[str, Any]:
    """Return statistics for the commit record: samples by status, means over readable rows."""
    stats: dict[str, Any] = {
        "num_ok": int((arrays["status"] == Status.OK).sum()),
        "num_not_converged": int((arrays["status"] == Status.NOT_CONVERGED).sum()),
        "num_failed": int((arrays["status"] == Status.FAILED).sum()),
    }
    continued = [outputs["continued"] for _, outputs in parts if "continued" in outputs]
    if continued:
        stats["num_continued"] = int(np.concatenate(continued).sum())
    for name in ("mean_pairwise", "anchor_distance"):
        values = [
            outputs[name][np.isin(outputs["status"], (Status.OK, Status.NOT_CONVERGED))]
            for _, outputs in parts
            if name in outputs
        ]
        finite = np.concatenate([value[np.isfinite(value)] for value in values]) if values else np.empty(0)
        if not finite.size:
            continue
        stats[name] = float(finite.mean())
        if name == "mean_pairwise":
            # per image there is no array of it, and a mean does not show how it is spread
            stats["mean_pairwise_counts"] = np.histogram(finite, PAIRWISE_BINS)[0].tolist()
        epsilon = spec.config.get("epsilon_boundary")
        if name == "anchor_distance" and epsilon is not None:
            stats["num_anchors_beyond"] = int((finite > epsilon).sum())
    return stats
