"""Default names of files and caches."""

from pathlib import Path

from viewgen.redaction import public_url

__all__ = ["absolute_url", "cache_name"]


def absolute_url(url: str) -> str:
    """Make a local path absolute: workers may have another working directory."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def cache_name(url: str) -> str:
    """Return the display name of the cache at a URL: the last part of the URL without credentials."""
    return public_url(url).rstrip("/").rpartition("/")[2].removesuffix(".zarr") or "cache"
