"""The images of a page and their order: filters and sort orders of the grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from viewgen.status import Status
from viewgen_pipelines.gallery.index import Snapshot

__all__ = [
    "PAGE_SIZES",
    "PART_FILTERS",
    "SORTS",
    "STATUS_NAMES",
    "VIEW_FILTERS",
    "Query",
    "select",
    "sort_values",
]

STATUS_NAMES: dict[int, str] = {
    Status.OK: "ok",
    Status.NOT_CONVERGED: "not-converged",
    Status.FAILED: "failed",
}
PAGE_SIZES = (24, 48, 96)
# key: words; a minus before the key turns the order round
SORTS = {
    "row": "position in the data set",
    "distance": "mean distance from the anchor",
    "miss": "farthest miss of ε₁",
    "error": "inversion error",
    "steps": "steps to converge",
    "margin": "smallest label margin",
    "pair": "closest pair of views",
    "density": "density among real images",
}
# values of `Snapshot.judged`
VIEW_FILTERS = {
    "foreign": "with a view of another class",
    "kept": "all of the image's class",
    "unread": "not judged: the image itself is misread",
}

# values of `Snapshot.part`
PART_FILTERS = {
    "main-part": "in the main part of its class",
    "outlier": "outside of its class's main part",
}

_ATTRIBUTES = {
    "distance": "mean_distance",
    "miss": "worst_miss",
    "margin": "worst_margin",
    "pair": "closest_pair",
    "density": "mean_density",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A visitor's request to the grid.

    Attributes:
        sort: key of `SORTS`; a leading minus sorts the largest first.
        label: ``"3"`` for a class, ``"1.3"`` for value 3 of attribute 1, empty for all.
        status: value of `STATUS_NAMES`, empty for all.
        views: key of `VIEW_FILTERS` or `PART_FILTERS`, empty for all.
        page: number of the page, from 1.
        size: images per page.
    """

    sort: str = "row"
    label: str = ""
    status: str = ""
    views: str = ""
    page: int = 1
    size: int = PAGE_SIZES[0]

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> "Query":
        """Read a query string; parameters that cannot be read take their defaults."""
        sort = parameters.get("sort", "row")
        label = parameters.get("class", "")
        status = parameters.get("status", "")
        views = parameters.get("views", "")
        size = _integer(parameters.get("size"), PAGE_SIZES[0])
        return cls(
            sort=sort if sort.removeprefix("-") in SORTS else "row",
            label=label if _label_numbers(label) else "",
            status=status if status in STATUS_NAMES.values() else "",
            views=views if views in VIEW_FILTERS or views in PART_FILTERS else "",
            page=max(1, _integer(parameters.get("page"), 1)),
            size=size if size in PAGE_SIZES else PAGE_SIZES[0],
        )

    def text(self, **changes: Any) -> str:
        """Return the query string, with `changes`, without defaults; ``?`` included unless it is empty."""
        defaults = {"sort": "row", "class": "", "status": "", "views": "", "page": 1, "size": PAGE_SIZES[0]}
        values = {"sort": self.sort, "class": self.label, "status": self.status, "views": self.views}
        values |= {"page": self.page, "size": self.size} | changes
        given = {key: value for key, value in values.items() if value != defaults.get(key)}
        return f"?{urlencode(given)}" if given else ""


def select(snapshot: Snapshot, query: Query) -> NDArray[np.int64]:
    """Return the rows that match a query, in its order, of all pages.

    Rows without the sort key (mostly failed ones) come last.
    """
    rows = snapshot.rows
    if query.status:
        code = next(code for code, name in STATUS_NAMES.items() if name == query.status)
        rows = rows[snapshot.columns["status"][rows] == code]
    if query.label:
        numbers = _label_numbers(query.label)
        labels = snapshot.columns["label"][rows].reshape(len(rows), -1)
        attribute, value = numbers if len(numbers) == 2 else (0, numbers[0])
        if attribute >= labels.shape[1]:
            return rows[:0]
        rows = rows[labels[:, attribute] == value]
    if query.views:
        told = snapshot.part if query.views in PART_FILTERS else snapshot.judged
        rows = rows[told[rows] == query.views]
    key = query.sort.removeprefix("-")
    descending = query.sort.startswith("-")
    if key == "row":
        return rows[::-1] if descending else rows
    values = sort_values(snapshot, key)[rows].astype(np.float64)
    values = np.where(np.isfinite(values), -values if descending else values, np.inf)
    return rows[np.argsort(values, kind="stable")]


def sort_values(snapshot: Snapshot, key: str) -> NDArray[Any]:
    """Return the values of a sort key other than ``row``, `(N,)`, NaN where unknown."""
    if key == "error":
        return snapshot.columns["inversion_error"]
    if key == "steps":
        steps = snapshot.columns["steps"].astype(np.float64)
        return np.where(steps < 0, np.nan, steps)
    found: NDArray[Any] = getattr(snapshot, _ATTRIBUTES[key])
    return found


def _integer(text: str | None, default: int) -> int:
    # no int(): it takes as long as the text is, squared, and knows other scripts' digits
    return int(text) if text is not None and len(text) < 10 and text.isascii() and text.isdigit() else default


def _label_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a class filter; empty if the text is none. A class may be −1 (no label)."""
    parts = text.split(".")
    if len(parts) == 1 and text == "-1":
        return (-1,)
    numbers = tuple(_integer(part, -1) for part in parts)
    return numbers if len(numbers) <= 2 and min(numbers) >= 0 else ()
