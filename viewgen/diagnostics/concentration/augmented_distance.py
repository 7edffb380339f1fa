"""Augmented distance d_A: the smallest Euclidean distance in pixels between views of two images.

Squared distances come from matrix products over tiles of images, in float32 after the mean is subtracted. A
difference of large numbers loses digits, so pairs whose squared distance is below a thousandth of a view's
squared norm are computed again in float64. Pixels are whole numbers, hence that is exact. d_A is no metric:
it has no triangle inequality.

Shape legend: N images, M views of each (the image itself may be one of them), D pixel values, I, J images of
a tile.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    definition 1, https://arxiv.org/abs/2111.00743
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["augmented_distances", "flat_views"]

VIEWS_AT_ONCE = 2048
CANCELLING = 1e-3
# share of a tile's pairs above which one large product is quicker than one small product per pair
DENSE = 0.1
VALUES_AT_ONCE = 1 << 22
LEVELS = 255.0


def augmented_distances(
    views: NDArray[np.uint8],
    *,
    views_at_once: int = VIEWS_AT_ONCE,
    device: torch.device | str = "cpu",
    tell: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Return d_A of all pairs of images, float32 `(N, N)` on the CPU, pixels in [0, 1]; 0 on the diagonal.

    Args:
        views: views of each image, uint8 `(N, M, …)`.
        views_at_once: views on either side of a tile; no effect on the distances beyond rounding.
        device: device of the matrix products.
        tell: progress callback, called with the number of finished pairs of images.
    """
    flat, repeats = flat_views(views)
    num_images, num_views = flat.shape[:2]
    centre = _mean(flat).to(device)
    squared = torch.zeros(num_images, num_images)
    size = max(1, views_at_once // num_views)
    done = 0
    for top in range(0, num_images, size):
        rows = flat[top : top + size]
        u, u_norm = _lifted(rows, centre, left=True)
        for left in range(top, num_images, size):
            columns = flat[left : left + size]
            v, v_norm = _lifted(columns, centre, left=False)
            nearest = (u @ v.T).view(num_views, len(rows), num_views, len(columns)).amin(dim=(0, 2))
            near = nearest < CANCELLING * torch.maximum(u_norm[:, None], v_norm)
            if top == left:
                # of a tile on the diagonal one half is needed, and no image with itself
                near.triu_(1)
            nearest = nearest.cpu()
            _recompute(nearest, near.cpu(), rows, columns)
            if top == left:
                nearest = nearest.triu(1)
                nearest += nearest.T.clone()
            squared[top : top + size, left : left + size] = nearest
            squared[left : left + size, top : top + size] = nearest.T
            done += len(rows) * len(columns)
            tell(done)
    return squared.clamp_min_(0).mul_(repeats).sqrt_().div_(LEVELS)


def flat_views(views: NDArray[np.uint8]) -> tuple[Tensor, int]:
    """Return views `(N, M, …)` as `(N, M, D)`; of equal channels only one, and how many there were."""
    if views.ndim == 5 and views.shape[2] > 1 and bool((views == views[:, :, :1]).all()):
        repeats = views.shape[2]
        views = views[:, :, :1]
    else:
        repeats = 1
    views = np.ascontiguousarray(views)
    if not views.flags.writeable:
        views = views.copy()
    return torch.from_numpy(views.reshape(*views.shape[:2], -1)), repeats


def _mean(flat: Tensor) -> Tensor:
    """Return the mean of all views, `(D,)`."""
    total = torch.zeros(flat.shape[2], dtype=torch.float64)
    for part in flat.split(max(1, VALUES_AT_ONCE // flat[0].numel())):
        total += part.sum(dim=(0, 1), dtype=torch.float64)
    return (total / (flat.shape[0] * flat.shape[1])).float()


def _lifted(images: Tensor, centre: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return views `(M·I, D + 2)` whose inner products are squared distances, and each image's largest norm.

    ‖u − v‖² = ⟨(−2u, ‖u‖², 1), (v, 1, ‖v‖²)⟩.
    """
    x = images.transpose(0, 1).to(centre.device).float().sub_(centre)
    norm = x.square().sum(dim=2, keepdim=True)
    one = torch.ones_like(norm)
    lifted = torch.cat([-2 * x, norm, one] if left else [x, one, norm], dim=2)
    return lifted.flatten(0, 1), norm[..., 0].amax(dim=0)


def _recompute(nearest: Tensor, near: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Replace the squared distances of some pairs of a tile, bool `(I, J)`, by exact ones."""
    pairs = near.nonzero()
    num_views, dim = rows.shape[1:]
    if len(pairs) > DENSE * near.numel():
        nearest.copy_(_exact(rows, columns))
        return
    for part in pairs.split(max(1, VALUES_AT_ONCE // (num_views * dim))):
        if not len(part):
            return
        # whole numbers below 2^53: every sum is exact
        u, v = rows[part[:, 0]].double(), columns[part[:, 1]].double()
        norms = u.square().sum(dim=2)[:, :, None] + v.square().sum(dim=2)[:, None]
        exact = torch.baddbmm(norms, u, v.transpose(1, 2), alpha=-2)
        nearest[part[:, 0], part[:, 1]] = exact.amin(dim=(1, 2)).float()


def _exact(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the exact squared distances of all pairs of a tile, `(I, J)`."""
    u, v = (images.transpose(0, 1).flatten(0, 1).double() for images in (rows, columns))
    squared = u.square().sum(dim=1)[:, None] + v.square().sum(dim=1) - 2 * (u @ v.T)
    shape = (rows.shape[1], len(rows), columns.shape[1], len(columns))
    return squared.view(shape).amin(dim=(0, 2)).float()
