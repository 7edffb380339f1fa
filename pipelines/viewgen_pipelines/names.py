"""Default names of files and caches."""

import re
from pathlib import Path

from viewgen.redaction import public_url

__all__ = ["absolute_url", "cache_name", "file_name", "inversions_name"]


def absolute_url(url: str) -> str:
    """Make a local path absolute: workers may have another working directory."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def cache_name(url: str) -> str:
    """Return the display name of the cache at a URL: the last part of the URL without credentials."""
    return public_url(url).rstrip("/").rpartition("/")[2].removesuffix(".zarr") or "cache"


def file_name(text: str) -> str:
    """Make a data set's name ("folder:/data/x") part of a file name."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-")


def inversions_name(dataset: str, split: str, identity: str) -> str:
    """Return the name of the cache of inversions beside a cache of views.

    Args:
        dataset: name of the data set.
        split: split of the data set.
        identity: identity of the inversions' specification, ``"sha256:…"``.
    """
    return f"{file_name(f'inversions-{dataset}-{split}')}-{identity.removeprefix('sha256:')[:8]}.zarr"
