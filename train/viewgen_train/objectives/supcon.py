"""SupCon over the views of an image: all are mutual positives, averaged outside the logarithm.

Shape legend: N images, K views per image, m of them generated, D projection dimension.

References:
    Supervised Contrastive Learning, Khosla et al., 2020, https://arxiv.org/abs/2004.11362
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 6 (A2-full), https://arxiv.org/abs/2304.00601
"""

from typing import Literal

import torch
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.contrast import Contrast, ContrastiveObjective, without_diagonal
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Outputs

__all__ = ["ENTRY", "SupCon", "SupConSettings", "a2_full"]


class SupConSettings(Settings):
    """Settings of SupCon."""

    title = "supcon"

    temperature: float = setting(0.5, "τ", gt=0)
    anchors: Literal["all", "expert"] = setting(
        "all", "views of A2 that are anchors and negatives: all, as in SupCon, or the 2N expert views"
    )


def a2_full(
    z1: Tensor,
    z2: Tensor,
    generated: Tensor,
    temperature: float,
    anchors: Literal["all", "expert"] = "all",
) -> Tensor:
    """Return A2-full (eq. 6): SupCon over all views of an image, averaged outside the logarithm.

    Han et al. cite SupCon, in which every view is an anchor and every other view is a negative
    (`anchors="all"`). With the index sets of eq. 1, eq. 6 sums over the 2N expert views, and generated views
    are positives only (`anchors="expert"`). The second minus sign of the printed equation is a typo.

    Args:
        z1, z2: unit vectors of the expert views, `(N, D)`.
        generated: unit vectors of the generated views, `(m, N, D)`.
        temperature: temperature τ.
        anchors: views that are anchors and appear in the denominators.

    Returns:
        mean over the (2 + m)·N or 2N anchors, `()`.
    """
    num_images = len(z1)
    expert = torch.cat([z1, z2])
    views = torch.cat([expert, generated.flatten(0, 1)])
    chosen = views if anchors == "all" else expert
    logits = chosen @ views.T / temperature
    denominator = torch.logsumexp(without_diagonal(logits[:, : len(chosen)]), dim=1)
    image = torch.arange(len(views), device=views.device) % num_images
    positive = (image[: len(chosen), None] == image).fill_diagonal_(False)
    mean_positive = torch.where(positive, logits, 0).sum(dim=1) / positive.sum(dim=1)
    return (denominator - mean_positive).mean()


class SupCon(ContrastiveObjective):
    """SupCon of the views of an image, without class labels.

    Args:
        settings: temperature τ and anchors.
    """

    any_views = True

    def __init__(self, settings: SupConSettings) -> None:
        self.settings, self.temperature = settings, settings.temperature

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of two or more views."""
        return {"loss": a2_full(out.z[0], out.z[1], out.z[2:], self.temperature, self.settings.anchors)}

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of the anchors; the first positive of each is an expert view in A2."""
        num_images = out.z.shape[1]
        views = out.z.flatten(0, 1)
        num_anchors = len(views) if self.settings.anchors == "all" else 2 * num_images
        logits = views[:num_anchors] @ views.T / self.temperature
        image = torch.arange(len(views), device=views.device) % num_images
        same_image = image[:num_anchors, None] == image
        positive = same_image.clone().fill_diagonal_(False)
        return Contrast(
            positives=logits[positive].view(num_anchors, -1),
            negatives=logits.masked_fill(same_image, float("-inf"))[:, :num_anchors],
            temperature=self.temperature,
        )

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the mean over positives, and over anchors, of −log softmax."""
        positives = contrast.positives
        compared = positives if self.settings.anchors == "all" else positives[:, :1]
        denominator = torch.logaddexp(torch.logsumexp(compared, dim=1), contrast.log_negatives())
        return (denominator - positives.mean(dim=1)).mean()


ENTRY = ObjectiveEntry(
    name="supcon",
    summary="SupCon over all views of an image (with A2: A2-full)",
    settings=SupConSettings,
    build=SupCon,
    bears=frozenset({"A1", "A2", "IFM"}),
    weighted=False,
    only_a2=frozenset({"anchors"}),
    reasons={
        "hard negatives": "in A2 its anchors have several positives, for which they are not defined, and "
        "without it is simclr, which bears them"
    },
)
