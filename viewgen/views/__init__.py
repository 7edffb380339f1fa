"""View sources, one file each. To add one, see `viewgen.views.entry.ViewEntry`."""

from viewgen.registry import Registry
from viewgen.views.entry import ViewEntry

__all__ = ["VIEWS"]

VIEWS: Registry[ViewEntry] = Registry(
    "view method",
    "viewgen.views",
    {
        "wsearch": "viewgen.views.wsearch.entry",
        "wboundary": "viewgen.views.wboundary",
        "wperturb": "viewgen.views.wperturb",
        "expert": "viewgen.views.expert",
        "original": "viewgen.views.original",
        "cache": "viewgen.views.cached",
        "color": "viewgen.views.color",
        "flow": "viewgen.views.flow",
        "frequency": "viewgen.views.frequency",
        "patches": "viewgen.views.patches",
        "jigsaw": "viewgen.views.jigsaw",
        "moving-digits": "viewgen.views.moving_digits",
        "viewmaker": "viewgen.views.viewmaker",
        "frozen-viewmaker": "viewgen.views.frozen_viewmaker",
        "online": "viewgen.views.online",
        "invert": "viewgen.inversion.entry",
    },
)
