"""Pictures and labels as other formats have them, to images of one size and class indices."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import UNLABELED
from viewgen.datasets.decoded import Blocks, Labelling
from viewgen.datasets.pictures import (
    array_picture,
    array_size,
    decode_blocks,
    decode_picture,
    picture_size,
)
from viewgen.errors import DataError, UsageError
from viewgen.settings import Settings

__all__ = [
    "MAX_IMAGE_SIZE",
    "check_size",
    "labelled_blocks",
    "labelled_sizes",
    "labelling",
    "settings_text",
]

MAX_IMAGE_SIZE = 1024
# classes of a label that is a number or a word
MOST_CLASSES = 100_000

# (name for messages, encoded bytes or an array, label: a number, a word or None)
Labelled = tuple[str, bytes | NDArray[Any], Any]


def check_size(size: int | None) -> None:
    """Refuse a side of images that is out of range."""
    if size is not None and not 8 <= size <= MAX_IMAGE_SIZE:
        raise UsageError(f"?size= takes 8 to {MAX_IMAGE_SIZE} pixels, got {size}")


def settings_text(settings: Settings) -> str:
    """Return the settings behind the first that differ from their defaults, as in a name: ``?size=48``."""
    _, *others = type(settings).model_fields.items()
    given = [
        f"{name}={getattr(settings, name)}"
        for name, field in others
        if getattr(settings, name) != field.default
    ]
    return "?" + "&".join(given) if given else ""


def labelled_blocks(
    items: Iterable[Labelled],
    name: str,
    size: int | None,
    class_names: Sequence[str] | None = None,
    train_classes: Sequence[str] = (),
) -> Blocks:
    """Yield the images of labelled pictures in blocks `(B, 3, H, W)`, and return their labelling.

    Args:
        items: (name, picture, label) in order.
        name: name of the data set.
        size: side to which the shorter side is scaled before the centre is cut out; None if all pictures are
            square and of one size.
        class_names: names of the classes, if labels are their indices; otherwise the labels that occur,
            sorted, are the classes.
        train_classes: names of the train split's classes, for the indices of another split.

    Raises:
        DataError: pictures that differ in size, or labels that are no classes.
        CorruptDataError: a picture cannot be decoded.
    """
    labels: list[Any] = []
    shapes: list[tuple[str, tuple[int, ...]]] = []

    def decoded(item: Labelled) -> NDArray[np.uint8]:
        picture, data, _ = item
        if isinstance(data, bytes):
            return decode_picture(data, picture, size)
        return array_picture(data, picture, size)

    def kept() -> Iterator[Labelled]:
        for item in items:
            labels.append(item[2])
            if not shapes:  # here, since threads decode in any order
                shapes.append((item[0], decoded(item).shape))
            yield item

    def decode(item: Labelled) -> NDArray[np.uint8]:
        image, (first, shape) = decoded(item), shapes[0]
        if image.shape != shape or image.shape[1] != image.shape[2] or image.shape[1] > MAX_IMAGE_SIZE:
            raise DataError(
                f"{item[0]} is {image.shape[2]}×{image.shape[1]} pixels, {first} {shape[2]}×{shape[1]}: "
                f"pictures must be square, of one size, at most {MAX_IMAGE_SIZE}. Add size=N to the name, "
                f"as in '{name.partition('?')[0]}?size=64', to scale the shorter side to N and cut out the "
                "centre"
            )
        return image

    yield from decode_blocks(kept(), decode)
    return labelling(labels, name, class_names, train_classes)


def labelled_sizes(items: Iterable[Labelled], most: int) -> list[tuple[int, int]]:
    """Return width and height of the first pictures, at most `most`, without those that cannot be opened."""
    sizes = (
        picture_size(data) if isinstance(data, bytes) else array_size(data.shape)
        for _, data, _ in islice(items, most)
    )
    return [size for size in sizes if size is not None]


def labelling(
    values: Sequence[Any],
    name: str,
    class_names: Sequence[str] | None = None,
    train_classes: Sequence[str] = (),
) -> Labelling:
    """Return class indices and names of labels; −1 for those that are None or negative numbers.

    Args:
        values: labels.
        name: name of the data set.
        class_names: names of the classes, if labels are their indices.
        train_classes: names of the train split's classes, which another split shares.

    Raises:
        DataError: a label is neither a whole number nor a word, or none of the classes.
    """
    values = [None if _is_number(value) and value < 0 else value for value in values]
    known = [value for value in values if value is not None]
    if class_names is not None:
        indices = np.array([UNLABELED if value is None else int(value) for value in values], np.int64)
        if len(indices) and indices.max() >= len(class_names):
            raise DataError(f"{name} has a label {indices.max()}, and {len(class_names)} classes")
        return Labelling(indices, tuple(class_names))
    if strange := [v for v in known if not (_is_number(v) or isinstance(v, str))]:
        raise DataError(
            f"{name} has a label {strange[0]!r} ({type(strange[0]).__name__}); expected whole numbers or "
            "words"
        )
    if len({isinstance(value, str) for value in known}) > 1:
        raise DataError(f"{name} has numbers and words as labels; expected one kind")
    classes = sorted(set(known))
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{name} has {len(classes):,} different labels; choose another field with label=")
    names = tuple(map(str, classes))
    if train_classes:
        if strangers := sorted(set(names) - set(train_classes)):
            raise DataError(f"{name} has the class {strangers[0]!r}, which its train split has not")
        names = tuple(train_classes)
    place = {one: index for index, one in enumerate(names)}
    found = [UNLABELED if value is None else place[str(value)] for value in values]
    return Labelling(np.array(found, np.int64), names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
