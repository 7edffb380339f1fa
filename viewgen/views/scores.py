"""Scores of a cache's views: which views are drawn, and with what weight.

Shape legend: N images, V views of each.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import MissingFileError, UsageError, nearest_name
from viewgen.store import CacheReader, Storage, open_storage
from viewgen.store.quality import read_scores
from viewgen.views.cached import CachedConfig
from viewgen.views.source import ViewScores

__all__ = ["load_scores", "score_values", "scores_digest"]


def load_scores(
    reader: CacheReader, config: Any, storage_options: dict[str, Any] | None = None
) -> ViewScores | None:
    """Return the scores that a training uses; None if its settings use none.

    Args:
        reader: the cache; only its readable rows count.
        config: settings of the view source; those of cached views may name a score.
        storage_options: options of the cache's file system.

    Raises:
        MissingFileError: the cache has no such scores yet.
        UsageError: it has scores, but none of that name.
    """
    if not isinstance(config, CachedConfig) or config.score is None:
        return None
    name, sign = config.score.removeprefix("-"), -1 if config.score.startswith("-") else 1
    values = score_values(reader, name, open_storage(reader.url, storage_options))
    return _settled(torch.from_numpy(sign * values), config.drop_below)


def score_values(reader: CacheReader, name: str, storage: Storage) -> NDArray[np.float32]:
    """Return a score of all views, float32 `(N, V)`; NaN where unknown.

    Args:
        reader: the cache; only its readable rows count.
        name: ``"distance"``, another array with a number for each view, or a score that `viewgen measure
            --write-columns` has written.
        storage: storage of the cache.

    Raises:
        MissingFileError: the cache has no such scores yet.
        UsageError: it has scores, but none of that name.
    """
    spec = reader.spec
    values = np.full((spec.num_images, spec.num_views), np.nan, np.float32)
    own = ["distance", *(c.name for c in spec.columns if c.per_view and not c.codes and not c.shape)]
    if name in own:
        values[reader.rows] = reader.array(name)
    else:
        kept = read_scores(storage, spec)
        if not kept:
            raise MissingFileError(
                f"the cache at {reader.url} has no scores of its views yet; compute them with\n"
                f"  viewgen measure {reader.url} --write-columns"
            )
        if name not in kept:
            known = (*own, *kept)
            raise UsageError(
                f"score is {name!r}{nearest_name(name, known)}; the cache has {', '.join(known)}"
            )
        values[reader.rows] = kept[name][reader.rows]
    return values


def _settled(values: Tensor, drop_below: float) -> ViewScores:
    """Return the mask of views above the quantile, and the standardised scores of those."""
    keep = torch.ones(values.shape, dtype=torch.bool)
    known = values[torch.isfinite(values)]
    if len(known) and drop_below:
        # NumPy's quantile has no limit on the number of values
        least = float(np.quantile(known.numpy(), drop_below))
        keep = ~(values < least)
    used = values[keep & torch.isfinite(values)].double()
    mean = used.mean() if len(used) else 0.0
    deviation = used.std().clamp_min(1e-12) if len(used) > 1 else 1.0
    return ViewScores(keep=keep, standard=((values.double() - mean) / deviation).float())


def scores_digest(scores: ViewScores) -> str:
    """Return a digest of what a training uses of the scores, for its identity."""
    digest = hashlib.sha256(scores.keep.numpy().tobytes())
    digest.update(np.nan_to_num(scores.standard.numpy(), nan=0.0).tobytes())
    return digest.hexdigest()[:16]
