"""W-search: codes at a set distance from their anchor in the encoder's space, spread out."""

from viewgen.views.wsearch.settings import ENTRY, WSearchConfig

__all__ = ["ENTRY", "WSearchConfig"]
