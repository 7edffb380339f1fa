"""A look at a data set before anything is trained: counts, sizes, classes, contrast, duplicates.

Shape legend: N images, C channels, H × W pixels.
"""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset, load_dataset, resolve_data_root
from viewgen.datasets.registry import chosen_dataset
from viewgen.diagnostics.generated import spread
from viewgen.errors import UsageError
from viewgen.sizes import data_size, fitting_side, largest_side

__all__ = ["DataReport", "Side", "chosen_side", "held_out", "look_at"]

MOST_IMAGES = 20_000
MOST_HEADERS = 2_000
EVERY_HEADER = 10**9
BATCH = 512
# standard deviation of the grey levels, in units of the whole range, below which an image shows nothing
FLAT = 0.02
FEW_IMAGES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Choice of the side of the images.

    Attributes:
        dataset: name of the data set at that side.
        raw: smallest and largest shorter side of the files in pixels; None where the size is fixed.
        note: sentence about a side that was not asked for; empty if none was changed.
    """

    dataset: str
    raw: tuple[int, int] | None = None
    note: str = ""


def chosen_side(dataset: str, split: str, networks: str | None, data_root: str | None = None) -> Side:
    """Return the data set's name at a side that the networks take.

    Pictures that can be had in any size get the largest power of two that is not above the median of their
    shorter sides, nor above the largest side for so many images.

    Args:
        dataset: name of the data set.
        split: split of the training images.
        networks: row of `viewgen.sizes`; by default that of the number of images.
        data_root: folder of the data sets, None for the default.
    """
    choice = chosen_dataset(dataset)
    raw_sizes, resized = choice.entry.raw_sizes, choice.entry.resized_name
    if raw_sizes is None or resized is None:
        return Side(dataset=dataset)
    asked = choice.settings.size
    # a part is enough, unless the number of pictures decides
    most_headers = MOST_HEADERS if asked or networks else EVERY_HEADER
    sizes = raw_sizes(choice.settings, split, most_headers, resolve_data_root(data_root))
    if not sizes:  # loading tells why
        return Side(dataset=dataset)
    shorter = sorted(min(size) for size in sizes)
    raw = (shorter[0], shorter[-1])
    if asked is not None:
        side = fitting_side(asked)
        note = "" if side == asked else f"{asked} px is no power of two, which the networks take: {side} px"
    else:
        most = largest_side(networks or data_size(len(sizes)))
        side = min(fitting_side(shorter[len(shorter) // 2]), most)
        same = len(set(sizes)) == 1 and sizes[0] == (side, side)
        note = "" if same else f"pictures are scaled and cropped to {side} px (?size=N is another size)"
        if same:
            return Side(dataset=dataset, raw=raw)
    return Side(dataset=resized(choice.settings, side), raw=raw, note=note)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """What was found in a data set.

    Attributes:
        dataset, split: name and split of the training images.
        num_images, image_size: number and side of the training images.
        num_test: number of held-out images; 0 without such a split.
        raw_sides: smallest and largest shorter side of the files, or None.
        grey: True if red, green and blue are equal in every examined image.
        classes: name of each class → number of images; empty for other labels.
        contrast: median over the images of the standard deviation of their grey levels, of 1.
        num_flat: number of examined images with nearly no contrast.
        num_duplicates: number of examined images that equal an earlier one.
        num_leaked: number of held-out images that equal an examined training image.
        num_examined: number of examined training images.
        notes: sentences about changed sizes and the like.
    """

    dataset: str
    split: str
    num_images: int
    image_size: int
    num_test: int
    raw_sides: tuple[int, int] | None
    grey: bool
    classes: dict[str, int]
    contrast: float
    num_flat: int
    num_duplicates: int
    num_leaked: int
    num_examined: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Describe the data in a few lines."""
        from_files = ""
        if self.raw_sides is not None:
            low, high = self.raw_sides
            sides = f"{low}" if low == high else f"{low} to {high}"
            from_files = f", from files whose shorter side has {sides} px"
        colour = "grey" if self.grey else "colour"
        lines = [
            f"{self.dataset}, {self.split}: {self.num_images:,} images of {self.image_size} px, "
            f"{colour}{from_files}"
        ]
        if self.classes:
            counts = self.classes.values()
            each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
            lines.append(f"  {len(self.classes)} class{'es' * (len(self.classes) > 1)} of {each} images")
        lines.append(
            f"  contrast {self.contrast:.2f} (median), {self.num_flat} nearly flat, {self.num_duplicates} "
            f"repeat another, of {self.num_examined:,} examined"
        )
        lines.append(f"  test split: {f'{self.num_test:,} images' if self.num_test else 'none'}")
        return lines + [f"  {note}" for note in (*self.notes, *self.advice())]

    def advice(self) -> list[str]:
        """Return sentences about what should be mended before the trainings."""
        found = []
        if not self.num_test and "test" in chosen_dataset(self.dataset).entry.settings.model_fields:
            sign = "&" if "?" in self.dataset else "?"
            found.append(f'a part can be held out for `viewgen eval`: "{self.dataset}{sign}test=0.2"')
        if self.num_leaked:
            found.append(
                f"{self.num_leaked} test images are training images too: accuracies will be too high"
            )
        if self.num_duplicates > self.num_examined // 2:
            found.append("more than half of the images repeat another: remove the copies")
        if self.num_flat > self.num_examined // 2:
            found.append("more than half of the images show nearly nothing: look at the files")
        if self.num_images < FEW_IMAGES:
            found.append(f"fewer than {FEW_IMAGES} images: a generator will know little more than these")
        return found


def held_out(dataset: str, data_root: str | None) -> ImageDataset | None:
    """Return the test split, or None if there is none."""
    try:
        return load_dataset(dataset, "test", data_root=data_root)
    except UsageError:  # an image folder without a test split
        return None


def look_at(images: ImageDataset, test: ImageDataset | None, side: Side) -> DataReport:
    """Return the report of training images and held-out ones.

    Args:
        images: training images.
        test: held-out images, or None.
        side: choice of their side.
    """
    rows = spread(len(images), MOST_IMAGES)
    contrasts, seen, repeated, grey = [], set(), 0, True
    for part in np.array_split(rows, max(1, -(-len(rows) // BATCH))):
        pixels = images.images(part)
        grey = grey and bool((pixels == pixels[:, :1]).all())
        contrasts.append(pixels.mean(axis=1).std(axis=(1, 2)) / 255)
        for digest in _digests(pixels):
            repeated += digest in seen
            seen.add(digest)
    contrast = np.concatenate(contrasts)
    leaked = 0
    if test is not None:
        for part in np.array_split(test_rows := spread(len(test), MOST_IMAGES), -(-len(test_rows) // BATCH)):
            leaked += sum(digest in seen for digest in _digests(test.images(part)))
    return DataReport(
        dataset=images.name,
        split=images.split,
        num_images=len(images),
        image_size=images.image_size,
        num_test=0 if test is None else len(test),
        raw_sides=side.raw,
        grey=grey,
        classes=_classes(images),
        contrast=round(float(np.median(contrast)), 4),
        num_flat=int((contrast < FLAT).sum()),
        num_duplicates=repeated,
        num_leaked=leaked,
        num_examined=len(rows),
        notes=(side.note,) if side.note else (),
    )


def _digests(pixels: NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in pixels]


def _classes(images: ImageDataset) -> dict[str, int]:
    if images.label_shape or not images.has_classes:
        return {}
    counts = Counter(images.targets.tolist())
    return {images.label_text(label): count for label, count in sorted(counts.items())}
