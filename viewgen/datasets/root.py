"""The data root: the folder of downloads and decoded data sets."""

import os
from pathlib import Path

import platformdirs

__all__ = ["resolve_data_root"]


def resolve_data_root(data_root: str | Path | None = None) -> Path:
    """Return `data_root`, else the environment's ``VIEWGEN_DATA``, else the platform's cache directory."""
    chosen = data_root or os.environ.get("VIEWGEN_DATA")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_cache_path("viewgen") / "data"
