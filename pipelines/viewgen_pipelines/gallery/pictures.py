"""Pictures for the pages, as PNG bytes: strips of thumbnails, single images, contact sheets."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewgen.contact_sheet import contact_sheet
from viewgen.role_pictures import role_picture, role_pictures
from viewgen.store import CacheSpec
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.gallery.networks import NUM_FRAMES
from viewgen_pipelines.gallery.sources import CacheSource

__all__ = [
    "MAX_SHEET_ROWS",
    "MAX_STRIP_VIEWS",
    "PictureStore",
    "encode_png",
    "frames_png",
    "frames_size",
    "sheet_png",
    "single_png",
    "strip_png",
    "strip_size",
    "view_number",
]

THUMBNAIL_SIDE = 96
MAX_STRIP_VIEWS = 8
MAX_SHEET_ROWS = 24
MAX_SHEET_VIEWS = 12

_GAP = 2
# below the frames, in pixels, and colours that stand out on light and dark pages alike
_BARS = 28
_BAR_COLOUR, _LINE_COLOUR = (105, 145, 220, 255), (225, 110, 40, 255)
_Pixels = NDArray[np.uint8]


class PictureStore:
    """Keeps the most recently requested pictures, up to a total number of bytes.

    Args:
        max_bytes: maximum size of all pictures together.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._pictures: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, draw: Callable[[], bytes | None]) -> bytes | None:
        """Return the picture of `key`, drawn by `draw` if it is not kept; a result of None is not kept."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = draw()
        if picture is None or len(picture) > self.max_bytes:
            return picture
        with self._lock:
            if key not in self._pictures:
                self._pictures[key] = picture
                self.num_bytes += len(picture)
            while self.num_bytes > self.max_bytes:
                _, oldest = self._pictures.popitem(last=False)
                self.num_bytes -= len(oldest)
        return picture


def encode_png(pixels: _Pixels) -> bytes:
    """Return uint8 pixels `(height, width, 3 or 4)` as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def strip_png(source: CacheSource, snapshot: Snapshot, row: int) -> bytes | None:
    """Draw a row's thumbnails side by side: original, reconstruction, views; None if there are none.

    Missing pictures are transparent.
    """
    original, reconstruction = source.original(snapshot, row), source.reconstruction(snapshot, row)
    spec = snapshot.spec
    views: list[_Pixels] = []
    if snapshot.readable(row):
        views = list(role_pictures(snapshot.reader.views(row), spec.roles)[:MAX_STRIP_VIEWS])
    if not views and original is None:
        return None
    width, side = strip_size(spec)
    canvas = np.zeros((side, width, 4), np.uint8)
    for column, tile in enumerate([original, reconstruction, *views]):
        if tile is not None:
            # a wider gap sets the image and its reconstruction apart from the views
            left = column * (side + _GAP) + (2 * _GAP if column >= 2 else 0)
            canvas[:, left : left + side, :3] = _thumbnail(tile, side)
            canvas[:, left : left + side, 3] = 255
    return encode_png(canvas)


def strip_size(spec: CacheSpec) -> tuple[int, int]:
    """Return width and height of a strip in pixels."""
    side = min(spec.height, THUMBNAIL_SIDE)
    num_tiles = 2 + min(spec.num_views, MAX_STRIP_VIEWS)
    return num_tiles * side + (num_tiles + 1) * _GAP, side


def single_png(source: CacheSource, snapshot: Snapshot, row: int, name: str) -> bytes | None:
    """Draw one picture of a row at full size: ``"original"``, ``"reconstruction"`` or ``"view-3"``."""
    pixels: _Pixels | None = None
    if name == "original":
        pixels = source.original(snapshot, row)
    elif name == "reconstruction":
        pixels = source.reconstruction(snapshot, row)
    elif (view := view_number(name, "view-", snapshot.spec.num_views)) is not None and snapshot.readable(row):
        pixels = snapshot.reader.views(row, view)
        if snapshot.spec.roles:
            pixels = role_picture(pixels, snapshot.spec.roles[view])
    return None if pixels is None else encode_png(pixels.transpose(1, 2, 0))


def frames_png(source: CacheSource, snapshot: Snapshot, row: int, view: int) -> bytes | None:
    """Draw the frames between the anchor and a view in one line; None if they cannot be drawn."""
    if not snapshot.readable(row):
        return None
    found = source.frames(snapshot, row, view)
    if found is None:
        return None
    frames, distances = found
    scale = _frame_scale(snapshot.spec)
    tiles = frames.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    side = tiles.shape[1]
    width, height = frames_size(snapshot.spec)
    canvas = np.zeros((height, width, 4), np.uint8)
    highest = 0.0 if distances is None else float(distances.max())
    top = 1.15 * max(highest, snapshot.epsilon_boundary or 0.0) or 1.0
    for number, tile in enumerate(tiles):
        left = number * (side + _GAP)
        canvas[:side, left : left + side, :3] = tile
        canvas[:side, left : left + side, 3] = 255
        if distances is not None:
            bar = round((_BARS - 4) * float(distances[number]) / top)
            canvas[height - bar : height, left + side // 4 : left + side - side // 4] = _BAR_COLOUR
    if distances is not None and snapshot.epsilon_boundary is not None:
        line = height - round((_BARS - 4) * snapshot.epsilon_boundary / top)
        canvas[line, :] = _LINE_COLOUR
    return encode_png(canvas)


def frames_size(spec: CacheSpec) -> tuple[int, int]:
    """Return width and height of a row of frames in pixels, bars included."""
    side = spec.height * _frame_scale(spec)
    return NUM_FRAMES * (side + _GAP) - _GAP, side + _BARS


def _frame_scale(spec: CacheSpec) -> int:
    return max(1, THUMBNAIL_SIDE // spec.height)


def sheet_png(source: CacheSource, snapshot: Snapshot, rows: NDArray[np.int64]) -> bytes | None:
    """Draw the contact sheet of some rows, the first `MAX_SHEET_ROWS` that have views; None if none has."""
    readable = [int(row) for row in rows if snapshot.readable(int(row))][:MAX_SHEET_ROWS]
    if not readable:
        return None
    spec = snapshot.spec
    originals = [source.original(snapshot, row) for row in readable]
    # images may be larger than their views
    shape = next((one.shape for one in originals if one is not None), (3, spec.height, spec.width))
    blank = np.full(shape, 255, np.uint8)
    reconstructions = [source.reconstruction(snapshot, row) for row in readable]
    labels = [source.label_text(spec, snapshot.columns["label"][row]) for row in readable]
    epsilon = snapshot.epsilon_boundary
    wanted = "" if epsilon is None else f" · d: distance from the anchor, wanted {epsilon:.3g}"
    return encode_png(
        contact_sheet(
            np.stack([blank if image is None else image for image in originals]),
            None
            if all(image is None for image in reconstructions)
            else np.stack([blank if image is None else image for image in reconstructions]),
            role_pictures(snapshot.reader.views(readable), spec.roles)[:, :MAX_SHEET_VIEWS],
            snapshot.columns["distance"][readable][:, :MAX_SHEET_VIEWS],
            title=f"{spec.dataset.get('name')} ({spec.dataset.get('split')}) · {spec.method}{wanted}",
            row_names=[
                f"{label[:11]}\n#{snapshot.columns['source_index'][row]}"
                for label, row in zip(labels, readable, strict=True)
            ],
            epsilon_boundary=epsilon,
        )
    )


def view_number(name: str, prefix: str, num_views: int) -> int | None:
    """Return the view number in a picture's name, 0 for ``"view-0"``; None if the name has none."""
    digits = name.removeprefix(prefix)
    if digits == name or not digits.isascii() or not digits.isdigit() or len(digits) > 6:
        return None
    return int(digits) if int(digits) < num_views else None


def _thumbnail(image: _Pixels, side: int) -> _Pixels:
    """Return storage pixels `(3, H, W)` as `(side, side, 3)`; larger images are reduced."""
    pixels = image.transpose(1, 2, 0)
    if pixels.shape[0] == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
