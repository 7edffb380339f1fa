"""The pages as HTML text, the same for the server and for plain files.

The templates escape everything that comes from a cache or a data set. Only charts, which escape their own
text, are inserted as they are. Links are relative, so pages work under any prefix and from a disk.
"""

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen import __version__
from viewgen.errors import ViewgenError
from viewgen.status import Status
from viewgen.store.quality import read_report
from viewgen_pipelines.gallery import cards, numbers
from viewgen_pipelines.gallery import map as maps
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.live import MAX_TROUBLES, Progress, find_troubles, follow
from viewgen_pipelines.gallery.quality import quality, quality_facts, quality_versus
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
        others: names of the caches to compare with.
        static: True if the pages are files rather than a server's answers.
        written: date of writing, for static pages.
        version: version of viewgen.
    """

    name: str
    others: tuple[str, ...] = ()
    static: bool = False
    written: str = ""
    version: str = __version__


class Pages:
    """Writes the pages of one cache, optionally compared with others.

    Args:
        source: the cache.
        others: the caches to compare with.
        static_rows: the rows that get pages, for plain files; None for a server, which has pages of all rows.
        written: date on static pages.
    """

    def __init__(
        self,
        source: CacheSource,
        others: Sequence[CacheSource] = (),
        *,
        static_rows: NDArray[np.int64] | None = None,
        written: str = "",
    ) -> None:
        self.source, self.others = source, tuple(others)
        self.static_rows = static_rows
        self._map: tuple[object, maps.Map] | None = None
        self._numbers: tuple[Snapshot, list[numbers.Fact], list[dict[str, str]]] | None = None
        self._map_lock = threading.Lock()
        names = [cache_name(one.index.url) for one in (source, *others)]
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        self.site = Site(
            name=names[0],
            others=tuple(names[1:]),
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
        report = read_report(self.source.index.storage, spec)
        found, charts = self._summary(snapshot)
        return self._render(
            "overview.html",
            here="overview",
            url=self.source.index.url,
            snapshot=snapshot,
            spec=spec,
            facts=[*found, *quality_facts(report)],
            quality=quality(report),
            counts=[count for count in counts if count["number"]],
            charts=charts,
            troubles=find_troubles(self.source.index, snapshot),
            max_troubles=MAX_TROUBLES,
            provenance=numbers.provenance(snapshot),
            cards=[self._card(snapshot, row) for row in samples],
            **self._live(snapshot),
            **cards.strip_context(snapshot),
        )

    def _summary(self, snapshot: Snapshot) -> tuple[list[numbers.Fact], list[dict[str, str]]]:
        """Return facts and charts of a snapshot, computed once: of a million images they take a second."""
        if self._numbers is None or self._numbers[0] is not snapshot:
            self._numbers = (snapshot, numbers.facts(snapshot), numbers.charts(snapshot))
        return self._numbers[1:]

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
        complete = len(snapshot.commits) == snapshot.spec.num_shards
        if complete and not snapshot.scores and snapshot.spec.method != "invert":
            notes.append(
                "Its views have no scores yet: viewgen measure CACHE --write-columns adds label margins, "
                "closest pairs and densities, by which images can be sorted and filtered."
            )
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
        distances = self._pairwise(snapshot, row) if views else None
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
            matrix=numbers.matrix(distances),
            closest=None if distances is None else numbers.closest_pair(distances),
            **self._neighbours(snapshot, row, query),
        )

    def compare(self, query: Query) -> str | None:
        """Return the page that compares the caches; None without another cache."""
        if not self.others:
            return None
        places, problems = self._comparable()
        snapshots = [source.snapshot() for source in self._sources(places)]
        names = self._names(places)
        if len(places) == 1:
            return self._render("compare.html", here="compare", names=names, problems=problems, columns=[])
        first = snapshots[0]
        sources = first.columns["source_index"]
        rows = self._rows(first, query)
        for other in snapshots[1:]:
            rows = rows[np.isin(sources[rows], other.columns["source_index"][other.rows])]
        shown, query, pager = self._page(query, rows)
        reports = [
            read_report(source.index.storage, snapshot.spec)
            for source, snapshot in zip(self._sources(places), snapshots, strict=True)
        ]
        sets = []
        for row in shown:
            sides = []
            for place, source, snapshot in zip(places, self._sources(places), snapshots, strict=True):
                partner = snapshot.row_of_source[int(sources[row])]
                card = cards.make_card(source, snapshot, partner)
                folder = f"other/{place}/" if place else ""
                src = f"{folder}strip/{partner}.png?v={card['fingerprint']}"
                sides.append({**card, **cards.strip_context(snapshot), "src": src})
            sets.append({"card": self._card(first, row, query), "sides": sides})
        return self._render(
            "compare.html",
            here="compare",
            names=names,
            problems=problems,
            columns=[*numbers.versus(*snapshots), *quality_versus(reports)],
            sets=sets,
            action="compare.html",
            pager=pager,
            **cards.toolbar(self.source, first, query, self._rows(first)),
            **cards.strip_context(first),
        )

    def map_page(self) -> str:
        """Return the page of the map; the server's is filled by `map_points`, which takes seconds."""
        reason, *_ = self._mapped()
        points = "" if reason or not self.site.static else self.map_points()
        return self._render("map.html", here="map", reason=reason, points=points)

    def map_points(self) -> str:
        """Return the panels of the map and their legend, as a part of a page."""
        reason, places, snapshots, rows = self._mapped()
        if reason:
            return render("map-points.html", reason=reason)
        key = tuple((place, snapshot.version) for place, snapshot in zip(places, snapshots, strict=True))
        with self._map_lock:
            if self._map is None or self._map[0] != key:
                self._map = (key, maps.make_map(self._sources(places), snapshots, rows))
            found = self._map[1]
        legend = maps.class_legend(self.source, snapshots[0], found.rows)
        names = self._names(places)
        panels = [
            {"name": name, "svg": maps.draw_panel(found, number, snapshots, legend, name=name, place=place)}
            for number, (name, place) in enumerate(zip(names, places, strict=True))
        ]
        return render(
            "map-points.html",
            reason="",
            panels=panels,
            legend=legend,
            found=found,
            scored=[name for name, one in zip(names, snapshots, strict=True) if "label_margin" in one.scores],
        )

    def _mapped(self) -> tuple[str, list[int], list[Snapshot], NDArray[np.int64]]:
        """Return why there is no map (empty if there is), the caches on it, and the rows it may show.

        Caches of views of another size or kind are left out: the first one's encoder does not read them.
        """
        found = [(place, self._sources([place])[0].snapshot()) for place in self._comparable()[0]]
        first = found[0][1]
        shape = (first.spec.height, first.spec.width, first.spec.roles)
        found = [one for one in found if (one[1].spec.height, one[1].spec.width, one[1].spec.roles) == shape]
        places, snapshots = [place for place, _ in found], [snapshot for _, snapshot in found]
        rows = maps.shared_rows(snapshots, self._rows(first))
        return maps.why_no_map(self.source, first, len(rows)), places, snapshots, rows

    def _sources(self, places: Sequence[int]) -> list[CacheSource]:
        """Return caches by their places: 0 for the gallery's own, then those to compare with."""
        return [(self.source, *self.others)[place] for place in places]

    def _names(self, places: Sequence[int]) -> list[str]:
        """Return the names of caches by their places, as `_sources` does the caches."""
        return [(self.site.name, *self.site.others)[place] for place in places]

    def _comparable(self) -> tuple[list[int], list[str]]:
        """Return the places of the caches of the same images, and a sentence about each of the others."""
        mine = self.source.snapshot().spec.dataset
        places, problems = [0], []
        for place, (name, other) in enumerate(zip(self.site.others, self.others, strict=True), 1):
            theirs = other.snapshot().spec.dataset
            if mine.get("digest") == theirs.get("digest") and mine.get("split") == theirs.get("split"):
                places.append(place)
                continue
            texts = [f"{d.get('name')} {d.get('split')} ({d.get('digest')})" for d in (mine, theirs)]
            problems.append(
                f"{name} was made of different images, so it is not set beside {self.site.name}: it was made "
                f"of {texts[1]}, {self.site.name} of {texts[0]}."
            )
        return places, problems

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
