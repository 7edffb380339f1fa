"""Template data of single images, and of the choices above a grid of images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.numbers import Gauge
from viewgen_pipelines.gallery.pictures import MAX_STRIP_VIEWS, frames_size, strip_size
from viewgen_pipelines.gallery.queries import (
    PAGE_SIZES,
    PART_FILTERS,
    SORTS,
    STATUS_NAMES,
    VIEW_FILTERS,
    Query,
    sort_values,
)
from viewgen_pipelines.gallery.sources import CacheSource

__all__ = [
    "STATUS_CSS",
    "STATUS_WORDS",
    "frame_tiles",
    "make_card",
    "source_tiles",
    "strip_context",
    "toolbar",
    "view_tiles",
]

STATUS_WORDS = {"ok": "ok", "not-converged": "not converged", "failed": "failed"}
STATUS_CSS = {"ok": "ok", "not-converged": "late", "failed": "failed"}
SCORE_WORDS = {"label_margin": "margin", "nearest_view": "nearest view"}
SCORES_OF_IMAGES = ("main_part",)  # alike for all views
BOUNDARY_TOLERANCE = 0.05

# so many classes fit into a list that people still use
_MAX_CLASSES = 1000


def make_card(source: CacheSource, snapshot: Snapshot, row: int, query: str = "") -> dict[str, Any]:
    """Describe one image of a grid.

    Args:
        source: source of the snapshot.
        snapshot: the cache.
        row: committed row of the cache.
        query: query string of the link to the image's page.
    """
    columns = snapshot.columns
    status = STATUS_NAMES.get(int(columns["status"][row]), "failed")
    label = columns["label"][row]
    text = source.label_text(snapshot.spec, label)
    position = int(columns["source_index"][row])
    places = [f"{a}.{v}" for a, v in enumerate(label.tolist())] if np.ndim(label) else [str(int(label))]
    shown = min(snapshot.spec.num_views, MAX_STRIP_VIEWS)
    what = "no views" if status == "failed" else f"{shown} view{'s' if shown > 1 else ''}"
    distance = float(snapshot.mean_distance[row])
    said = "" if distance != distance else f", mean distance {distance:.3f}"
    return {
        "row": row,
        "source": position,
        "label": text,
        "classes": " ".join(places),
        "status": status,
        "status_text": STATUS_WORDS[status],
        "css": STATUS_CSS[status],
        "distance": distance,
        "miss": float(snapshot.worst_miss[row]),
        "error": float(columns["inversion_error"][row]),
        "steps": int(columns["steps"][row]) if "max_steps" in snapshot.spec.config else -1,
        "margin": float(snapshot.worst_margin[row]),
        "pair": float(snapshot.closest_pair[row]),
        "density": float(snapshot.mean_density[row]),
        "views": f"{snapshot.judged[row]} {snapshot.part[row]}".strip(),
        "outlier": str(snapshot.part[row]) == "outlier",
        "num_foreign": _num_foreign(snapshot, row),
        "num_views": snapshot.spec.num_views,
        "reason": snapshot.failure(row),
        "fingerprint": snapshot.fingerprint(row),
        "query": query,
        "alt": f"{text} #{position}: original, reconstruction, {what}{said}",
    }


def source_tiles(source: CacheSource, snapshot: Snapshot, card: dict[str, Any]) -> list[dict[str, str]]:
    """Describe the pictures from which views are made: original and reconstruction."""
    row, about = card["row"], f"{card['label']} #{card['source']}"
    version = f"?v={card['fingerprint']}"
    _, reason = source.dataset(snapshot.spec)
    there = source.original(snapshot, row) is not None
    original = {
        "name": "original",
        "src": f"picture/{row}/original.png{version}" if there else "",
        "alt": f"Original of {about}",
        "reason": reason or "not in the data set",
    }
    if not _has_codes(snapshot):
        return [original]
    _, reason = source.inversion_index(snapshot.spec)
    there = source.reconstruction(snapshot, row) is not None
    reconstruction = {
        "name": "reconstruction",
        "src": f"picture/{row}/reconstruction.png{version}" if there else "",
        "alt": f"Reconstruction of {about} from its inversion",
        "reason": reason or "this image has no inversion",
    }
    return [original, reconstruction]


def view_tiles(snapshot: Snapshot, card: dict[str, Any]) -> list[dict[str, Any]]:
    """Describe the views of an image; empty if it has none."""
    row = card["row"]
    if not snapshot.readable(row):
        return []
    distances, epsilon = snapshot.columns["distance"][row], snapshot.epsilon_boundary
    scores = {name: values[row].tolist() for name, values in snapshot.scores.items()}
    gauge = Gauge(distances, epsilon)
    tiles = []
    for view, distance in enumerate(distances.tolist()):
        off = epsilon is not None and abs(distance - epsilon) > BOUNDARY_TOLERANCE
        said = "" if distance != distance else f", distance {distance:.3f} from the anchor"
        tiles.append(
            {
                "number": view + 1,
                "src": f"picture/{row}/view-{view}.png?v={card['fingerprint']}",
                "alt": f"View {view + 1} of {card['label']} #{card['source']}{said}",
                "distance": distance,
                "off": off,
                "gauge": gauge.draw(distance, off=off),
                "foreign": scores["label_margin"][view] < 0 if "label_margin" in scores else False,
                "scores": [
                    {"name": SCORE_WORDS.get(name, name), "value": values[view]}
                    for name, values in scores.items()
                    if values[view] == values[view] and name not in SCORES_OF_IMAGES
                ],
            }
        )
    return tiles


def frame_tiles(
    source: CacheSource, snapshot: Snapshot, card: dict[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Describe the rows of frames between the anchor and each view, or the reason why there are none."""
    row = card["row"]
    if not snapshot.readable(row) or not _has_codes(snapshot):
        return [], ""
    if reason := source.why_no_frames(snapshot, row):
        return [], reason
    width, height = frames_size(snapshot.spec)
    tiles = [
        {
            "number": view + 1,
            "src": f"frames/{row}/{view}.png?v={card['fingerprint']}",
            "alt": f"Nine pictures on the way from the anchor to view {view + 1}",
            "width": width,
            "height": height,
        }
        for view in range(snapshot.spec.num_views)
    ]
    return tiles, ""


def strip_context(snapshot: Snapshot) -> dict[str, Any]:
    """Return the size and the contents of the strips on a page."""
    width, height = strip_size(snapshot.spec)
    num_views = snapshot.spec.num_views
    views = (
        f"{num_views} views" if num_views <= MAX_STRIP_VIEWS else f"{MAX_STRIP_VIEWS} of {num_views} views"
    )
    legend = f"original, reconstruction, {views}" if _has_codes(snapshot) else f"original, {views}"
    return {"strip_width": width, "strip_height": height, "legend": legend}


def toolbar(source: CacheSource, snapshot: Snapshot, query: Query, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return the choices above a grid of `rows`."""
    sorts = []
    for key, words in SORTS.items():
        if key == "row":
            sorts.append({"key": key, "text": words})
        elif np.isfinite(sort_values(snapshot, key)[rows]).any():
            sorts.append({"key": f"-{key}", "text": f"{words}, high first"})
            sorts.append({"key": key, "text": f"{words}, low first"})
    return {
        "query": query,
        "sorts": sorts,
        "labels": _label_choices(source, snapshot, snapshot.columns["label"][rows]),
        "statuses": list(STATUS_WORDS.items()),
        "view_filters": [
            *(VIEW_FILTERS.items() if "label_margin" in snapshot.scores else ()),
            *(PART_FILTERS.items() if "main_part" in snapshot.scores else ()),
        ],
        "sizes": PAGE_SIZES,
    }


def _num_foreign(snapshot: Snapshot, row: int) -> int:
    """Return how many views of a row a classifier reads as another class."""
    margins = snapshot.scores.get("label_margin")
    return 0 if margins is None else int((margins[row] < 0).sum())


def _label_choices(source: CacheSource, snapshot: Snapshot, labels: NDArray[Any]) -> list[dict[str, str]]:
    spec = snapshot.spec
    if labels.ndim == 1:
        values = np.unique(labels).tolist()[:_MAX_CLASSES]
        return [{"key": str(v), "text": source.class_text(spec, v)} for v in values]
    choices = []
    for attribute in range(labels.shape[1]):
        for value in np.unique(labels[:, attribute]).tolist()[:_MAX_CLASSES]:
            text = source.class_text(spec, value, attribute)
            choices.append({"key": f"{attribute}.{value}", "text": text})
    return choices


def _has_codes(snapshot: Snapshot) -> bool:
    """Return True if the method starts from an inversion: views then have an anchor and a path from it."""
    return "inversions" in snapshot.spec.models
