"""Features in whose space a search measures distances: of one encoder or several, averaged over crops.

A search finds what its encoder is sensitive to. What one encoder alone sees, several encoders, or one encoder
that looks at several crops of an image, see less of. With one encoder and no crops the features are the
encoder's own.

Shape legend: B images, K dimension of all projections side by side, M crops.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.networks.encoder import Encoder
from viewgen.randomness import addressed_generator
from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
from viewgen.views.distances import Metric
from viewgen.views.expert_settings import ExpertConfig
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = ["Crops", "SideBySide", "search_features", "search_metric"]


class Crops(nn.Module):
    """An encoder whose unit vectors are averaged over the same M random crops of every image.

    Args:
        encoder: f.
        num_crops: M.
        least_area: smallest share of the image that a crop keeps.
    """

    def __init__(self, encoder: Encoder, num_crops: int, least_area: float) -> None:
        super().__init__()
        self.encoder, self.num_crops = encoder, num_crops
        self.config = encoder.config
        self.uniforms = torch.rand(num_crops, NUM_UNIFORMS, generator=addressed_generator(0, "wsearch-crops"))
        self.crop = ExpertConfig(
            crop_scale=(least_area, 1.0),
            flip_probability=0.0,
            jitter_probability=0.0,
            grayscale_probability=0.0,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to the normalised means of their crops' projections, `(B, K)`."""
        # one crop after the other: as many images at once as without crops
        z = [
            self.encoder(expert_views(images, one.expand(len(images), -1), self.crop))
            for one in self.uniforms
        ]
        return F.normalize(torch.stack(z).mean(dim=0), dim=1)


class SideBySide(nn.Module):
    """Several encoders' unit vectors side by side, each divided by the root of their number.

    Args:
        encoders: maps of model images `(B, C, H, W)` to unit vectors.
    """

    def __init__(self, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to `(B, K)`, of unit length."""
        parts = [encoder(images) for encoder in self.encoders]
        together: Tensor = torch.cat(parts, dim=1) / len(parts) ** 0.5
        return together


def search_features(encoders: Sequence[Encoder], config: WSearchConfig) -> Encoder:
    """Return the features of a search; one encoder without crops is returned as it is."""
    seen: list[Any] = list(encoders)
    if config.crops:
        seen = [Crops(encoder, config.crops, config.crop_area) for encoder in seen]
    return cast(Encoder, seen[0] if len(seen) == 1 else SideBySide(seen))


def search_metric(encoders: Sequence[Encoder], config: WSearchConfig) -> Metric:
    """Return the distance between the features of a search."""
    return Metric(tuple(encoder.config.projection_dim for encoder in encoders), config.combine)
