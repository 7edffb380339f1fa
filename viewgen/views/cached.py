"""Cached views: some of an image's views in a cache, for a training step or a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import model_validator

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting
from viewgen.status import Status
from viewgen.views.entry import Resources, ViewEntry, in_training

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from viewgen.store import CacheReader
    from viewgen.views.source import Images, ViewMemory, Views, ViewScores

__all__ = ["ENTRY", "CachedConfig", "CachedSource", "SampledSource", "check_num_views"]


class CachedConfig(Settings):
    """Use of the views' scores; the cache's identity is part of the training's identity anyway."""

    title = "cache"

    score: str | None = setting(
        None,
        "score of the views that drop_below and score_weight use: distance, or one that `viewgen measure "
        "--write-columns` has written, such as label_margin or density; with a minus, smaller is better",
        since=2,
    )
    drop_below: float = setting(
        0.0, "quantile of the score below which views are not drawn; 0 draws all", since=2, ge=0, lt=1
    )
    score_weight: float = setting(
        0.0,
        "γ of the pair-quality weights exp(γ·q) of generated views, q the score in standard deviations; 0 "
        "weights all alike",
        since=2,
        ge=0,
    )

    @model_validator(mode="after")
    def _used(self) -> Self:
        uses = self.drop_below > 0 or self.score_weight > 0
        if uses and self.score is None:
            raise UsageError(
                "cache: drop_below and score_weight need a score; name one, such as label_margin"
            )
        if self.score is not None and not uses:
            raise UsageError(
                f"cache: score is {self.score!r} and would be ignored; give drop_below or score_weight too"
            )
        return self


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
        scores: scores of the views, if some are not drawn or have other weights.
        roles: names of the views' roles; views of roles are all read, in their order.
    """

    def __init__(
        self,
        memory: ViewMemory,
        scores: ViewScores | None = None,
        *,
        roles: tuple[str, ...] = ("view",),
    ) -> None:
        self.memory, self.scores, self.roles = memory, scores, roles

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`, with their scores as column ``score``, if there are any.

        Images without views have zeros; images all of whose views are dropped count as such. A view is drawn
        again if fewer are left than asked for.
        """
        from viewgen.views.source import Views

        check_num_views(num_views, self.memory.num_views)
        rows, keys = images.source_index, images.draws.uniform("view", self.memory.num_views)
        status = self.memory.status[rows]
        if self.scores is None:
            order = keys.argsort(dim=1)[:, :num_views]
            if self.roles != ("view",):
                order = order.sort(dim=1).values
            views = self.memory.read(rows.numpy(), order)
            return Views(pixels=views.transpose(0, 1), status=status)
        order, left = self._drawn(keys, self.scores.keep[rows], num_views)
        views = self.memory.read(rows.numpy(), order)
        return Views(
            pixels=views.transpose(0, 1),
            status=status.masked_fill(left == 0, int(Status.FAILED)),
            columns={"score": self.scores.standard[rows].gather(1, order)},
        )

    def _drawn(self, keys: Tensor, keep: Tensor, num_views: int) -> tuple[Tensor, Tensor]:
        """Return the drawn views, `(B, num_views)`, and how many may be drawn, `(B,)`."""
        import torch

        # kept views come first, in the order of their keys
        order = (keys + 2 * ~keep).argsort(dim=1)
        left = keep.sum(dim=1)
        turns = torch.arange(num_views) % left.clamp_min(1)[:, None]
        return order.gather(1, turns), left

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
    roles = tuple(role.name for role in found.roles) or ("view",)
    return SampledSource(found.memory, found.scores, roles=roles)


ENTRY = ViewEntry(
    name="cache",
    summary="views drawn from a cache",
    settings=CachedConfig,
    needs=frozenset({"cache", "training"}),
    build=build,
)
