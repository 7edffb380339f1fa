"""A cache as HTML for notebooks: statistics, verdict on its quality, thumbnails of views."""

import base64
import io
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewgen.picture import tile
from viewgen.redaction import redacted
from viewgen.role_pictures import role_pictures
from viewgen.store import CacheReader, summarise_cache

__all__ = ["reader_html"]

NUM_IMAGES, MAX_VIEWS = 4, 8
MIN_TILE = 48
MAX_PICTURE_BYTES = 2_000_000
# of the largest cache whose statistics are read each time a notebook shows it
MAX_ROWS = 1_000_000


def reader_html(reader: CacheReader, url: str, storage_options: dict[str, Any] | None) -> str:
    """Return a cache as an HTML fragment without scripts or links.

    Args:
        reader: reader of the cache.
        url: URL of the cache, with credentials if it needs any.
        storage_options: options of fsspec.
    """
    cell = 'style="padding:1px 12px 1px 0;vertical-align:top;text-align:left"'
    rows = "".join(
        f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(redacted(text))}</td></tr>"
        for name, text in _facts(reader, url, storage_options)
    )
    table = f'<table style="border:none;font-size:90%"><tbody>{rows}</tbody></table>'
    row = "display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start"
    return f'<div style="{row}"><div>{table}</div>{_picture(reader)}</div>'


def _facts(reader: CacheReader, url: str, storage_options: dict[str, Any] | None) -> list[tuple[str, str]]:
    spec = reader.spec
    made_of = " ".join(str(spec.dataset[key]) for key in ("name", "split") if key in spec.dataset)
    size = "×".join(map(str, (spec.channels, spec.height, spec.width)))
    facts = [
        ("cache", reader.url),
        ("views", f"{spec.method} of {made_of or 'images'}"),
        ("rows", f"{len(reader):,} of {spec.num_images:,} images × {spec.num_views} views, {size}"),
        ("shards", f"{len(reader.committed):,} of {spec.num_shards:,}"),
    ]
    if spec.roles:
        facts.append(("roles", ", ".join(role.name for role in spec.roles)))
    if spec.num_images > MAX_ROWS:
        return facts
    summary = summarise_cache(url, storage_options)
    facts.append(("size", f"{summary['bytes'] / 1e6:,.1f} MB"))
    if distance := summary["distance"]:
        beside = f", ε₁ {summary['epsilon_boundary']:g}" if summary["epsilon_boundary"] is not None else ""
        facts.append(("distance", f"{distance['mean']:.3g} ± {distance['sd']:.2g}{beside}"))
    if summary["mean_pairwise"] is not None:
        facts.append(("mean pairwise", f"{summary['mean_pairwise']:.3g}"))
    left = {name: count for name, count in summary["images"].items() if count and name != "ok"}
    if left:
        facts.append(("not ok", ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in left.items())))
    if (quality := summary["quality"]) is not None:
        verdict = quality.get("verdict") or ["nothing measured speaks against these views"]
        facts += [("quality" if number == 0 else "", str(line)) for number, line in enumerate(verdict)]
    return facts


def _picture(reader: CacheReader) -> str:
    """Return thumbnails of the views of a few images as an embedded PNG, an image a line."""
    if not len(reader):
        return ""
    rows = reader.rows[np.linspace(0, len(reader) - 1, min(NUM_IMAGES, len(reader))).astype(np.int64)]
    roles = reader.spec.roles
    views = role_pictures(reader.views(rows), roles)[:, :MAX_VIEWS]
    pixels = tile(_rgb(views.reshape(-1, *views.shape[2:])), views.shape[1], scale=_scale(views.shape[-1]))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    if len(out.getvalue()) > MAX_PICTURE_BYTES:
        out = io.BytesIO()
        Image.fromarray(pixels).convert("RGB").save(out, format="JPEG", quality=85)
    kind = "png" if out.getvalue().startswith(b"\x89PNG") else "jpeg"
    text = base64.b64encode(out.getvalue()).decode()
    names = ", ".join(role.name for role in roles[:MAX_VIEWS])
    label = f"views of {len(rows)} images, an image a line{f': {names}' if names else ''}"
    return f'<img alt="{label}" title="{label}" style="max-width:100%" src="data:image/{kind};base64,{text}">'


def _rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images `(N, C, H, W)` of any number of channels as `(N, 3, H, W)`: the first three, or gray."""
    if images.shape[1] >= 3:
        return images[:, :3]
    return np.repeat(images[:, :1], 3, axis=1)


def _scale(side: int) -> int:
    return max(1, -(-MIN_TILE // side))
