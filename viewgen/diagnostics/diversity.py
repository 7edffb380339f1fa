"""Diversity of an image's views in pixels, and in LPIPS where its weights are at hand.

The root mean square difference of two views of one image, in shares of the pixel range, averaged over all
pairs; LPIPS likewise. Diversity says nothing of the views' worth: noise is diverse.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al., 2018 (LPIPS),
    https://arxiv.org/abs/1801.03924
    Toward Multimodal Image-to-Image Translation, Zhu et al., 2017 (LPIPS between pairs as diversity),
    https://arxiv.org/abs/1711.11586
"""

import torch
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_over_images
from viewgen.diagnostics.lpips import mean_lpips
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.view_sample import NUM_IMAGES, ViewSample, by_images, view_sample
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Diversity", "DiversityConfig", "pixel_diversity"]


class DiversityConfig(Settings):
    """Images of the measurement."""

    title = "diversity"

    num_images: int = setting(NUM_IMAGES, "images whose views are compared, at most", ge=1)
    num_lpips: int = setting(32, "images whose views LPIPS compares, at most; 0 for none", ge=0)


def pixel_diversity(views: Tensor) -> Tensor:
    """Return the mean over pairs of views `(B, V, C, H, W)`, 0 to 255, of their rms difference, `(B,)`."""
    flat = views.flatten(2).float() / 255
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[2] ** 0.5
    num_views = views.shape[1]
    mean: Tensor = distance.sum(dim=(1, 2)) / max(1, num_views * (num_views - 1))
    return mean


class Diversity:
    """Differences between the views of an image.

    Args:
        config: images of the measurement.
    """

    needs = frozenset({"cache", "train"})

    def __init__(self, config: DiversityConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return means over images; none for caches with one view of each."""
        sample = view_sample(subject, self.config.num_images)
        if sample.num_views < 2:
            subject.note("diversity was not measured: there is one view of each image")
            return []
        pixels = by_images(pixel_diversity, sample.views)
        statistic = mean_over_images(pixels)
        measures = [bootstrap_measure("pixel_diversity", statistic, len(sample), seed=seed, on=sample.of)]
        if self.config.num_lpips:
            measures += self._lpips(subject, sample, seed)
        return measures

    def _lpips(self, subject: Subject, sample: ViewSample, seed: int) -> list[Measure]:
        first, second = torch.triu_indices(sample.num_views, sample.num_views, 1)
        views = map(torch.from_numpy, sample.views[: self.config.num_lpips])
        found = mean_lpips(subject, views, first, second)
        if found is None:
            return []
        on = f"{len(found):,} images"
        return [bootstrap_measure("lpips_diversity", mean_over_images(found), len(found), seed=seed, on=on)]


ENTRY = Entry(
    name="diversity",
    summary="differences between an image's views in pixels, and in LPIPS where it is at hand",
    settings=DiversityConfig,
    needs=Diversity.needs,
    build=Diversity,
)
