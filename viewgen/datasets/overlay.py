"""Overlays: images of one data set pasted on images of another, with the labels of both.

The two labels are independent, and one of them is often a shortcut: a contrastive encoder that tells images
apart by their backgrounds has no need of the digits in front of them. Every image of one data set appears
once, in order; its partner in the other, the places, the cut of the background and its tint are random
numbers of (split, index). Pairs are therefore the same in every epoch.

A foreground is bright on black: its brightest channel is its opacity a, and a pixel becomes
(1 − a)·background + foreground (``over``), or the larger of the two (``max``). A white digit of level v has
a = v / 255 and gives (1 − a)·background + 255·a. The black margin that MNIST has been padded with is cut off
first, so that a digit of 28 px has 28 px.

Shape legend: B images, C channels, H = W = `size`.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020 (Colorful-MNIST),
    https://arxiv.org/abs/2012.09962
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021 (STL-digits),
    https://arxiv.org/abs/2106.11230
    What Makes for Good Views for Contrastive Learning?, Tian et al., 2020, appendix B.4,
    https://arxiv.org/abs/2005.10243
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewgen.datasets.dataset import (
    UNLABELED,
    Attribute,
    DatasetEntry,
    DatasetInfo,
    ImageDataset,
    canonical_split,
)
from viewgen.errors import DataError, UsageError
from viewgen.settings import Settings, setting

__all__ = ["COLORFUL_ENTRY", "ENTRY", "GARMENT_ENTRY", "STL_ENTRY", "OverlaidImages", "OverlaySettings"]

SPLITS = ("train", "test")
CELLS = 3  # per side of a grid
MOST_COPIES = CELLS**2
DARKEST_TINT = 0.25
DIGEST_IMAGES = 1024
DIGITS = tuple("0123456789")
# columns of an image's random numbers: partner, cut, tint, order of the cells, places
PARTNER, CUT, TINT = 0, slice(1, 3), slice(3, 6)
ORDER, PLACES = slice(6, 6 + MOST_COPIES), slice(6 + MOST_COPIES, 6 + 3 * MOST_COPIES)
NUM_DRAWS = PLACES.stop


class OverlaySettings(Settings):
    """The two data sets, and where the one is pasted on the other."""

    title: ClassVar[str] = "overlay"

    background: str = setting("trifeature:32", "data set of the backgrounds, such as stl10 or folder:PATH")
    foreground: str = setting("digits", "data set of the foregrounds, which are bright on black")
    size: int = setting(32, "side of the images, in pixels", ge=8, le=1024)
    layout: Literal["anywhere", "grid"] = setting(
        "anywhere", "places of the copies: anywhere inside of the image, or cells of a 3×3 grid"
    )
    copies: int = setting(1, "copies of a foreground on its background", ge=1, le=MOST_COPIES)
    scale: float = setting(
        0.4375, "side of a foreground anywhere, as a share of the image's; MNIST's 28 of 64 px", gt=0, le=1
    )
    crop: float = setting(
        1.0, "side of the part cut out of a background at random, as a share of its own", gt=0, le=1
    )
    composite: Literal["over", "max"] = setting(
        "over", "pixels under a foreground: covered by its opacity, or the brighter of the two"
    )
    tint: bool = setting(False, "whether each background is multiplied by a random colour")
    once: Literal["foreground", "background"] = setting(
        "background", "data set whose every image appears once; those of the other are drawn for them"
    )

    images: int | None = setting(
        None,
        "images of the train split, a fifth as many of the test split; the data set that appears once is cut "
        "or repeated. By default its own number",
        ge=5,
    )

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect: the scale of a grid's cells."""
        return {"scale": "layout is 'grid', whose cells set the size"} if self.layout == "grid" else {}


class ColorfulSettings(OverlaySettings):
    """A digit anywhere on a cut of a picture."""

    title: ClassVar[str] = "colorful-digits"

    background: str = setting("stl10", "data set of the backgrounds, such as stl10 or trifeature")
    foreground: str = setting("mnist", "data set of the digits, which are bright on black, such as digits")
    size: int = setting(64, "side of the images, in pixels", ge=8, le=1024)
    crop: float = setting(
        2 / 3, "side of the part cut out of a background at random, as a share of its own", gt=0, le=1
    )
    once: Literal["foreground", "background"] = setting(
        "foreground", "data set whose every image appears once; those of the other are drawn for them"
    )


class StlSettings(OverlaySettings):
    """Copies of a digit in a grid on a whole picture of STL-10."""

    title: ClassVar[str] = "stl-digits"

    background: str = setting("stl10", "data set of the backgrounds")
    foreground: str = setting("mnist", "data set of the digits, which are bright on black, such as digits")
    size: int = setting(96, "side of the images, in pixels", ge=8, le=1024)
    layout: Literal["anywhere", "grid"] = setting(
        "grid", "places of the copies: anywhere inside of the image, or cells of a 3×3 grid"
    )
    copies: int = setting(9, "copies of a digit, which make it an easy shortcut", ge=1, le=MOST_COPIES)
    composite: Literal["over", "max"] = setting(
        "max", "pixels under a foreground: covered by its opacity, or the brighter of the two"
    )


class GarmentSettings(StlSettings):
    """Copies of a digit in a grid on a tinted garment."""

    title: ClassVar[str] = "garment-digits"

    background: str = setting("fashion-mnist", "data set of the backgrounds")
    foreground: str = setting("digits", "data set of the digits, which are bright on black, such as mnist")
    size: int = setting(32, "side of the images, in pixels", ge=8, le=1024)
    tint: bool = setting(True, "whether each background is multiplied by a random colour")


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlaidImages:
    """Images pasted together when they are read.

    Attributes:
        background, foreground: the two data sets.
        background_rows, foreground_rows: source indices in them, `(N,)`.
        draws: random numbers of each image, in [0, 1), `(N, NUM_DRAWS)`.
        settings: layout.
        margin: pixels that are cut off each side of a foreground.
    """

    background: ImageDataset
    foreground: ImageDataset
    background_rows: NDArray[np.int64]
    foreground_rows: NDArray[np.int64]
    draws: NDArray[np.float64]
    settings: OverlaySettings
    margin: int = 0

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `indices`, uint8 `(B, 3, H, W)`."""
        size = self.settings.size
        out = np.empty((len(indices), 3, size, size), np.uint8)
        under = self.background.images(self.background_rows[indices])
        over = self.foreground.images(self.foreground_rows[indices])
        inner = slice(self.margin, over.shape[-1] - self.margin)
        over = over[..., inner, inner]
        for row, draws in enumerate(self.draws[indices]):
            picture = self._ground(_colored(under[row]), draws)
            self._paste(picture, _colored(over[row]), draws)
            out[row] = picture
        return out

    def _ground(self, image: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the cut, scaled and tinted background, `(3, H, W)`."""
        side = _cut_side(self.background.image_size, self.settings.crop)
        top, left = np.floor(draws[CUT] * (image.shape[1] - side + 1)).astype(int)
        found = _resized(image[:, top : top + side, left : left + side], self.settings.size)
        if self.settings.tint:
            tint = DARKEST_TINT + (1 - DARKEST_TINT) * draws[TINT]
            found = np.floor(found * tint[:, None, None] + 0.5).astype(np.uint8)
        return found

    def _paste(
        self, picture: NDArray[np.uint8], foreground: NDArray[np.uint8], draws: NDArray[np.float64]
    ) -> None:
        side, places = self.places(draws)
        small = _resized(foreground, side).astype(np.uint32)
        opacity = small.max(axis=0)
        for top, left in places:
            window = picture[:, top : top + side, left : left + side]
            if self.settings.composite == "max":
                window[:] = np.maximum(window, small)
            else:
                # half of 255 rounds to the nearest level; a ≥ the colour, so that 255 is never exceeded
                window[:] = (window * (255 - opacity) + 255 * small + 127) // 255

    def places(self, draws: NDArray[np.float64]) -> tuple[int, list[tuple[int, int]]]:
        """Return the side of a copy in pixels, and the top left corner of each.

        Args:
            draws: random numbers of one image, `(NUM_DRAWS,)`.
        """
        size, copies = self.settings.size, self.settings.copies
        if self.settings.layout == "grid":
            cells = np.argsort(draws[ORDER], kind="stable")[:copies]
            corners = [
                (int(cell) // CELLS * size // CELLS, int(cell) % CELLS * size // CELLS) for cell in cells
            ]
            return size // CELLS, corners
        side = max(1, round(self.settings.scale * size))
        found = np.floor(draws[PLACES].reshape(-1, 2)[:copies] * (size - side + 1)).astype(int)
        return side, [(top, left) for top, left in found.tolist()]


def _cut_side(size: int, share: float) -> int:
    return max(1, round(share * size))


def _colored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)


def _resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return `(3, H, W)` at another size, by Pillow's interpolation in integers, with antialiasing."""
    if image.shape[1:] == (side, side):
        return image.copy()
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.array(picture.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _load(entry: str, settings: OverlaySettings, split: str, root: Path, download: bool) -> ImageDataset:
    from viewgen.datasets.registry import chosen_dataset, load_parts
    from viewgen.randomness import addressed_seed

    name = _name(entry, settings)
    split = canonical_split(name, split, SPLITS)
    if settings.layout == "grid" and settings.size < CELLS:
        raise UsageError(f"{name}: {settings.size} px do not hold a grid of {CELLS}×{CELLS} cells")
    named = {which: str(getattr(settings, which)) for which in ("background", "foreground")}
    parts = load_parts(name, named, split, data_root=root, download=download)
    background, foreground = parts["background"], parts["foreground"]
    cut = _cut_side(background.image_size, settings.crop)
    if cut < settings.size:
        raise UsageError(
            f"{name}: backgrounds of {background.name} are cut to {cut} of their {background.image_size} px, "
            f"smaller than the images of {settings.size} px; give a smaller size, a larger crop, or larger "
            "backgrounds"
        )
    count = len(parts[settings.once])
    if settings.images is not None:
        count = settings.images if split == "train" else settings.images // 5
    numbers = np.random.Generator(np.random.PCG64(addressed_seed("overlay", split)))
    draws = numbers.random((count, NUM_DRAWS))
    other = foreground if settings.once == "background" else background
    partner = np.floor(draws[:, PARTNER] * len(other)).astype(np.int64)
    in_order = np.arange(count, dtype=np.int64) % len(parts[settings.once])
    rows = (partner, in_order) if settings.once == "foreground" else (in_order, partner)
    attributes = [*_attributes(foreground, "foreground"), *_attributes(background, "background")]
    targets = np.concatenate([_labels(foreground)[rows[1]], _labels(background)[rows[0]]], axis=1)
    return ImageDataset(
        name=name,
        split=split,
        image_size=settings.size,
        num_classes=max(one.num_classes or 0 for one in attributes),
        class_names=(),
        pixels=OverlaidImages(
            background=background,
            foreground=foreground,
            background_rows=rows[0],
            foreground_rows=rows[1],
            draws=draws,
            settings=settings,
            margin=chosen_dataset(settings.foreground).entry.margin,
        ),
        targets=targets,
        attribute_names=tuple(one.name for one in attributes),
        attribute_values=tuple(one.values for one in attributes),
        digest_images=DIGEST_IMAGES,
        sources=(background, foreground),
    )


def _labels(dataset: ImageDataset) -> NDArray[np.int64]:
    """Return the class labels of a data set, `(N, A)`.

    Raises:
        DataError: images have none.
    """
    if not dataset.has_classes or bool((dataset.targets == UNLABELED).any()):
        raise DataError(
            f"{dataset.name} {dataset.split} has images without a class, and an overlay needs one"
        )
    return dataset.targets.reshape(len(dataset), -1)


def _attributes(dataset: ImageDataset, part: str) -> list[Attribute]:
    """Return the class attributes of a part; the only one is called digit, foreground or background."""
    found = [one for one in dataset.attributes if one.kind == "class"]
    named = []
    for one in found:
        values = one.values or tuple(map(str, range(one.num_classes or 0)))
        name = one.name
        if len(found) == 1:
            name = "digit" if part == "foreground" and values == DIGITS else part
        named.append(Attribute(name=name, kind="class", num_classes=len(values), values=values))
    return named


def _name(entry: str, settings: OverlaySettings) -> str:
    """Return the canonical name; it ends with a setting, so that a background's own remain its own."""
    fields = type(settings).model_fields
    chosen = {
        name: getattr(settings, name)
        for name, field in fields.items()
        if name not in ("background", "size") and getattr(settings, name) != field.default
    }
    told = {"size": settings.size, **chosen}
    query = "&".join(f"{name}={_text(value)}" for name, value in told.items())
    return f"{entry}:{settings.background}?{query}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _present(settings: type[OverlaySettings]) -> Callable[[Path], bool | None]:
    """Return a function that tells whether the data sets of an entry's default settings are there."""

    def is_present(root: Path) -> bool | None:
        from viewgen.datasets.registry import DATASETS

        default = settings()
        names = [part.partition(":")[0] for part in (default.background, default.foreground)]
        return all(DATASETS.entry(name).is_present(root) for name in names)

    return is_present


def _download(settings: type[OverlaySettings]) -> Callable[[Path], list[Path]]:
    def download(root: Path) -> list[Path]:
        from viewgen.datasets.registry import download_dataset

        default = settings()
        return [*download_dataset(default.background, root), *download_dataset(default.foreground, root)]

    return download


def _entry(name: str, summary: str, settings: type[OverlaySettings], source: str) -> DatasetEntry:
    return DatasetEntry(
        name=name,
        summary=summary,
        settings=settings,
        build=lambda given, split, root, download: _load(name, given, split, root, download),
        info=DatasetInfo(
            name=name,
            image_size=settings().size,
            num_classes=10,
            num_images={},
            source=source,
            licence="that of its two data sets",
        ),
        is_present=_present(settings),
        download=_download(settings),
    )


ENTRY = _entry(
    "overlay",
    "images of one data set pasted on images of another, with both labels",
    OverlaySettings,
    "any two data sets",
)
COLORFUL_ENTRY = _entry(
    "colorful-digits",
    "a digit anywhere on a cut of a picture, as in Colorful-MNIST",
    ColorfulSettings,
    "mnist on stl10; also :BACKGROUND",
)
STL_ENTRY = _entry(
    "stl-digits", "copies of a digit in a grid on pictures of STL-10", StlSettings, "mnist on stl10"
)
GARMENT_ENTRY = _entry(
    "garment-digits",
    "copies of a digit in a grid on tinted garments",
    GarmentSettings,
    "digits on fashion-mnist",
)
