"""The views of a cache, read at random: the source for measurements, which take few views of any image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from viewgen.store import CacheReader
    from viewgen.views.source import Images, Views

__all__ = ["StoredSource"]


class StoredSource:
    """Different views of each image out of a cache, in an order that its numbers say.

    Args:
        reader: the cache.
        name: address of the draws.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, reader: CacheReader, *, name: str = "cached") -> None:
        self.reader, self.name = reader, name
        self._row_of = dict(zip(reader.source_index.tolist(), reader.rows.tolist(), strict=True))

    @property
    def source_index(self) -> NDArray[np.int64]:
        """Source indices of the images that have views, ascending."""
        return np.array(sorted(self._row_of), np.int64)

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`; a view comes again only where there are no more."""
        import torch

        from viewgen.views.source import Views

        rows = np.array([self._row_of[image] for image in images.source_index.tolist()], np.int64)
        num_stored = self.reader.spec.num_views
        keys = images.draws.uniform(self.name, 1, num_stored)[:, 0]
        order = keys.argsort(dim=1, descending=True, stable=True).numpy()
        parts = [self.reader.views(rows, order[:, view % num_stored]) for view in range(num_views)]
        return Views(pixels=torch.from_numpy(np.stack(parts)).to(images.pixels.device))
