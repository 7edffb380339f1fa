"""Calibration of ε₁: the distance of expert views from their anchors.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, section 5.1, https://arxiv.org/abs/2304.00601
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import DataError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.randomness import addressed_generator
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.augmentation import expert_uniforms, expert_views
from viewgen.views.draws import ImageDraws
from viewgen.views.expert import ExpertConfig

__all__ = ["ENTRY", "Calibration", "CalibrationConfig", "CalibrationOfEpsilon", "calibrate"]

BATCH = 256
MAX_COMPARED = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Distances between L2-normalised projections, in [0, 2].

    Attributes:
        epsilon_boundary: mean of ‖f(x) − f(t(x))‖ over images and expert views.
        standard_deviation: standard deviation of ‖f(x) − f(t(x))‖.
        quantiles: 5, 25, 50, 75 and 95 % quantiles of ‖f(x) − f(t(x))‖.
        different_images: mean distance between two different images (about √2 for a uniform encoder), over
            at most 2000 images.
        num_images: number of images measured.
        num_views: number of expert views per image.
    """

    epsilon_boundary: float
    standard_deviation: float
    quantiles: tuple[float, ...]
    different_images: float
    num_images: int
    num_views: int


@torch.no_grad()
def calibrate(
    encoder: Encoder,
    dataset: ImageDataset,
    expert: ExpertConfig,
    *,
    num_images: int = 1000,
    num_views: int = 4,
    seed: int = 0,
) -> Calibration:
    """Measure ε₁ on a random sample of a data set.

    Args:
        encoder: f, in evaluation mode.
        dataset: images of the encoder's size.
        expert: strength of the expert views t(x).
        num_images: sample size; the whole data set if it has fewer.
        num_views: number of expert views per image.
        seed: seed of the sample and of the views.

    Raises:
        DataError: the data set has fewer than two images, or another size than the encoder.
        UsageError: fewer than two images or no view of each are asked for.
    """
    if num_images < 2 or num_views < 1:
        raise UsageError(f"num_images is {num_images} and num_views {num_views}; expected at least 2 and 1")
    if len(dataset) < 2:
        raise DataError(f"{dataset.name} has {len(dataset)} image(s); calibration compares at least two")
    if dataset.image_size != encoder.config.image_size:
        raise DataError(
            f"{dataset.name} has {dataset.image_size}-px images, the encoder was trained on "
            f"{encoder.config.image_size} px; give an encoder of that size"
        )
    device = next(encoder.parameters()).device
    order = torch.randperm(len(dataset), generator=addressed_generator(seed, "calibration")).numpy()
    rows = np.sort(order[:num_images])
    distances, anchors = [], []
    for part in np.array_split(rows, max(1, len(rows) // BATCH)):
        images = to_model(dataset.images(part), device)
        draws = ImageDraws(seed, torch.from_numpy(part))
        uniforms = expert_uniforms(partial(_uniform, draws, num_views), "expert", expert)
        views = expert_views(images.repeat_interleave(num_views, dim=0), uniforms.flatten(0, 1), expert)
        z0 = encoder(images)
        z = encoder(views).unflatten(0, (-1, num_views))
        distances.append((z - z0[:, None]).norm(dim=2).flatten().cpu())
        anchors.append(z0.cpu())
    distance = torch.cat(distances).double()
    z0 = torch.cat(anchors)
    gaps = torch.pdist(z0[:: -(-len(z0) // MAX_COMPARED)])
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    return Calibration(
        epsilon_boundary=float(distance.mean()),
        standard_deviation=float(distance.std()),
        quantiles=tuple(distance.quantile(levels).tolist()),
        different_images=float(gaps.mean()),
        num_images=len(rows),
        num_views=num_views,
    )


def _uniform(draws: ImageDraws, num_views: int, name: str, count: int) -> torch.Tensor:
    return draws.uniform(name, num_views, count)


class CalibrationConfig(Settings):
    """Extent of the measurement."""

    title = "calibration"

    num_images: int = setting(1000, "images of the sample", ge=2)
    num_views: int = setting(4, "expert views of every image", ge=1)


class CalibrationOfEpsilon:
    """Distance of expert views from their images.

    Args:
        config: extent of the measurement.
    """

    needs = frozenset({"encoder", "train", "expert"})

    def __init__(self, config: CalibrationConfig) -> None:
        self.config = config

    def found(self, subject: Subject, seed: int) -> Calibration:
        """Return all measures."""
        return calibrate(
            subject.encoder,
            subject.train,
            subject.expert,
            num_images=self.config.num_images,
            num_views=self.config.num_views,
            seed=seed,
        )

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return ε₁, its standard deviation, and the distance of different images."""
        found = self.found(subject, seed)
        on = f"{found.num_images:,} {subject.train.split} × {found.num_views} views"
        names = ("epsilon_boundary", "standard_deviation", "different_images")
        return [Measure(name=name, value=getattr(found, name), on=on) for name in names]


ENTRY = Entry(
    name="calibration",
    summary="ε₁, the mean distance of expert views from their images",
    settings=CalibrationConfig,
    needs=CalibrationOfEpsilon.needs,
    build=CalibrationOfEpsilon,
)
