"""Contrastive losses on unit vectors; every loss is a mean over its anchors.

Shape legend: N images, D projection dimensions; row i of the two arguments shows the same image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["info_nce", "simclr"]


def simclr(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's NT-Xent (eq. 1 of the paper): 2N anchors, each against the 2N − 1 other views.

    Args:
        z1, z2: unit vectors of two views, `(N, D)`.
        temperature: τ.

    Returns:
        the mean over the 2N anchors, `()`.
    """
    z = torch.cat([z1, z2])
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
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
