"""Jigsaw: the image, and a view of its cells in another order.

The image is cut into g×g cells. In each cell a patch is cropped at random, of `patch_share` of its side,
and scaled to the cell; the patches are put together in a random order, and the whole is scaled to the size
of the image.

References:
    Self-Supervised Learning of Pretext-Invariant Representations, Misra and van der Maaten, 2019,
    https://arxiv.org/abs/1912.01991
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 5, https://arxiv.org/abs/2005.10243

Shape legend: B images, C channels, g² cells, S side of a cell, P side of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from torch import Tensor

    from viewgen.datasets import ImageDataset
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "JigsawConfig", "JigsawSource", "check_cells", "cut_cells", "random_patches"]

SMALLEST_CELL = 8


class JigsawConfig(Settings):
    """Cells of the image, and patches of the cells."""

    title = "jigsaw"

    grid: int = setting(3, "cells along each side of the image", ge=2, le=8)
    patch_share: float = setting(
        0.75, "side of the patch that a cell keeps, as a share of the cell's; 1 keeps all of it", gt=0, le=1
    )


class JigsawSource:
    """The image first, then its jigsaw.

    Args:
        config: cells of the image, and patches of the cells.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: JigsawConfig) -> None:
        self.config = config

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(2, B, C, H, W)`.

        Raises:
            UsageError: a cell has fewer than 8 pixels along a side.
        """
        import torch
        import torch.nn.functional as F

        from viewgen.images import to_model, to_storage
        from viewgen.views.source import Views

        side, grid = images.pixels.shape[-1], self.config.grid
        check_cells(grid, side)
        numbers = images.draws.uniform("jigsaw", 1, 3, grid**2)[:, 0]
        cells = cut_cells(images.pixels, grid)
        patches = random_patches(cells, self.config.patch_share, numbers[:, 1:])
        if patches.shape != cells.shape:
            flat, size = to_model(patches.flatten(0, 1)), cells.shape[-2:]
            scaled = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
            patches = to_storage(scaled).reshape(cells.shape)
        order = numbers[:, 0].argsort(dim=1).to(patches.device)
        shuffled = patches.gather(1, order[:, :, None, None, None].expand_as(patches))
        rows = shuffled.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5)
        mosaic = rows.flatten(4, 5).flatten(2, 3)
        if mosaic.shape[-1] != side:
            resized = F.interpolate(to_model(mosaic), size=(side, side), mode="bilinear", align_corners=False)
            mosaic = to_storage(resized)
        return Views(pixels=torch.stack([images.pixels, mosaic]))


def cut_cells(images: Tensor, grid: int) -> Tensor:
    """Return the cells of images `(B, C, H, H)`, row by row, `(B, g², C, S, S)`; what is left over is cut."""
    size = images.shape[-1] // grid
    whole = images[..., : grid * size, : grid * size]
    cells: Tensor = whole.unflatten(3, (grid, size)).unflatten(2, (grid, size))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def random_patches(cells: Tensor, share: float, numbers: Tensor) -> Tensor:
    """Return a patch of every cell, `(B, g², C, P, P)`.

    Args:
        cells: images, `(B, g², C, S, S)`.
        share: side of a patch, as a share of the cell's.
        numbers: uniform numbers, `(B, 2, g²)`: column and row of the patch.
    """
    import torch

    size = cells.shape[-1]
    patch = max(1, round(share * size))
    if patch == size:
        return cells
    corners = (numbers * (size - patch + 1)).long().clamp_max(size - patch)
    flat = cells.flatten(0, 1)
    columns, rows = (
        (corners[:, axis].flatten()[:, None] + torch.arange(patch)).to(flat.device) for axis in (0, 1)
    )
    which = torch.arange(len(flat), device=flat.device)[:, None, None]
    patches = flat[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return patches.reshape(*cells.shape[:2], *patches.shape[1:])


def check_cells(grid: int, side: int) -> None:
    """Check that images have room for the cells.

    Raises:
        UsageError: a cell has fewer than 8 pixels along a side.
    """
    if (cell := side // grid) < SMALLEST_CELL:
        raise UsageError(
            f"jigsaw: {grid}×{grid} cells of an image of {side} px have {cell} px; expected at least "
            f"{SMALLEST_CELL}, which takes images of {SMALLEST_CELL * grid} px or a smaller grid"
        )


def build(settings: JigsawConfig, resources: Resources) -> JigsawSource:
    """Return the source."""
    return JigsawSource(settings)


def fit(settings: JigsawConfig, dataset: ImageDataset) -> JigsawConfig:
    """Return the settings, after checking that the images have room for the cells."""
    check_cells(settings.grid, dataset.image_size)
    return settings


ENTRY = ViewEntry(
    name="jigsaw",
    summary="the image, and its cells in another order",
    settings=JigsawConfig,
    build=build,
    fit=fit,
    num_views=2,
)
