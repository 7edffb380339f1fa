"""The contact sheet of a finished cache: a few images, their reconstructions and views, as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from viewgen.contact_sheet import write_contact_sheet
from viewgen.role_pictures import role_pictures
from viewgen.store import CacheReader, open_storage
from viewgen_pipelines.shards.plan import CachePlan

__all__ = ["draw_contact_sheet"]

NUM_ROWS = 8
MAX_VIEWS = 12


def draw_contact_sheet(plan: CachePlan, reader: CacheReader, storage_options: dict[str, Any]) -> str | None:
    """Write the contact sheet beside the cache, or in the user's cache folder if the cache is remote.

    Returns:
        Path of the contact sheet, or None if the cache has no views to show.

    Raises:
        OSError: the contact sheet cannot be written.
    """
    if not len(reader):
        return None
    rows = reader.rows[np.linspace(0, len(reader) - 1, min(NUM_ROWS, len(reader))).astype(np.int64)]
    spec = plan.target.spec
    reconstructions = None
    if plan.target.inversions_url is not None:
        reconstructions = CacheReader(plan.target.inversions_url, storage_options).views(rows, 0)
    path = _place(plan.target.url, storage_options)
    write_contact_sheet(
        path,
        dataset=plan.dataset,
        rows=reader.array("source_index", rows),
        views=role_pictures(reader.views(rows), spec.roles)[:, :MAX_VIEWS],
        distances=reader.array("distance", rows)[:, :MAX_VIEWS],
        reconstructions=reconstructions,
        method=spec.method,
        epsilon_boundary=spec.config.get("epsilon_boundary"),
    )
    return str(path)


def _place(url: str, storage_options: dict[str, Any]) -> Path:
    local = open_storage(url, storage_options).local_path("zarr.json")
    if local is not None:
        return local.parent.with_suffix(".png")
    name = url.rstrip("/").rpartition("/")[2].removesuffix(".zarr") or "cache"
    return Path(platformdirs.user_cache_dir("viewgen")) / "contact-sheets" / f"{name}.png"
