"""Contrastive losses; every loss is a mean over its anchors.

Projections are unit vectors, except where SimSiam takes them as they leave the projector. Row i of every
argument shows the same image.

Shape legend: N images, m generated views of each, D projection dimensions.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["a2", "a2_full", "a2_simclr", "a2_simsiam", "alignment", "info_nce", "simclr", "simsiam"]


def _without_diagonal(logits: Tensor) -> Tensor:
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(diagonal, float("-inf"))


def simclr(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's NT-Xent (eq. 1 of the paper): 2N anchors, each against the 2N − 1 other views.

    Args:
        z1, z2: unit vectors of two views, `(N, D)`.
        temperature: τ.

    Returns:
        the mean over the 2N anchors, `()`.
    """
    z = torch.cat([z1, z2])
    logits = _without_diagonal(z @ z.T / temperature)
    positives = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(logits, positives)


def info_nce(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """InfoNCE (eq. 5 of the paper): N×N cross-view logits, both directions averaged.

    Args:
        z1, z2: unit vectors of two views, `(N, D)`.
        temperature: τ.

    Returns:
        the mean over the 2N anchors, `()`.
    """
    logits = z1 @ z2.T / temperature
    target = torch.arange(len(z1), device=z1.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def alignment(z1: Tensor, z2: Tensor, generated: Tensor, temperature: float) -> Tensor:
    """Return L_align of eq. 3 without its weight: the mean of z_i·z_p / τ over both expert views i and all p.

    Args:
        z1, z2: unit vectors of the expert views, `(N, D)`.
        generated: unit vectors of the generated views, `(m, N, D)`.
        temperature: τ.

    Returns:
        `()`.
    """
    return ((z1 + z2) * generated.mean(dim=0)).sum(dim=1).mean() / (2 * temperature)


def a2(z1: Tensor, z2: Tensor, generated: Tensor, temperature: float, alpha: float) -> Tensor:
    """A2 (eq. 3): InfoNCE of the expert views, and α times their alignment with the generated ones.

    Args:
        z1, z2, generated, temperature: see `alignment`.
        alpha: α.

    Returns:
        the mean over the 2N anchors, `()`.
    """
    return info_nce(z1, z2, temperature) - alpha * alignment(z1, z2, generated, temperature)


def a2_simclr(z1: Tensor, z2: Tensor, generated: Tensor, temperature: float, alpha: float) -> Tensor:
    """A2-SimCLR (eq. 7): as `a2`, with SimCLR's loss in the place of InfoNCE."""
    return simclr(z1, z2, temperature) - alpha * alignment(z1, z2, generated, temperature)


def a2_full(
    z1: Tensor,
    z2: Tensor,
    generated: Tensor,
    temperature: float,
    anchors: Literal["all", "expert"] = "all",
) -> Tensor:
    """A2-full (eq. 6): SupCon over all views of an image, the mean over positives outside the logarithm.

    The paper names SupCon as its source, where every view is an anchor and every other view a negative
    (`anchors="all"`). Read with the index sets of eq. 1, eq. 6 sums over the 2N expert views, and the
    generated ones are positives only (`anchors="expert"`). The second minus sign of the printed equation is
    a slip.

    Args:
        z1, z2, generated, temperature: see `alignment`.
        anchors: the views that are anchors and stand in the denominators.

    Returns:
        the mean over the (2 + m)·N or 2N anchors, `()`.
    """
    num_images = len(z1)
    expert = torch.cat([z1, z2])
    views = torch.cat([expert, generated.flatten(0, 1)])
    chosen = views if anchors == "all" else expert
    logits = chosen @ views.T / temperature
    denominator = torch.logsumexp(_without_diagonal(logits[:, : len(chosen)]), dim=1)
    image = torch.arange(len(views), device=views.device) % num_images
    positive = (image[: len(chosen), None] == image).fill_diagonal_(False)
    mean_positive = torch.where(positive, logits, 0).sum(dim=1) / positive.sum(dim=1)
    return (denominator - mean_positive).mean()


def _negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """D: negative cosines of `(…, D)` vectors, the target detached."""
    return -F.cosine_similarity(predicted, target.detach(), dim=-1)


def simsiam(z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    """SimSiam's symmetric negative cosine between predictions and detached projections.

    Args:
        z1, z2: projections of two views, `(N, D)`.
        p1, p2: their predictions, `(N, D)`.

    Returns:
        the mean over the 2N anchors, `()`.
    """
    return (_negative_cosine(p1, z2).mean() + _negative_cosine(p2, z1).mean()) / 2


def a2_simsiam(
    z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor, generated_predictions: Tensor, alpha: float
) -> Tensor:
    """A2-SimSiam (eq. 8): SimSiam, and α times D between the generated views' predictions and each z_i.

    Args:
        z1, z2: projections of the expert views, `(N, D)`.
        p1, p2: their predictions, `(N, D)`.
        generated_predictions: predictions of the generated views, `(m, N, D)`.
        alpha: α.

    Returns:
        the mean over the 2N anchors, `()`.
    """
    towards = torch.stack([z1, z2])[:, None]
    return simsiam(z1, z2, p1, p2) + alpha * _negative_cosine(generated_predictions[None], towards).mean()
