"""The images themselves as views: all that views have in common with their images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viewgen.views.source import Images, Views

__all__ = ["OriginalSource"]


class OriginalSource:
    """The images themselves."""

    roles: tuple[str, ...] = ("view",)

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`, all equal."""
        from viewgen.views.source import Views

        return Views(pixels=images.pixels.expand(num_views, *images.pixels.shape))
