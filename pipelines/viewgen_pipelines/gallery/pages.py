"""The pages as HTML text, the same for the server and for plain files.

The templates escape everything that comes from a cache or a data set. Only charts, which escape their own
text, are inserted as they are. Links are relative, so pages work under any prefix and from a disk.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen import __version__
from viewgen.errors import ViewgenError
from viewgen.status import Status
from viewgen.store.quality import read_report
from viewgen_pipelines.gallery import cards, numbers
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.live import MAX_TROUBLES, Progress, find_troubles, follow
from viewgen_pipelines.gallery.queries import STATUS_NAMES, Query, select
from viewgen_pipelines.gallery.sources import CacheSource
from viewgen_pipelines.gallery.templating import render
from viewgen_pipelines.names import cache_name

__all__ = ["Pages", "Site", "sample_rows"]

NUM_SAMPLES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Values shared by all pages.

    Attributes:
        name: name of the cache, the last part of its URL.
        other: name of the second cache, empty without one.
        static: True if the pages are files rather than a server's answers.
        written: date of writing, for static pages.
        version: version of viewgen.
    """

    name: str
    other: str = ""
    static: bool = False
    written: str = ""
    version: str = __version__


class Pages:
    """Writes the pages of one cache, optionally compared with a second one.

    Args:
        source: the cache.
        other: the cache to compare with, or None.
        static_rows: the rows that get pages, for plain files; None for a server, which has pages of all rows.
        written: date on static pages.
    """

    def __init__(
        self,
        source: CacheSource,
        other: CacheSource | None = None,
        *,
        static_rows: NDArray[np.int64] | None = None,
        written: str = "",
    ) -> None:
        self.source, self.other = source, other
        self.static_rows = static_rows
        names = [cache_name(source.index.url), "" if other is None else cache_name(other.index.url)]
        if names[0] == names[1]:
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        self.site = Site(
            name=names[0],
            other=names[1],
            static=static_rows is not None,
            written=written,
        )

    def overview(self) -> str:
        """Return the first page."""
        snapshot = self.source.snapshot()
        spec = snapshot.spec
        status = snapshot.columns["status"]
        counts = [
            {
                "name": cards.STATUS_WORDS[name],
                "css": cards.STATUS_CSS[name],
                "number": int((status == code).sum()),
                "link": name,
            }
            for code, name in STATUS_NAMES.items()
        ]
        counts.append(
            {"name": "not there yet", "css": "", "number": int((status == Status.ABSENT).sum()), "link": ""}
        )
        samples = sample_rows(self._rows(snapshot), NUM_SAMPLES)
        return self._render(
            "overview.html",
            here="overview",
            url=self.source.index.url,
            snapshot=snapshot,
            spec=spec,
            facts=numbers.facts(snapshot),
            quality=numbers.quality(read_report(self.source.index.storage, spec)),
            counts=[count for count in counts if count["number"]],
            charts=numbers.charts(snapshot),
            troubles=find_troubles(self.source.index, snapshot),
            max_troubles=MAX_TROUBLES,
            provenance=numbers.provenance(snapshot),
            cards=[self._card(snapshot, row) for row in samples],
            **self._live(snapshot),
            **cards.strip_context(snapshot),
        )

    def images(self, query: Query) -> str:
        """Return one page of the grid."""
        snapshot = self.source.snapshot()
        rows, query, pager = self._page(query, self._rows(snapshot, query))
        notes = []
        dataset, reason = self.source.dataset(snapshot.spec)
        if dataset is None:
            notes.append(f"No originals: {reason}.")
        _, reason = self.source.inversion_index(snapshot.spec)
        if reason and "inversions" in snapshot.spec.models:
            notes.append(f"No reconstructions: {reason}.")
        if self.site.static:
            notes.append(f"{len(rows)} of the cache's {len(snapshot.rows):,} images, evenly spread.")
        return self._render(
            "images.html",
            here="images",
            action="images.html",
            snapshot=snapshot,
            notes=notes,
            cards=[self._card(snapshot, row, query) for row in rows],
            pager=pager,
            **cards.toolbar(self.source, snapshot, query, self._rows(snapshot)),
            **self._live(snapshot),
            **cards.strip_context(snapshot),
        )

    def image(self, row: int, query: Query) -> str | None:
        """Return the page of one image; None if the cache does not contain it."""
        snapshot = self.source.snapshot()
        spec = snapshot.spec
        if not 0 <= row < spec.num_images or not snapshot.columns["status"][row]:
            return None
        card = self._card(snapshot, row, query)
        views = cards.view_tiles(snapshot, card)
        frames, why_no_frames = cards.frame_tiles(self.source, snapshot, card)
        return self._render(
            "image.html",
            depth=1,
            here="image",
            card=card,
            shard=snapshot.shard_of(row),
            epsilon=snapshot.epsilon_boundary,
            side=spec.height,
            sources=cards.source_tiles(self.source, snapshot, card),
            views=views,
            frames=frames,
            why_no_frames=why_no_frames,
            matrix=numbers.matrix(self._pairwise(snapshot, row) if views else None),
            **self._neighbours(snapshot, row, query),
        )

    def compare(self, query: Query) -> str | None:
        """Return the page that compares the two caches; None without a second cache."""
        if self.other is None:
            return None
        snapshot, second = self.source.snapshot(), self.other.snapshot()
        names = [self.site.name, self.site.other]
        mine, theirs = snapshot.spec.dataset, second.spec.dataset
        if mine.get("digest") != theirs.get("digest") or mine.get("split") != theirs.get("split"):
            texts = [f"{d.get('name')} {d.get('split')} ({d.get('digest')})" for d in (mine, theirs)]
            problem = (
                f"These caches were made of different images, so there is nothing to set side by side: "
                f"{names[0]} of {texts[0]}, {names[1]} of {texts[1]}."
            )
            return self._render("compare.html", here="compare", names=names, problem=problem)
        matched, sources = second.row_of_source, snapshot.columns["source_index"]
        rows = self._rows(snapshot, query)
        rows = rows[np.isin(sources[rows], second.columns["source_index"][second.rows])]
        shown, query, pager = self._page(query, rows)
        pairs = []
        for row in shown:
            partner = matched[int(sources[row])]
            card = self._card(snapshot, row, query)
            there = cards.make_card(self.other, second, partner)
            sides = [
                {**card, "src": f"strip/{row}.png?v={card['fingerprint']}"},
                {**there, "src": f"other/strip/{partner}.png?v={there['fingerprint']}"},
            ]
            pairs.append({"card": card, "sides": sides})
        return self._render(
            "compare.html",
            here="compare",
            names=names,
            problem="",
            action="compare.html",
            lines=numbers.versus(snapshot, second),
            pairs=pairs,
            pager=pager,
            **cards.toolbar(self.source, snapshot, query, self._rows(snapshot)),
            **cards.strip_context(snapshot),
        )

    def live(self) -> dict[str, Any]:
        """Return the state from which a page learns that it is out of date."""
        found = self._live(self.source.snapshot())
        return {"version": found["version"], "running": found["running"]}

    def _live(self, snapshot: Snapshot) -> dict[str, Any]:
        progress = follow(self.source.index, snapshot)
        inversions = self._inversion_progress(snapshot)
        return {
            "progress": progress,
            "inversions": inversions,
            "version": f"{snapshot.version}-{inversions.num_shards if inversions else 0}",
            "running": progress.running or bool(inversions and inversions.running),
        }

    def _inversion_progress(self, snapshot: Snapshot) -> Progress | None:
        """Return the progress of the inversions while the views wait for them."""
        index, _ = self.source.inversion_index(snapshot.spec)
        if index is None or len(snapshot.commits) == snapshot.spec.num_shards:
            return None
        try:
            return follow(index, index.snapshot())
        except ViewgenError:
            return None

    def _rows(self, snapshot: Snapshot, query: Query | None = None) -> NDArray[np.int64]:
        rows = select(snapshot, query or Query())
        return rows if self.static_rows is None else rows[np.isin(rows, self.static_rows)]

    def _card(self, snapshot: Snapshot, row: int, query: Query | None = None) -> dict[str, Any]:
        text = "" if query is None or self.site.static else query.text(page=1)
        return cards.make_card(self.source, snapshot, row, text)

    def _page(self, query: Query, rows: NDArray[np.int64]) -> tuple[list[int], Query, dict[str, Any]]:
        """Return one page of the rows; a page number beyond the last means the last page."""
        size = len(rows) or 1 if self.site.static else query.size
        last_page = max(1, -(-len(rows) // size))
        number = min(query.page, last_page)
        first = (number - 1) * size
        shown = rows[first : first + size].tolist()
        query = dataclasses.replace(query, page=number)
        pager = {
            "total": len(rows),
            "first": first + 1,
            "last": first + len(shown),
            "previous": query.text(page=number - 1) if number > 1 else None,
            "next": query.text(page=number + 1) if number < last_page else None,
        }
        return shown, query, pager

    def _pairwise(self, snapshot: Snapshot, row: int) -> NDArray[np.float32] | None:
        if not 1 < snapshot.spec.num_views <= numbers.MAX_MATRIX_VIEWS:
            return None
        return self.source.pairwise_distances(snapshot, row)

    def _neighbours(self, snapshot: Snapshot, row: int, query: Query) -> dict[str, Any]:
        rows = self._rows(snapshot, query)
        place = np.flatnonzero(rows == row)
        text = "" if self.site.static else query.text(page=1)
        up = {"up": "../images.html", "place": "All images", "previous": "", "next": ""}
        if not len(place):
            return up
        at = int(place[0])
        page = at // query.size + 1
        up["up"] = f"../images.html{'' if self.site.static else query.text(page=page)}"
        up["place"] = f"{at + 1:,} of {len(rows):,}"
        if at:
            up["previous"] = f"{rows[at - 1]}.html{text}"
        if at + 1 < len(rows):
            up["next"] = f"{rows[at + 1]}.html{text}"
        return up

    def _render(self, template: str, *, depth: int = 0, **context: Any) -> str:
        snapshot = self.source.snapshot()
        has_views = bool(np.isin(snapshot.columns["status"], (Status.OK, Status.NOT_CONVERGED)).any())
        return render(template, site=self.site, root="../" * depth, has_views=has_views, **context)


def sample_rows(rows: NDArray[np.int64], count: int) -> list[int]:
    """Return up to `count` of the rows, evenly spread."""
    if not len(rows):
        return []
    picked: list[int] = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)].tolist()
    return picked
