"""NNCLR: the positive of a view is the nearest neighbour of the other view in a queue.

For projection z_i, prediction p_i of the other view and nearest neighbour n(z) in the queue, the loss is
−log(exp(n(z_i)·p_i/τ) / Σ_k exp(n(z_i)·p_k/τ)) over the N predictions of the batch, mean over both
assignments of the views. The first view's projections join the queue after the step.

In A1 one view is generated. A2 is not defined: its alignment is between views of one image, and the positives
here are other images.

Shape legend: N images, K projections in the queue, D projection dimension.

References:
    With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations,
    Dwibedi et al., 2021, equations 2 and 3, https://arxiv.org/abs/2104.14548
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.settings import Settings, setting
from viewgen_train.objectives.contrast import Contrast, info_nce_of
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, Widths, weighted_mean
from viewgen_train.objectives.queue import Queue, check_queue

__all__ = ["ENTRY", "NNCLR", "NNCLRSettings", "nearest", "nnclr"]


class NNCLRSettings(Settings):
    """Settings of NNCLR; the defaults are the authors'."""

    title = "nnclr"

    temperature: float = setting(0.1, "τ", gt=0)
    queue_size: int = setting(98304, "K, projections in the queue, at least a batch", ge=1)


def nearest(z: Tensor, queue: Tensor) -> Tensor:
    """Return each vector's nearest neighbour in the queue.

    Args:
        z: unit vectors, `(N, D)`.
        queue: unit vectors, `(K, D)`.

    Returns:
        `(N, D)`, without a gradient.
    """
    with torch.no_grad():
        return queue[(z @ queue.T).argmax(dim=1)]


def nnclr(neighbours: Tensor, p: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Return NNCLR's loss in one direction.

    Args:
        neighbours: nearest neighbours of one view's projections, unit vectors `(N, D)`.
        p: predictions of the other view, unit vectors `(N, D)`.
        temperature: temperature τ.
        weights: weight of each pair, `(N,)`; None for 1.

    Returns:
        mean over the N neighbours, `()`.
    """
    target = torch.arange(len(p), device=p.device)
    return weighted_mean(F.cross_entropy(neighbours @ p.T / temperature, target, reduction="none"), weights)


class NNCLR(nn.Module):
    """NNCLR of two views.

    Args:
        settings: settings of NNCLR.
    """

    num_expert, num_generated = 0, 2
    head = Head(projector="nnclr", predictor=True, predictor_width=16.0, unit=False)

    def __init__(self, settings: NNCLRSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.queue = Queue(settings.queue_size)

    def allocate(self, widths: Widths) -> None:
        """Fill the queue with random projections."""
        self.queue.allocate(widths.projections)

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views."""
        (first, second), p = self._compared(out)
        loss = nnclr(first, p[0], self.temperature, out.pair_weights)
        return {"loss": (loss + nnclr(second, p[1], self.temperature, out.pair_weights)) / 2}

    def _compared(self, out: Outputs) -> tuple[list[Tensor], Tensor]:
        """Return the neighbours of each view, and the predictions of the other view, `(2, N, D)`."""
        assert out.p is not None
        z, p = F.normalize(out.z[:2], dim=2), F.normalize(out.p[:2], dim=2)
        return [nearest(view, self.queue.keys) for view in z], p.flip(0)

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of neighbours and predictions of the batch, A = 2N and M = N − 1."""
        pairs = zip(*self._compared(out), strict=True)
        logits = torch.cat([found @ p.T for found, p in pairs]) / self.temperature
        positive = torch.arange(logits.shape[1], device=logits.device).repeat(2)
        weights = None if out.pair_weights is None else out.pair_weights.repeat(2)
        return Contrast.of_columns(logits, positive, self.temperature, weights)

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits."""
        return info_nce_of(contrast)

    def after_step(self, out: Outputs) -> None:
        """Put the projections of the first view into the queue."""
        self.queue.push(F.normalize(out.z[0], dim=1))


def _check(settings: NNCLRSettings, optimiser: Any) -> None:
    check_queue(settings.queue_size, optimiser)


ENTRY = ObjectiveEntry(
    name="nnclr",
    summary="NNCLR: nearest neighbours in a queue as positives",
    settings=NNCLRSettings,
    build=NNCLR,
    bears=frozenset({"A1", "IFM", "hard negatives"}),
    pair_weights=True,
    check=_check,
    reasons={
        "A2": "its positives are nearest neighbours, views of other images, so that nothing says where a "
        "generated view of the same image belongs"
    },
)
