"""Default locations and names of caches."""

import contextlib
import os
import re
from pathlib import Path

import platformdirs

from viewgen.store.spec import CacheSpec

__all__ = ["cache_folder", "cache_folders", "file_name", "inversions_name", "inversions_url"]


def cache_folder() -> str:
    """Return the folder or URL of caches: ``$VIEWGEN_CACHE``, otherwise in the user's cache folder."""
    folder = os.environ.get("VIEWGEN_CACHE") or str(Path(platformdirs.user_cache_dir("viewgen")) / "caches")
    return folder.rstrip("/")


def cache_folders() -> list[str]:
    """Return the folders in which caches are looked for: ``$VIEWGEN_CACHE``, or where users put them.

    Without that variable these are the user's cache folder, the working directory and the folders in it.
    """
    folders = [cache_folder()]
    if not os.environ.get("VIEWGEN_CACHE"):
        here = Path.cwd()
        with contextlib.suppress(OSError):
            inner = [path for path in here.iterdir() if path.name[0] != "." and path.suffix != ".zarr"]
            folders += [str(here), *(str(path) for path in sorted(inner) if path.is_dir())]
    return folders


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


def inversions_url(url: str, spec: CacheSpec) -> str:
    """Return the default URL of the inversions that `viewgen cache` makes for the cache at `url`."""
    parent = url.rstrip("/").rpartition("/")[0]
    identity = spec.models["inversions"]
    name = inversions_name(str(spec.dataset.get("name")), str(spec.dataset.get("split")), identity)
    return f"{parent or '.'}/{name}"
