"""Alignment and uniformity of views in an encoder's space.

Alignment is the mean squared distance of two views of one image, α = 2; less is closer. Uniformity is
ln E[exp(−2‖u − v‖²)] over two different images; smaller is more even, about −4 at best in many dimensions,
0 if all images fall on one point.

References:
    Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere,
    Wang and Isola, 2020, https://arxiv.org/abs/2005.10242
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang et al., 2021,
    https://arxiv.org/abs/2111.00743
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.mutual_information.pairs import Pairs
from viewgen.errors import DataError
from viewgen.networks.encoder import Encoder
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = [
    "ENTRY",
    "Alignment",
    "AlignmentConfig",
    "AlignmentOfPairs",
    "alignment",
    "measure_alignment",
    "uniformity",
]

MAX_IMAGES = 2048
IMAGES_AT_ONCE = 256
UNIFORMITY_SCALE = 2.0


def alignment(z_x: Tensor, z_y: Tensor) -> float:
    """Return the mean squared distance of unit vectors `(N, K)` that belong together, 0 to 4."""
    return float((z_x - z_y).square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """Return ln of the mean Gaussian potential of all pairs of rows of `z`, unit vectors `(N, K)`."""
    exponents = -UNIFORMITY_SCALE * torch.pdist(z.double()).square()
    return float(torch.logsumexp(exponents, 0) - np.log(len(exponents)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Alignment and uniformity of pairs of views in an encoder's space.

    Attributes:
        alignment: mean squared distance of the two views of an image.
        uniformity_x: uniformity of the first views.
        uniformity_y: uniformity of the second views.
        num_images: number of images measured.
    """

    alignment: float
    uniformity_x: float
    uniformity_y: float
    num_images: int


@torch.no_grad()
def measure_alignment(encoder: Encoder, pairs: Pairs, *, num_draws: int = 4, seed: int = 0) -> Alignment:
    """Measure alignment and uniformity of pairs of views.

    Args:
        encoder: f, in evaluation mode; its outputs are unit vectors.
        pairs: pairs of views at the encoder's image size; at most 2048 images are used, evenly spread.
        num_draws: draws of every image's views over which alignment is averaged.
        seed: seed of the draws.

    Raises:
        DataError: fewer than two images, or images of another size.
    """
    if pairs.num_images < 2:
        raise DataError(f"there are views of {pairs.num_images} image(s); uniformity compares at least two")
    count = min(pairs.num_images, MAX_IMAGES)
    positions = np.linspace(0, pairs.num_images - 1, count).round().astype(np.int64)
    device = next(encoder.parameters()).device
    size = encoder.config.image_size
    aligned, spread = [], (0.0, 0.0)
    for draw in range(min(num_draws, pairs.num_draws)):
        x, y = pairs.draw(positions, seed, "alignment", draw)
        if x.shape[-2:] != (size, size):
            raise DataError(
                f"the views have {x.shape[-2]}×{x.shape[-1]} pixels, the encoder was trained on "
                f"{size}×{size}; give an encoder of that size"
            )
        z_x, z_y = (
            torch.cat([encoder(part.to(device)).cpu() for part in side.split(IMAGES_AT_ONCE)])
            for side in (x, y)
        )
        aligned.append(alignment(z_x, z_y))
        if draw == 0:
            spread = uniformity(z_x), uniformity(z_y)
    return Alignment(
        alignment=float(np.mean(aligned)),
        uniformity_x=spread[0],
        uniformity_y=spread[1],
        num_images=count,
    )


class AlignmentConfig(Settings):
    """Extent of the measurement."""

    title = "alignment"

    num_draws: int = setting(4, "draws of every image's views that alignment is averaged over", ge=1)


class AlignmentOfPairs:
    """Alignment of every pair of views, and uniformity of both.

    Args:
        config: extent of the measurement.
    """

    needs = frozenset({"encoder", "pairs"})

    def __init__(self, config: AlignmentConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return alignment and uniformity, pair by pair."""
        measures = []
        for pair in subject.pairs:
            found = measure_alignment(subject.encoder, pair.views, num_draws=self.config.num_draws, seed=seed)
            for name in ("alignment", "uniformity_x", "uniformity_y"):
                on = f"{found.num_images:,} images"
                measures.append(Measure(name=name, value=getattr(found, name), on=on, group=pair.title))
        return measures


ENTRY = Entry(
    name="alignment",
    summary="alignment and uniformity of pairs of views under the encoder",
    settings=AlignmentConfig,
    needs=AlignmentOfPairs.needs,
    build=AlignmentOfPairs,
)
