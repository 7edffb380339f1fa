"""Default location of caches."""

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_folder"]


def cache_folder() -> str:
    """Return the folder or URL of caches: ``$VIEWGEN_CACHE``, otherwise in the user's cache folder."""
    folder = os.environ.get("VIEWGEN_CACHE") or str(Path(platformdirs.user_cache_dir("viewgen")) / "caches")
    return folder.rstrip("/")
