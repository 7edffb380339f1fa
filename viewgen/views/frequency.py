"""Frequency split: a blurred image as one view, what the blur takes away as the second.

The first is the image under a normalised Gaussian kernel of ⌈4σ⌉ pixels on either side, continued by
reflection. The second is the rest, with both signs, divided by `scale`, so that the two add up to the image.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 3.2 and appendix, https://arxiv.org/abs/2005.10243
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from viewgen.roles import Role
from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "FrequencyConfig", "FrequencySource"]

RADIUS = 4


class FrequencyConfig(Settings):
    """Width of the blur, and scale of what it takes away."""

    title = "frequency"

    sigma: float = setting(0.7, "σ, standard deviation of the blur in pixels", gt=0)
    scale: float = setting(
        2.0, "divisor of the high frequencies; 2 keeps all of them, a smaller one clips the largest", gt=0
    )


class FrequencySource:
    """Low and high frequencies of images.

    Args:
        config: width of the blur and scale.
    """

    roles: tuple[str, ...] = ("low", "high")

    def __init__(self, config: FrequencyConfig) -> None:
        self.config = config

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(2, B, C, H, W)`."""
        import torch

        from viewgen.images import to_model
        from viewgen.views.blur import gaussian_blur
        from viewgen.views.source import Views

        x = to_model(images.pixels)
        sigma = torch.full((len(x),), self.config.sigma, device=x.device)
        low = gaussian_blur(x, sigma, 2 * math.ceil(RADIUS * self.config.sigma) + 1)
        return Views(pixels=torch.stack([low, ((x - low) / self.config.scale).clamp(-1, 1)]))


def build(settings: FrequencyConfig, resources: Resources) -> FrequencySource:
    """Return the source."""
    return FrequencySource(settings)


ENTRY = ViewEntry(
    name="frequency",
    summary="two views by frequency: the blurred image, and what the blur takes away",
    settings=FrequencyConfig,
    build=build,
    random=False,
    roles=(Role(name="low"), Role(name="high", signed=True)),
)
