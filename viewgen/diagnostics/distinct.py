"""Distinct views: how many views of an image f can tell apart, and the closest two.

Views are counted greedily in their order: one counts if it lies farther than ε₁/2 from all that were counted
before it, so the number is that of an ε₁/2-packing. A duplicate is a view whose pixels differ from an earlier
view of its image by at most one grey level, root mean square.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023 (ε₁), https://arxiv.org/abs/2304.00601
    High-Dimensional Probability, Vershynin, 2018, section 4.2 (packings),
    https://doi.org/10.1017/9781108231596
"""

import torch
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_over_images
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.view_sample import NUM_IMAGES, by_images, sample_projections, view_sample
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Distinct", "DistinctConfig", "greedy_count", "num_duplicates"]

GREY_LEVEL = 1.0


class DistinctConfig(Settings):
    """Images of the measurement."""

    title = "distinct"

    num_images: int = setting(NUM_IMAGES, "images whose views are compared, at most", ge=1)
    share: float = setting(0.5, "share of ε₁ beyond which two views are distinct", gt=0)


def greedy_count(distance: Tensor, radius: float) -> Tensor:
    """Return how many views are counted, int64 `(B,)`, for distances between them `(B, V, V)`."""
    counted = torch.zeros(distance.shape[:2], dtype=torch.bool)
    for view in range(distance.shape[1]):
        near = (distance[:, view] <= radius) & counted
        counted[:, view] = ~near.any(dim=1)
    return counted.sum(dim=1)


def num_duplicates(views: Tensor) -> Tensor:
    """Return how many views `(B, V, C, H, W)`, 0 to 255, repeat an earlier one, int64 `(B,)`."""
    flat = views.flatten(2).float()
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[2] ** 0.5
    earlier = torch.ones(distance.shape[1:], dtype=torch.bool).tril(-1)
    repeated: Tensor = ((distance <= GREY_LEVEL) & earlier).any(dim=2).sum(dim=1)
    return repeated


class Distinct:
    """Number of distinct views, closest pair, duplicates.

    Args:
        config: images of the measurement.
    """

    needs = frozenset({"cache", "train", "encoder"})

    def __init__(self, config: DistinctConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return means over the images; distances are those of f's unit vectors."""
        sample = view_sample(subject, self.config.num_images)
        z = sample_projections(subject, self.config.num_images).views
        distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        found = {"duplicate_views": by_images(num_duplicates, sample.views) / sample.num_views}
        if sample.epsilon is None:
            subject.note(
                "distinct views were not counted: neither the cache nor the recipe has ε₁ as a number"
            )
        else:
            found["distinct_views"] = greedy_count(distance, self.config.share * sample.epsilon).double()
        if sample.num_views > 1:
            eye = torch.eye(sample.num_views, dtype=torch.bool)
            found["closest_pair"] = distance.masked_fill(eye, torch.inf).amin(dim=(1, 2))
        on = f"{sample.of}, {sample.num_views} views each"
        return [
            bootstrap_measure(name, mean_over_images(values), len(sample), seed=seed, on=on)
            for name, values in found.items()
        ]


ENTRY = Entry(
    name="distinct",
    summary="distinct views of an image under the encoder, closest pair, duplicates",
    settings=DistinctConfig,
    needs=Distinct.needs,
    build=Distinct,
)
