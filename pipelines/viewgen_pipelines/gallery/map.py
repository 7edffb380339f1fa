"""A map of originals and views under f: t-SNE of their unit vectors, one panel for each cache.

All caches of a gallery share one map, so that a panel shows what its method makes of the same images. Points
that lie close together look alike to f. Distances between groups, and their sizes, mean nothing in t-SNE.

Shape legend: B images, V views of each in one cache, K projection dimension, M points.

References:
    Visualizing Data using t-SNE, van der Maaten and Hinton, 2008,
    https://jmlr.org/papers/v9/vandermaaten08a.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.extras import EXTRAS, installed
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.sources import CacheSource

__all__ = [
    "MAX_POINTS",
    "Map",
    "class_legend",
    "draw_panel",
    "embed",
    "make_map",
    "partners",
    "shared_rows",
    "why_no_map",
]

MAX_POINTS = 1200
LEAST_IMAGES = 8
NUM_COLOURS = 10
"""Colours of classes in the style sheet."""

_SIDE, _MARGIN = 520, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """Positions of points, in units of the panel's side.

    Attributes:
        rows: rows of the first cache, int64 `(B,)`.
        originals: `(B, 2)`; None where the originals are not at hand.
        partners: for each cache, its rows of the same images, int64 `(B,)`.
        views: for each cache, `(B, V, 2)`.
    """

    rows: NDArray[np.int64]
    originals: NDArray[np.float64] | None
    partners: tuple[NDArray[np.int64], ...]
    views: tuple[NDArray[np.float64], ...]

    @property
    def num_points(self) -> int:
        """M."""
        return sum(points[..., 0].size for points in (self.originals, *self.views) if points is not None)


def why_no_map(source: CacheSource, snapshot: Snapshot, num_images: int) -> str:
    """Return the reason why there is no map of a cache; empty if there is one.

    Args:
        source: source of the cache.
        snapshot: its snapshot.
        num_images: number of images whose views could be shown.
    """
    spec = snapshot.spec
    if not installed("readouts"):
        return f"The map needs {EXTRAS['readouts'][0]}: pip install 'viewgen[readouts]'."
    if spec.roles:
        return f"The views of method {spec.method} are parts of an image, which f does not read."
    if "encoder" not in spec.models:
        return f"Views of method {spec.method} are made without an encoder, so there is no f to map them by."
    if "encoder" not in source.networks(spec).paths:
        return (
            f"The encoder that made this cache ({spec.models['encoder']}) is not at hand; --models DIR names "
            "the folder of the pretraining that made it."
        )
    if num_images < LEAST_IMAGES:
        return (
            f"A map takes at least {LEAST_IMAGES} images with views in every cache; there are {num_images}."
        )
    return ""


def make_map(sources: Sequence[CacheSource], snapshots: Sequence[Snapshot], rows: NDArray[np.int64]) -> Map:
    """Return the map of up to `MAX_POINTS` originals and views, images evenly spread.

    Args:
        sources: sources of the caches; the encoder of the first is f.
        snapshots: their snapshots, of the same images.
        rows: rows of the first cache whose images have views in every cache, see `shared_rows`.
    """
    first = snapshots[0]
    per_image = 1 + sum(snapshot.spec.num_views for snapshot in snapshots)
    count = min(len(rows), max(LEAST_IMAGES, MAX_POINTS // per_image))
    chosen = np.linspace(0, len(rows) - 1, count).astype(np.int64)
    rows = rows[chosen]
    of_caches = [partners(snapshot, first, rows) for snapshot in snapshots]
    blocks = [
        snapshot.reader.views(found).reshape(-1, *_shape(snapshot))
        for snapshot, found in zip(snapshots, of_caches, strict=True)
    ]
    originals = [sources[0].original(first, int(row)) for row in rows]
    if all(image is not None and image.shape == _shape(first) for image in originals):
        blocks.insert(0, np.stack([image for image in originals if image is not None]))
    points = embed(sources[0].networks(first.spec).project(np.concatenate(blocks)))
    parts = np.split(points, np.cumsum([len(block) for block in blocks])[:-1])
    with_originals = len(parts) > len(snapshots)
    return Map(
        rows=rows,
        originals=parts[0] if with_originals else None,
        partners=tuple(of_caches),
        views=tuple(part.reshape(count, -1, 2) for part in parts[with_originals:]),
    )


def shared_rows(snapshots: Sequence[Snapshot], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the first cache's rows whose images have views in every cache."""
    found = [partners(snapshot, snapshots[0], rows) >= 0 for snapshot in snapshots]
    return rows[np.all(found, axis=0)]


def embed(z: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return positions `(M, 2)` in the unit square of vectors `(M, K)`, by t-SNE with a fixed seed."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(z) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(z)
    low, high = found.min(axis=0), found.max(axis=0)
    side = max(float((high - low).max()), 1e-12)
    scaled: NDArray[np.float64] = 0.5 + (found - (low + high) / 2) / side
    return scaled


def class_legend(source: CacheSource, snapshot: Snapshot, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return name and colour of the classes on a map, most frequent first; the rest share the last colour."""
    values, counts = np.unique(_classes(snapshot, rows), return_counts=True)
    ordered = values[np.argsort(-counts, kind="stable")].tolist()
    coloured = sorted(ordered[:NUM_COLOURS])
    legend = [
        {"value": value, "colour": number, "text": source.class_text(snapshot.spec, value)}
        for number, value in enumerate(coloured)
    ]
    if len(ordered) > NUM_COLOURS:
        legend.append({"value": None, "colour": NUM_COLOURS, "text": "other classes"})
    return legend


def draw_panel(
    found: Map,
    number: int,
    snapshots: Sequence[Snapshot],
    legend: Sequence[dict[str, Any]],
    *,
    name: str,
    place: int,
) -> str:
    """Return one cache's panel as SVG: originals, and the views of that cache.

    Args:
        found: the map.
        number: place of the cache among `snapshots`.
        snapshots: snapshots of all caches.
        legend: see `class_legend`.
        name: name of the cache.
        place: place of the cache in the gallery, 0 for its own.
    """
    colours = {entry["value"]: entry["colour"] for entry in legend}
    first, snapshot = snapshots[0], snapshots[number]
    texts = {entry["value"]: entry["text"] for entry in legend}
    margins = snapshot.scores.get("label_margin")
    head = (
        f'<svg class="map-panel" viewBox="0 0 {_SIDE} {_SIDE}" role="img" '
        f'aria-label="{escape(f"Map of originals and views of {name}", quote=True)}">'
    )
    points: list[str] = []
    lines: list[str] = []
    originals: list[str] = []
    classes = _classes(first, found.rows).tolist()
    for image, row in enumerate(found.rows.tolist()):
        partner = int(found.partners[number][image])
        folder = f"other/{place}/" if place else ""
        strip = f"{folder}strip/{partner}.png?v={snapshot.fingerprint(partner)}"
        link = f'<a href="image/{row}.html" tabindex="-1" data-strip="{strip}">'
        value = classes[image]
        colour = colours.get(value, NUM_COLOURS)
        label = texts.get(value, f"class {value}")
        about = f"{label} #{int(first.columns['source_index'][row])}"
        for view, position in enumerate(found.views[number][image]):
            said, foreign = f"{about}, view {view + 1}", ""
            if margins is not None and margins[partner, view] < 0:
                said, foreign = f"{said}, read as another class", " foreign"
            if found.originals is not None:
                (x1, y1), (x2, y2) = _pixels(found.originals[image]), _pixels(position)
                lines.append(f'<path class="s{colour}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
            points.append(f"{link}{_circle(position, f'view k{colour}{foreign}', 2.8, said)}</a>")
        if found.originals is not None:
            position = found.originals[image]
            originals.append(f"{link}{_circle(position, f'original k{colour}', 4, f'{about}, original')}</a>")
    return "".join([head, *lines, *points, *originals, "</svg>"])


def _circle(position: NDArray[np.float64], css: str, radius: float, said: str) -> str:
    x, y = _pixels(position)
    return (
        f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(said)}</title></circle>'
    )


def _pixels(position: NDArray[np.float64]) -> tuple[float, float]:
    x, y = _MARGIN + (_SIDE - 2 * _MARGIN) * position
    return float(x), float(y)


def partners(snapshot: Snapshot, first: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of a cache that hold the views of the same images, −1 where there are none."""
    own = snapshot.readable_rows
    if not len(own):
        return np.full(len(rows), -1, np.int64)
    sources = snapshot.columns["source_index"][own]
    order = np.argsort(sources)
    wanted = first.columns["source_index"][rows]
    place = order[np.searchsorted(sources, wanted, sorter=order).clip(max=len(own) - 1)]
    return np.where(sources[place] == wanted, own[place], -1)


def _shape(snapshot: Snapshot) -> tuple[int, int, int]:
    return (3, snapshot.spec.height, snapshot.spec.width)


def _classes(snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the classes of rows `(B,)`, of the first attribute where there are several."""
    labels: NDArray[np.int64] = snapshot.columns["label"][rows]
    return labels.reshape(len(rows), -1)[:, 0]
