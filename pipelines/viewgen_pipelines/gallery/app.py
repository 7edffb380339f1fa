"""The gallery as a FastAPI application. It handles a few kinds of address and never a file path.

An address contains a row number, a view number or the name of one of the package's own files. Any other
address is not found.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray

from viewgen.errors import MissingFileError, ViewgenError
from viewgen_pipelines.gallery import pictures
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.pages import Pages, sample_rows
from viewgen_pipelines.gallery.queries import Query, select
from viewgen_pipelines.gallery.security import Guard
from viewgen_pipelines.gallery.sources import CacheSource
from viewgen_pipelines.gallery.templating import message_page, read_static

__all__ = ["SHEET_ROWS", "build_app", "sheet_rows"]

SHEET_ROWS = 8

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FRESH = {"cache-control": "no-store"}
_KEEP = {"cache-control": "private, max-age=86400, immutable"}
_ASK = {"cache-control": "private, no-cache"}


def build_app(
    source: CacheSource,
    others: Sequence[CacheSource] = (),
    *,
    hosts: Collection[str] = ("127.0.0.1", "localhost", "::1"),
    token: str | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        source: the cache.
        others: further caches of the same images, for the page that compares them.
        hosts: accepted names in the Host header.
        token: token that visitors must show; None if no token is required.
    """
    # FastAPI's own pages of documentation load scripts from a CDN
    app = FastAPI(title="viewgen gallery", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts, token=token)
    _add_errors(app)
    _add_pages(app, Pages(source, others))
    _add_pictures(app, source, others)
    return app


def sheet_rows(snapshot: Snapshot, query: Query | None) -> NDArray[np.int64]:
    """Return the rows of a contact sheet: one page of the grid, or a few evenly spread rows."""
    if query is None:
        readable = snapshot.readable_rows
        return np.array(sample_rows(readable, SHEET_ROWS), np.int64)
    rows = select(snapshot, query)
    return rows[(query.page - 1) * query.size : query.page * query.size]


def _add_pages(app: FastAPI, pages: Pages) -> None:
    @app.get("/")
    @app.get("/index.html")
    def overview() -> Response:
        return _page(pages.overview())

    @app.get("/images.html")
    def images(request: Request) -> Response:
        return _page(pages.images(Query.parse(request.query_params)))

    @app.get("/image/{name}")
    def image(name: str, request: Request) -> Response:
        row = _number(name, ".html")
        return _page(None if row is None else pages.image(row, Query.parse(request.query_params)), depth=1)

    @app.get("/compare.html")
    def compare(request: Request) -> Response:
        return _page(pages.compare(Query.parse(request.query_params)))

    @app.get("/map.html")
    def map_page() -> Response:
        return _page(pages.map_page())

    @app.get("/map-points.html")
    def map_points() -> Response:
        return _page(pages.map_points())

    @app.get("/live.json")
    def live() -> Response:
        return JSONResponse(pages.live(), headers=_FRESH)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        content = read_static().get(name)
        if content is None:
            return _page(None, depth=1)
        return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=_ASK)


def _add_pictures(app: FastAPI, source: CacheSource, others: Sequence[CacheSource]) -> None:
    store = pictures.PictureStore()

    def answer(
        request: Request,
        of: CacheSource | None,
        row: int | None,
        kind: str,
        draw: Callable[[CacheSource, Snapshot, int], bytes | None],
    ) -> Response:
        if of is None or row is None:
            return _page(None)
        snapshot = of.snapshot()
        if not (0 <= row < snapshot.spec.num_images and snapshot.columns["status"][row]):
            return _page(None)
        fingerprint = snapshot.fingerprint(row)
        # an original or an inversion may turn up later, so they are part of what the picture is of
        about = (of.dataset(snapshot.spec)[0] is not None, of.has_reconstruction(snapshot, row))
        picture = store.get((id(of), fingerprint, about, row, kind), lambda: draw(of, snapshot, row))
        if picture is None:
            return _page(None)
        keep = request.query_params.get("v") == fingerprint and all(about)
        return Response(picture, media_type="image/png", headers=_KEEP if keep else _ASK)

    @app.get("/strip/{name}")
    def strip(name: str, request: Request) -> Response:
        return answer(request, source, _number(name, ".png"), "strip", pictures.strip_png)

    @app.get("/other/{place}/strip/{name}")
    def other_strip(place: str, name: str, request: Request) -> Response:
        number = _number(place)
        of = others[number - 1] if number is not None and 1 <= number <= len(others) else None
        return answer(request, of, _number(name, ".png"), "strip", pictures.strip_png)

    @app.get("/picture/{row}/{name}")
    def picture(row: str, name: str, request: Request) -> Response:
        kind = name.removesuffix(".png")
        return answer(
            request,
            source,
            _number(row) if name.endswith(".png") else None,
            kind,
            lambda of, snapshot, number: pictures.single_png(of, snapshot, number, kind),
        )

    @app.get("/frames/{row}/{name}")
    def frames(row: str, name: str, request: Request) -> Response:
        view = _number(name, ".png")
        return answer(
            request,
            source,
            _number(row) if view is not None else None,
            f"frames-{view}",
            lambda of, snapshot, number: pictures.frames_png(of, snapshot, number, view or 0),
        )

    @app.get("/contact-sheet.png")
    def sheet(request: Request) -> Response:
        snapshot = source.snapshot()
        query = Query.parse(request.query_params) if request.query_params else None
        content = pictures.sheet_png(source, snapshot, sheet_rows(snapshot, query))
        if content is None:
            return _page(None)
        disposition = 'attachment; filename="contact-sheet.png"'
        return Response(
            content, media_type="image/png", headers={**_FRESH, "content-disposition": disposition}
        )


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(404)
    @app.exception_handler(405)
    def not_there(request: Request, _: Exception) -> Response:
        inner = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        return _page(None, depth=max(inner.count("/") - 1, 0))

    @app.exception_handler(ViewgenError)
    def failed(request: Request, error: Exception) -> Response:
        inner = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        root = "../" * max(inner.count("/") - 1, 0)
        if isinstance(error, MissingFileError):
            text = "There is no cache here yet. This page looks again by itself."
            return HTMLResponse(message_page("No cache yet", text, root=root, again=True), 503, _FRESH)
        return HTMLResponse(message_page("This cannot be shown", str(error), root=root), 500, _FRESH)


def _page(text: str | None, *, depth: int = 0) -> Response:
    if text is None:
        page = message_page("Not there", "The gallery has no such page or picture.", root="../" * depth)
        return HTMLResponse(page, 404, _FRESH)
    return HTMLResponse(text, headers=_FRESH)


def _number(name: str, suffix: str = "") -> int | None:
    """Return the number in a file name, ``"17.html"`` → 17; None if the name has another form."""
    digits = name.removesuffix(suffix)
    if (suffix and digits == name) or not digits.isascii() or not digits.isdigit() or len(digits) > 12:
        return None
    return int(digits)
