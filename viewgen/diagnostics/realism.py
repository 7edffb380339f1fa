"""Realism of views: precision, recall, density, coverage and kernel distance against real images.

One view of each image, drawn at random, is compared with the real images of the sample, in f's features and
in a second space that no training has shaped (patches), or in Inception's where its weights are at hand.

A view lies near the image that it was made from, which proves nothing. The statistics are therefore those of
*other* images: the ball of a real image j, which reaches to its k-th nearest real neighbour, is compared with
the view of image i as if image i were not there, and no view is compared with its own image. For a copy of
the real images, density and coverage are then exactly 1 and the kernel distance exactly 0.

- precision: share of views within the ball of a real image;
- recall: share of real images within the ball of a view;
- density: mean number of balls that hold a view, divided by k;
- coverage: share of real images whose ball holds a view;
- kernel distance: unbiased squared maximum mean discrepancy, with the kernel (x·y/d + 1)³; the U-statistic
  over pairs of images (i, j), i ≠ j, of which view i and real image j are never of one image.

For scale, the kernel distance of the same images with their pixels shuffled: noise with the colours of the
data.

References:
    Improved Precision and Recall Metric for Assessing Generative Models, Kynkäänniemi et al., 2019,
    https://arxiv.org/abs/1904.06991
    Reliable Fidelity and Diversity Metrics for Generative Models, Naeem et al., 2020 (density, coverage),
    https://arxiv.org/abs/2002.09797
    A Kernel Two-Sample Test, Gretton et al., 2012, equation 4, https://jmlr.org/papers/v13/gretton12a.html
    Demystifying MMD GANs, Bińkowski et al., 2018 (the kernel), https://arxiv.org/abs/1801.01401
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_of_pairs, mean_over_images
from viewgen.diagnostics.feature_nets import EncoderFeatures, FeatureNet, InceptionFeatures, has_inception
from viewgen.diagnostics.generated import net_features
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.patches import PatchFeatures
from viewgen.diagnostics.view_sample import NUM_IMAGES, view_sample
from viewgen.errors import DataError
from viewgen.randomness import addressed_generator
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Realism", "RealismConfig", "balls_holding", "kernel_terms"]


class RealismConfig(Settings):
    """Images and feature spaces of the measurement."""

    title = "realism"

    num_images: int = setting(NUM_IMAGES, "images compared, at most", ge=1)
    num_neighbours: int = setting(5, "k, neighbours that a ball reaches to", ge=1)
    features: Literal["auto", "encoder", "patches", "inception"] = setting(
        "auto", "feature space; auto takes the encoder's, patches, and Inception's where it is at hand"
    )


def balls_holding(
    probes: Tensor, centres: Tensor, num_neighbours: int, *, own: Tensor | None = None
) -> Tensor:
    """Return whether probe i lies in the ball of centre j, as if the probe's own centre were not there.

    Args:
        probes: features `(P, D)`.
        centres: features `(B, D)`, more than k + 1 of them.
        num_neighbours: k.
        own: number of the centre that each probe belongs to, −1 for none, `(P,)`; by default probe i belongs
            to centre i.

    Returns:
        bool `(P, B)`; False for a probe's own centre.
    """
    own = torch.arange(len(probes)) if own is None else own
    within = _distances(centres, centres).fill_diagonal_(torch.inf)
    nearest = within.topk(num_neighbours + 1, dim=1, largest=False).values
    k_th, next_one = nearest[:, -2], nearest[:, -1]
    # column o of a row j: whether centre o is one of the k of ball j, which reaches one farther without it
    counted = (within <= k_th[:, None]).T[own.clamp_min(0)] & (own >= 0)[:, None]
    reach = torch.where(counted, next_one, k_th)
    held = _distances(probes, centres) <= reach
    mine = (own >= 0).nonzero()[:, 0]
    held[mine, own[mine]] = False
    return held


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # exact, since copies must come out at the distance of what they copy
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def kernel_terms(views: Tensor, real: Tensor, *, scaled: bool) -> Tensor:
    """Return h(i, j) = k(v, v′) + k(x, x′) − k(v, x′) − k(x, v′) of features `(B, D)`, float64 `(B, B)`.

    Args:
        views: features of one view of each image.
        real: features of the images, whose root mean square sets the scale.
        scaled: divide by that scale.
    """
    v, x = views.double(), real.double()
    if scaled:
        scale = x.square().mean().sqrt().clamp_min(1e-12)
        v, x = v / scale, x / scale

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    cross = kernel(v, x)
    return kernel(v, v) + kernel(x, x) - cross - cross.T


class Realism:
    """Views against real images of others.

    Args:
        config: images and feature spaces of the measurement.
    """

    needs = frozenset({"cache", "train"})

    def __init__(self, config: RealismConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the statistics by feature space."""
        sample = view_sample(subject, self.config.num_images)
        k, count = self.config.num_neighbours, len(sample)
        if count < k + 3:
            raise DataError(
                f"realism with {k} neighbours compares at least {k + 3} images, there are {count}"
            )
        drawn = torch.randint(
            sample.num_views, (count,), generator=addressed_generator(seed, "realism")
        ).numpy()
        compared = {"": sample.views[np.arange(count), drawn]}
        if sample.reconstructions is not None:
            compared[" of reconstructions"] = sample.reconstructions
        measures = []
        for net in self._nets(subject, sample.images):
            real = self._features(net, sample.images, subject)
            for suffix, images in compared.items():
                made = self._features(net, images, subject)
                measures += self._statistics(net, made, real, suffix, seed=seed, on=sample.of)
            shuffled = self._features(net, shuffled_pixels(sample.images, seed), subject)
            measures.append(_kernel(net, shuffled, real, " of shuffled pixels", seed=seed, on=sample.of))
        return measures

    def _statistics(
        self, net: FeatureNet, made: Tensor, real: Tensor, suffix: str, *, seed: int, on: str
    ) -> list[Measure]:
        k = self.config.num_neighbours
        inside, reached = balls_holding(made, real, k), balls_holding(real, made, k)
        found = {
            "precision": inside.any(dim=1),
            "recall": reached.any(dim=1),
            "density": inside.sum(dim=1).double() / k,
            "coverage": inside.any(dim=0),
        }
        measures = [
            bootstrap_measure(net.name(name) + suffix, mean_over_images(values), len(real), seed=seed, on=on)
            for name, values in found.items()
        ]
        return [*measures, _kernel(net, made, real, suffix, seed=seed, on=on)]

    def _features(self, net: FeatureNet, images: NDArray[np.uint8], subject: Subject) -> Tensor:
        found = net_features(net, images) if subject.device == "cpu" else _on_device(net, images, subject)
        return found

    def _nets(self, subject: Subject, images: NDArray[np.uint8]) -> list[FeatureNet]:
        nets: list[FeatureNet] = []
        asked = self.config.features
        if asked == "inception" or (asked == "auto" and has_inception()):
            nets.append(InceptionFeatures(torch.device(subject.device)))
        if asked == "encoder" or (asked == "auto" and subject.has("encoder")):
            nets.append(EncoderFeatures(subject.encoder))
        if asked in ("auto", "patches"):
            nets.append(PatchFeatures.of_images(images, num_filters=64).on(subject.device))
        return nets


def _on_device(net: FeatureNet, images: NDArray[np.uint8], subject: Subject) -> Tensor:
    parts = torch.from_numpy(images).split(subject.batch_size)
    return torch.cat([net.features(part.to(subject.device)).cpu() for part in parts])


def _kernel(net: FeatureNet, made: Tensor, real: Tensor, suffix: str, *, seed: int, on: str) -> Measure:
    statistic = mean_of_pairs(kernel_terms(made, real, scaled=net.scaled))
    name = net.name("kernel_distance") + suffix
    return bootstrap_measure(name, statistic, len(real), seed=seed, on=on)


def shuffled_pixels(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return images `(B, C, H, W)` with the places of their pixels shuffled, each in its own way."""
    count, channels, height, width = images.shape
    random = np.random.default_rng([seed, count])
    order = random.permuted(np.tile(np.arange(height * width), (count, 1)), axis=1)
    flat = images.reshape(count, channels, -1)
    return np.take_along_axis(flat, order[:, None], axis=2).reshape(images.shape)


ENTRY = Entry(
    name="realism",
    summary="precision, recall, density, coverage and kernel distance of views against other real images",
    settings=RealismConfig,
    needs=Realism.needs,
    build=Realism,
)
