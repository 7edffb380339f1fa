"""Reach of the views in f: distances from the image and from its reconstruction, spread, steps.

ε₁ counts from the reconstruction. Where that lies farther from its image than ε₁, a view is nearer to another
image than the search knows; the two distances therefore stand side by side. An image that made no step has
the views of the search's start.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

import torch
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_over_images
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.view_sample import NUM_IMAGES, sample_projections, view_sample
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.distances import mean_pairwise_distance

__all__ = ["ENTRY", "Reach", "ReachConfig"]

NEAR_BOUNDARY = 0.05


class ReachConfig(Settings):
    """Images of the measurement."""

    title = "reach"

    num_images: int = setting(NUM_IMAGES, "images whose views are measured, at most", ge=1)


class Reach:
    """Distances of views, share of images without a step.

    Args:
        config: images of the measurement.
    """

    needs = frozenset({"cache", "train", "encoder"})

    def __init__(self, config: ReachConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return means over the images; distances are those of f's unit vectors."""
        sample = view_sample(subject, self.config.num_images)
        z = sample_projections(subject, self.config.num_images)
        found: dict[str, Tensor] = {
            "image_to_view": (z.views - z.images[:, None]).norm(dim=2).mean(dim=1),
        }
        if z.reconstructions is not None:
            off = (z.reconstructions - z.images).norm(dim=1)
            found["reconstruction_to_view"] = (z.views - z.reconstructions[:, None]).norm(dim=2).mean(dim=1)
            found["image_to_reconstruction"] = off
            if sample.epsilon is not None:
                found["reconstruction_beyond_epsilon"] = (off > sample.epsilon).double()
        if sample.epsilon is not None and sample.searched:
            apart = (z.views - z.anchors[:, None]).norm(dim=2)
            near = (apart - sample.epsilon).abs() <= NEAR_BOUNDARY
            found["views_near_epsilon"] = near.double().mean(dim=1)
        if sample.num_views > 1:
            found["spread"] = mean_pairwise_distance(z.views).mean(dim=1)
        if sample.searched:
            found["images_without_step"] = torch.from_numpy(sample.steps == 0).double()
        return [
            bootstrap_measure(name, mean_over_images(values), len(sample), seed=seed, on=sample.of)
            for name, values in found.items()
        ]


ENTRY = Entry(
    name="reach",
    summary="distances of views from image and reconstruction, spread, images without a step",
    settings=ReachConfig,
    needs=Reach.needs,
    build=Reach,
)
