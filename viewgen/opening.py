"""The front door to a cache."""

from typing import Any

from viewgen.store import CacheReader

__all__ = ["open"]


def open(url: str, storage_options: dict[str, Any] | None = None, **options: Any) -> CacheReader:
    """Return a reader of the cache at `url`.

    Args:
        url: path, ``s3://`` or other fsspec URL of a cache.
        storage_options: options of fsspec.
        options: further arguments of `viewgen.store.CacheReader`, such as ``mirror``.

    Raises:
        MissingFileError: there is no cache at the URL.
    """
    return CacheReader(url, storage_options, **options)
