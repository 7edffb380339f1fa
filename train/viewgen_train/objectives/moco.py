"""MoCo v2: each query is compared with its key and with a queue of keys of past steps.

Keys are projections of the target network, a moving average of the trained one. For query q, key k₊ and
queue keys k_j, the loss is −log(exp(q·k₊/τ) / (exp(q·k₊/τ) + Σ_j exp(q·k_j/τ))). The first view is the query
and the second the key; the symmetric loss is the mean over both assignments (the notebook of the authors has
their sum). The keys of a step join the queue after it: those of the second view, or of both.

With a jigsaw branch of weight β (InfoMin) the patches of an image are a second query with the same key: the
loss is (1 − β)·L(q, k) + β·L(q_jigsaw, k).

In A1 the expert view is the query and a generated view the key. In A2 the generated views are further
positive keys, without negatives: − α · mean of q·k₃ / τ, the alignment of eq. 3 of Han et al. between queries
and keys.

Shape legend: N images, m generated views per image, K keys in the queue, D projection dimension.

References:
    Momentum Contrast for Unsupervised Visual Representation Learning, He et al., 2020, equation 1,
    https://arxiv.org/abs/1911.05722
    Improved Baselines with Momentum Contrastive Learning, Chen et al., 2020, https://arxiv.org/abs/2003.04297
    MoCo Demo: CIFAR-10 (symmetric loss, SplitBatchNorm),
    https://github.com/facebookresearch/moco/blob/colab-notebook/colab/moco_cifar10_demo.ipynb
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 5, https://arxiv.org/abs/2005.10243
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 3, https://arxiv.org/abs/2304.00601
"""

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting
from viewgen_train.objectives.alignment import alignment
from viewgen_train.objectives.contrast import Contrast, info_nce_of
from viewgen_train.objectives.entry import ALL_COMBINATORS, ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, Widths, weighted_mean
from viewgen_train.objectives.queue import Queue, check_queue

__all__ = ["ENTRY", "MoCo", "MoCoSettings", "moco"]


class MoCoSettings(Settings):
    """Settings of MoCo v2; the defaults are the authors' for ImageNet."""

    title = "moco"

    temperature: float = setting(0.2, "τ", gt=0)
    queue_size: int = setting(65536, "K, keys in the queue, at least a batch", ge=1)
    target_momentum: float = setting(0.999, "m, decay of the target network's moving average", ge=0, lt=1)
    final_target_momentum: float | None = setting(
        None, "decay at the end of the training, approached on a cosine; by default the same", ge=0, le=1
    )
    symmetric: bool = setting(False, "whether each view is a query and a key, in turn")
    key_batchnorm: Literal["shuffled", "split", "whole"] = setting(
        "shuffled",
        "batch statistics of the keys: over groups of images other than the queries' (shuffled), over groups "
        "while the queries' are over the whole batch (split), or over the whole batch",
    )
    key_groups: int = setting(8, "groups of a batch with statistics of their own", ge=2)
    jigsaw_weight: float = setting(
        0.0, "β, weight of the jigsaw branch, which InfoMin gives 0.5; 0 for no branch", since=2, ge=0, le=1
    )
    jigsaw_grid: int = setting(
        3, "cells along each side of an image of the jigsaw branch", since=2, ge=2, le=8
    )

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if self.symmetric and self.jigsaw_weight:
            raise UsageError("moco: the jigsaw branch has one key for an image; set symmetric=false")
        return self

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect beside the others' values, name → reason."""
        found = {"key_groups": "key_batchnorm is 'whole'"} if self.key_batchnorm == "whole" else {}
        return found if self.jigsaw_weight else {**found, "jigsaw_grid": "jigsaw_weight is 0"}


def moco(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return MoCo's loss.

    Args:
        queries: unit vectors, `(N, D)`.
        keys: unit vectors of the same images, `(N, D)`.
        queue: unit vectors of other images, `(K, D)`.
        temperature: temperature τ.
        weights: weight of each pair, `(N,)`; None for 1.

    Returns:
        mean over the N queries, `()`.
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.T], dim=1) / temperature
    first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return weighted_mean(F.cross_entropy(logits, first, reduction="none"), weights)


class MoCo(nn.Module):
    """MoCo v2 of two views.

    Args:
        settings: settings of MoCo.
    """

    num_expert, num_generated = 0, 2
    one_queue = True

    def __init__(self, settings: MoCoSettings) -> None:
        super().__init__()
        self.settings, self.temperature = settings, settings.temperature
        self.head = Head(
            momentum=settings.target_momentum,
            final_momentum=settings.final_target_momentum,
            one_sided=not settings.symmetric,
            key_groups=1 if settings.key_batchnorm == "whole" else settings.key_groups,
            shuffled=settings.key_batchnorm == "shuffled",
            jigsaw=settings.jigsaw_grid if settings.jigsaw_weight else 0,
        )
        self.queue = Queue(settings.queue_size)

    def allocate(self, widths: Widths) -> None:
        """Fill the queue with random keys."""
        self.queue.allocate(widths.projections)

    def num_candidates(self, num_images: int) -> int:
        """Return K + 1, the key and the queue."""
        return len(self.queue.keys) + 1

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views and, with a jigsaw branch, its terms."""
        assert out.target is not None
        z, keys, queue = out.z, out.target, self.queue.keys
        loss = moco(z[0], keys[1], queue, self.temperature, out.pair_weights)
        if self.settings.symmetric:
            loss = (loss + moco(z[1], keys[0], queue, self.temperature, out.pair_weights)) / 2
        if out.jigsaw is None:
            return {"loss": loss}
        weight = self.settings.jigsaw_weight
        jigsaw = moco(out.jigsaw[0], keys[1], queue, self.temperature, out.pair_weights)
        mixed = (1 - weight) * loss + weight * jigsaw
        return {"loss": mixed, "contrastive_loss": loss, "jigsaw_loss": jigsaw}

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of the queries with their keys and the queue, A = N, or 2N if symmetric."""
        assert out.target is not None
        count = 2 if self.settings.symmetric else 1
        queries, keys = out.z[:count].flatten(0, 1), out.target[:2].flip(0)[:count].flatten(0, 1)
        return Contrast(
            positives=(queries * keys).sum(dim=1, keepdim=True) / self.temperature,
            negatives=queries @ self.queue.keys.T / self.temperature,
            temperature=self.temperature,
            weights=None if out.pair_weights is None else out.pair_weights.repeat(count),
        )

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits."""
        return info_nce_of(contrast)

    def attraction(self, out: Outputs) -> Tensor:
        """Return the negative alignment of queries of the expert views and keys of the generated ones."""
        assert out.target is not None
        second = out.z[1] if self.settings.symmetric else out.z[0]
        return -alignment(out.z[0], second, out.target[2:], self.temperature, out.weights)

    def after_step(self, out: Outputs) -> None:
        """Put the step's keys into the queue."""
        assert out.target is not None
        self.queue.push(out.target[:2].flatten(0, 1) if self.settings.symmetric else out.target[1])


def _check(settings: MoCoSettings, optimiser: Any) -> None:
    check_queue(settings.queue_size, optimiser, 2 if settings.symmetric else 1)
    groups = 1 if settings.key_batchnorm == "whole" else settings.key_groups
    if optimiser.batch_size % groups or optimiser.batch_size < 2 * groups:
        raise UsageError(
            f"batch_size is {optimiser.batch_size}, which does not divide into {groups} groups of two or "
            "more images; change batch_size or key_groups, or set key_batchnorm=whole"
        )


ENTRY = ObjectiveEntry(
    name="moco",
    summary="MoCo v2: keys of a moving average, and a queue of them",
    settings=MoCoSettings,
    build=MoCo,
    bears=ALL_COMBINATORS,
    pair_weights=True,
    check=_check,
)
