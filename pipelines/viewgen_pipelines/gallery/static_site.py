"""The gallery as plain files that open without a server."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from viewgen.errors import DataError, StorageError
from viewgen_pipelines.gallery import pictures
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.pages import Pages, sample_rows
from viewgen_pipelines.gallery.queries import Query
from viewgen_pipelines.gallery.sources import CacheSource
from viewgen_pipelines.gallery.templating import read_static

__all__ = ["write_static"]

NUM_SHEET_ROWS = 8


def write_static(
    source: CacheSource,
    others: Sequence[CacheSource],
    folder: str | Path,
    *,
    num_images: int,
    say: Callable[[str], object] = lambda _: None,
) -> Path:
    """Write the pages of a cache, with up to `num_images` of its images, evenly spread.

    Sorting and filtering happen in the browser, among the images that were written.

    Args:
        source: the cache.
        others: further caches to compare with.
        folder: target folder; made if missing, must be empty or hold an earlier gallery.
        num_images: maximum number of images.
        say: callback with lines about the progress.

    Returns:
        Path of the first page.

    Raises:
        DataError: the cache has no images yet.
        StorageError: the folder holds something else, or cannot be written.
    """
    target = Path(folder).expanduser()
    snapshot = source.snapshot()
    rows = np.array(sample_rows(snapshot.rows, num_images), np.int64)
    if not len(rows):
        raise DataError(f"{source.index.url} holds no images yet; there is nothing to write")
    if target.exists() and not target.is_dir():
        raise StorageError(f"--static {target}: that is a file; give a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / "static" / "gallery.css").exists():
        raise StorageError(f"--static {target}: the folder holds something else; give an empty one")
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    pages = Pages(source, others, static_rows=rows, written=written)
    try:
        for name, content in read_static().items():
            _write(target / "static" / name, content)
        _write(target / "index.html", pages.overview())
        _write(target / "images.html", pages.images(Query()))
        _write(target / "compare.html", pages.compare(Query()))
        _write(target / "map.html", pages.map_page())
        sheet = pictures.sheet_png(source, snapshot, np.array(sample_rows(rows, NUM_SHEET_ROWS)))
        _write(target / "contact-sheet.png", sheet)
        for done, row in enumerate(rows.tolist(), 1):
            _write(target / "image" / f"{row}.html", pages.image(row, Query()))
            _write_pictures(target, source, snapshot, row)
            for number, other in enumerate(others, 1):
                _write_partner(target / "other" / str(number), source, other, row)
            if done % 50 == 0 or done == len(rows):
                say(f"{done} of {len(rows)} images written")
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error
    return target / "index.html"


def _write_pictures(target: Path, source: CacheSource, snapshot: Snapshot, row: int) -> None:
    _write(target / "strip" / f"{row}.png", pictures.strip_png(source, snapshot, row))
    names = ["original", "reconstruction", *(f"view-{view}" for view in range(snapshot.spec.num_views))]
    for name in names:
        _write(
            target / "picture" / str(row) / f"{name}.png", pictures.single_png(source, snapshot, row, name)
        )
    if not source.why_no_frames(snapshot, row):
        for view in range(snapshot.spec.num_views):
            frames = pictures.frames_png(source, snapshot, row, view)
            _write(target / "frames" / str(row) / f"{view}.png", frames)


def _write_partner(folder: Path, source: CacheSource, other: CacheSource, row: int) -> None:
    second = other.snapshot()
    partner = second.row_of_source.get(int(source.snapshot().columns["source_index"][row]))
    if partner is not None:
        content = pictures.strip_png(other, second, partner)
        _write(folder / "strip" / f"{partner}.png", content)


def _write(path: Path, content: str | bytes | None) -> None:
    if content is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
