"""Distances between two sets of features, whatever network they come from.

Fréchet distance of Gaussians (FID's formula, Heusel et al., 2017), and improved precision and recall
(Kynkäänniemi et al., 2019). The kernel distance (KID's) is in `viewgen_pretrained.quality`.
"""

import torch
from torch import Tensor

from viewgen.errors import UsageError

__all__ = ["frechet_distance", "precision_recall"]

ROWS_AT_ONCE = 1024


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖μx − μy‖² + tr(Σx + Σy − 2·(Σx·Σy)^½) of features `(N, D)` and `(M, D)`, in float64.

    Σ is the unbiased covariance. With few samples the value is biased upwards, so that only values of equal
    counts compare.

    Raises:
        UsageError: fewer than two features on a side.
    """
    if min(len(x), len(y)) < 2:
        raise UsageError(f"a Fréchet distance needs two features on each side, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    cov_x, cov_y = _covariance(x, mean_x), _covariance(y, mean_y)
    # (Σx·Σy)^½ has the trace of (R·Σx·R)^½ with R = Σy^½, which is symmetric
    values, vectors = torch.linalg.eigh(cov_y)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_x @ root).clamp_min(0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def _covariance(x: Tensor, mean: Tensor) -> Tensor:
    centred = x - mean
    return centred.T @ centred / (len(x) - 1)


def precision_recall(generated: Tensor, real: Tensor, *, num_neighbours: int = 3) -> tuple[float, float]:
    """Return improved precision and recall of generated features `(N, D)` against real ones `(M, D)`.

    Precision is the share of generated features within the reach of a real one, recall the share of real
    ones within the reach of a generated one; a feature's reach is its distance to its k-th nearest neighbour
    in its own set.

    Args:
        generated: features of samples.
        real: features of images.
        num_neighbours: k.

    Raises:
        UsageError: a set has no more than k features.
    """
    if min(len(generated), len(real)) <= num_neighbours:
        raise UsageError(
            f"precision and recall with {num_neighbours} neighbours need more features than that on each "
            f"side, got {len(generated)} and {len(real)}"
        )
    generated, real = generated.double(), real.double()
    return (
        _share_within(generated, real, _reach(real, num_neighbours)),
        _share_within(real, generated, _reach(generated, num_neighbours)),
    )


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # by matrix products: in float64 they keep enough of the small distances between neighbours
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")


def _reach(features: Tensor, num_neighbours: int) -> Tensor:
    # the nearest of all is the feature itself
    parts = features.split(ROWS_AT_ONCE)
    return torch.cat(
        [_distances(part, features).kthvalue(num_neighbours + 1, dim=1).values for part in parts]
    )


def _share_within(probes: Tensor, centres: Tensor, reach: Tensor) -> float:
    hits = [(_distances(part, centres) <= reach).any(dim=1) for part in probes.split(ROWS_AT_ONCE)]
    return float(torch.cat(hits).double().mean())
