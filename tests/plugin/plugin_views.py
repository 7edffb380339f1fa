"""Blocks: views whose parts are shuffled, and how far they are from where they were."""

import torch

from viewgen.settings import Settings, setting
from viewgen.store.columns import Column
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.source import Images, Views


class BlocksSettings(Settings):
    """Size of the blocks."""

    title = "blocks"

    count: int = setting(2, "blocks along each side", ge=2, le=16)


class BlocksSource:
    """Views of shuffled blocks."""

    roles = ("view",)

    def __init__(self, settings: BlocksSettings, resources: Resources) -> None:
        self.count = settings.count

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`; column ``moved`` counts the blocks that moved."""
        count, (channels, size) = self.count, images.pixels.shape[1:3]
        side = size // count
        order = images.draws.uniform("blocks", num_views, count**2).argsort(dim=2)
        blocks = images.pixels.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)
        shuffled = torch.stack(
            [torch.stack([block[:, o] for o in orders]) for block, orders in zip(blocks, order, strict=True)]
        )
        tiled = shuffled.unflatten(3, (count, count)).permute(1, 0, 2, 3, 5, 4, 6)
        moved = (order != torch.arange(count**2)).sum(dim=2)
        return Views(
            pixels=tiled.reshape(num_views, -1, channels, count * side, count * side),
            columns={"moved": moved.to(torch.int32)},
        )


ENTRY = ViewEntry(
    name="blocks",
    summary="blocks of the image, shuffled",
    settings=BlocksSettings,
    build=BlocksSource,
    columns=(Column(name="moved", per_view=True, dtype="<i4"),),
)
