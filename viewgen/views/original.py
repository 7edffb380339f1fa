"""Original: the images themselves as views, which a training transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.settings import Settings
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "OriginalConfig", "OriginalSource"]


class OriginalConfig(Settings):
    """Settings of the original images: none."""

    title = "original"


class OriginalSource:
    """The images themselves."""

    roles: tuple[str, ...] = ("view",)

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`, all V equal."""
        from viewgen.views.source import Views

        return Views(pixels=images.pixels.expand(num_views, *images.pixels.shape))


def build(settings: OriginalConfig, resources: Resources) -> OriginalSource:
    """Return the source."""
    return OriginalSource()


ENTRY = ViewEntry(
    name="original",
    summary="the images themselves; in a training, under its transform",
    settings=OriginalConfig,
    build=build,
    random=False,
)
