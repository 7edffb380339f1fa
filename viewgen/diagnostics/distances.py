"""Distances between two sets of features of any network, and between two images.

The kernel distance is the unbiased squared maximum mean discrepancy with the kernel (x·y/d + 1)³.

References:
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, Heusel et al., 2017
    (FID), https://arxiv.org/abs/1706.08500
    Demystifying MMD GANs, Bińkowski et al., 2018 (KID), https://arxiv.org/abs/1801.01401
    Improved Precision and Recall Metric for Assessing Generative Models, Kynkäänniemi et al., 2019,
    https://arxiv.org/abs/1904.06991
"""

import torch
from torch import Tensor

from viewgen.errors import UsageError

__all__ = ["frechet_distance", "kernel_distance", "precision_recall", "psnr"]

ROWS_AT_ONCE = 1024
KERNEL_ROWS = 1024


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖μx − μy‖² + tr(Σx + Σy − 2·(Σx·Σy)^½) of features `(N, D)` and `(M, D)`, in float64.

    Σ is the unbiased covariance. With few samples the value is biased upwards, so only values of equal sample
    counts are comparable.

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


def kernel_distance(x: Tensor, y: Tensor, *, scaled: bool = True) -> float:
    """Return the unbiased squared maximum mean discrepancy between features, over all pairs.

    Args:
        x: features to judge, `(N, D)`.
        y: features of real images, `(M, D)`; their mean square sets the scale.
        scaled: divide the features by that scale. KID does not.

    Raises:
        UsageError: fewer than two features on a side.
    """
    if min(len(x), len(y)) < 2:
        raise UsageError(f"a kernel distance needs two features on each side, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    if scaled:
        scale = y.square().mean().sqrt()
        x, y = x / scale, y / scale
    dim = x.shape[1]

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([((part @ b.T / dim + 1) ** 3).sum() for part in a.split(KERNEL_ROWS)]).sum()

    def off_diagonal_mean(a: Tensor) -> Tensor:
        diagonal = ((a.square().sum(dim=1) / dim + 1) ** 3).sum()
        return (total(a, a) - diagonal) / (len(a) * (len(a) - 1))

    cross = total(x, y) / (len(x) * len(y))
    return float(off_diagonal_mean(x) + off_diagonal_mean(y) - 2 * cross)


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


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair of model images `(B, 3, H, W)`, dB, `(B,)`."""
    return 10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3)).clamp_min(1e-12))
