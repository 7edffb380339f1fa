"""Cached views: some of an image's views in a cache, for a training step or a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from viewgen.errors import UsageError
from viewgen.settings import Settings
from viewgen.views.entry import Resources, ViewEntry, in_training

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from viewgen.store import CacheReader
    from viewgen.views.source import Images, ViewMemory, Views

__all__ = ["ENTRY", "CachedConfig", "CachedSource", "SampledSource", "check_num_views"]


class CachedConfig(Settings):
    """Settings of cached views: none, because the cache's identity is part of the training's identity."""

    title = "cache"


def check_num_views(wanted: int, there: int) -> None:
    """Check that a step uses no more views of an image than the cache has.

    Raises:
        UsageError: the cache has fewer views.
    """
    if wanted > there:
        raise UsageError(
            f"{wanted} generated views a step were asked of a cache with {there} per image; set "
            "views_per_step to fewer, or make a cache with --views"
        )


class SampledSource:
    """Views of a cache in memory or streamed, drawn without replacement in every step; with roles in order.

    Args:
        memory: views, addressed by the row of their image.
        roles: names of the views' roles.
    """

    def __init__(self, memory: ViewMemory, roles: tuple[str, ...] = ("view",)) -> None:
        self.memory, self.roles = memory, roles

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`; zeros for images without views."""
        import torch

        from viewgen.views.source import Views

        check_num_views(num_views, self.memory.num_views)
        if self.roles == ("view",):
            order = images.draws.uniform("view", self.memory.num_views).argsort(dim=1)
        else:
            order = torch.arange(self.memory.num_views).expand(len(images), -1)
        views = self.memory.read(images.source_index.numpy(), order[:, :num_views])
        return Views(pixels=views.transpose(0, 1), status=self.memory.status[images.source_index])

    def expect(self, rows: Any) -> None:
        """Start reading the shards of rows, int64 `(B,)`."""
        self.memory.expect(rows)


class CachedSource:
    """Different views of each image from a cache, in an order given by the draws.

    Args:
        reader: the cache.
        name: address of the draws.
        view: index of the only view used, such as that of a role; None for all.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, reader: CacheReader, *, name: str = "cached", view: int | None = None) -> None:
        self.reader, self.name, self.view = reader, name, view
        self._row_of = dict(zip(reader.source_index.tolist(), reader.rows.tolist(), strict=True))

    @property
    def source_index(self) -> NDArray[np.int64]:
        """Source indices of the images that have views, ascending."""
        return np.array(sorted(self._row_of), np.int64)

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`; a view repeats only after all views have occurred."""
        import torch

        from viewgen.views.source import Views

        rows = np.array([self._row_of[image] for image in images.source_index.tolist()], np.int64)
        num_stored = self.reader.spec.num_views
        if self.view is not None:
            pixels = torch.from_numpy(self.reader.views(rows, self.view)).to(images.pixels.device)
            return Views(pixels=pixels.expand(num_views, *pixels.shape))
        keys = images.draws.uniform(self.name, 1, num_stored)[:, 0]
        order = keys.argsort(dim=1, descending=True, stable=True).numpy()
        parts = [self.reader.views(rows, order[:, view % num_stored]) for view in range(num_views)]
        return Views(pixels=torch.from_numpy(np.stack(parts)).to(images.pixels.device))


def build(settings: CachedConfig, resources: Resources) -> SampledSource:
    """Return the source of a training step."""
    found = in_training(resources, "cache")
    if found.memory is None:
        raise UsageError("cached views need a cache; name one with --cache URL")
    return SampledSource(found.memory, tuple(role.name for role in found.roles) or ("view",))


ENTRY = ViewEntry(
    name="cache",
    summary="views drawn from a cache",
    settings=CachedConfig,
    needs=frozenset({"cache", "training"}),
    build=build,
)
