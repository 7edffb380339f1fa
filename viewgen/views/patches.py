"""Patches at a distance: two patches of an image, the second shifted by d pixels to the right and down.

The first lies uniformly over the places that keep both inside the image. Both show the same kind of picture,
so they are interchangeable views of one encoder, for images of the size of a patch. A training flips both or
neither.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 3.1, https://arxiv.org/abs/2005.10243

Shape legend: B images, C channels, S side of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from viewgen.datasets import ImageDataset
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "PatchesConfig", "PatchesSource"]


class PatchesConfig(Settings):
    """Size of the patches, and distance between them."""

    title = "patches"

    distance: int = setting(1, "d, shift of the second patch in pixels, to the right and down", ge=0)
    size: int | None = setting(None, "side of a patch in pixels; by default half of the image's side", ge=4)


class PatchesSource:
    """Two patches of every image.

    Args:
        config: size of the patches, and distance between them.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: PatchesConfig) -> None:
        self.config = config

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(2, B, C, S, S)`.

        Raises:
            UsageError: the images are too small for two patches at this distance.
        """
        import torch

        from viewgen.views.source import Views

        side, distance = images.pixels.shape[-1], self.config.distance
        size = _size(self.config, side)
        places = side - size - distance + 1
        # (column, row) of the first patch; the same device as the pixels would give other numbers
        corners = (images.draws.uniform("patches", 1, 2)[:, 0] * places).long().clamp_max(places - 1)
        steps = torch.arange(size)
        pairs = []
        for shift in (0, distance):
            columns, rows = (corners[:, axis, None] + shift + steps for axis in (0, 1))
            image = torch.arange(len(corners))[:, None, None]
            index = [one.to(images.pixels.device) for one in (image, rows[:, :, None], columns[:, None, :])]
            # an index between slices moves the indexed axes to the front: (B, S, S, C)
            pairs.append(images.pixels[index[0], :, index[1], index[2]].permute(0, 3, 1, 2))
        return Views(pixels=torch.stack(pairs))


def _size(config: PatchesConfig, side: int) -> int:
    """Return the side of a patch of images with the given side; check that two patches fit.

    Raises:
        UsageError: they do not.
    """
    size = side // 2 if config.size is None else config.size
    if size > side:
        raise UsageError(f"patches: size is {size}, and the images have {side} px; expected at most {side}")
    if size + config.distance > side:
        raise UsageError(
            f"patches: distance is {config.distance}; two patches of {size} px in an image of {side} px are "
            f"at most {side - size} px apart"
        )
    return size


def build(settings: PatchesConfig, resources: Resources) -> PatchesSource:
    """Return the source."""
    return PatchesSource(settings)


def fit(settings: PatchesConfig, dataset: ImageDataset) -> PatchesConfig:
    """Return the settings with the size of the patches, after checking that two of them fit."""
    return settings.replace(size=_size(settings, dataset.image_size))


ENTRY = ViewEntry(
    name="patches",
    summary="two patches of the image, d pixels apart in both directions",
    settings=PatchesConfig,
    build=build,
    fit=fit,
    num_views=2,
    view_size=_size,
    transform="flip",
    joint=True,
)
