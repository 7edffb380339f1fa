"""Pictures and labels as other formats have them, to images of one size and class indices."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import UNLABELED
from viewgen.datasets.decoded import Blocks, Labelling
from viewgen.datasets.pictures import array_picture, decode_blocks, decode_picture
from viewgen.errors import DataError, UsageError
from viewgen.settings import Settings

__all__ = ["MAX_IMAGE_SIZE", "check_size", "labelled_blocks", "labelling", "settings_text"]

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
    items: Iterable[Labelled], name: str, size: int | None, class_names: Sequence[str] | None = None
) -> Blocks:
    """Yield the images of labelled pictures in blocks `(B, 3, H, W)`, and return their labelling.

    Args:
        items: (name, picture, label) in order.
        name: name of the data set.
        size: side to which the shorter side is scaled before the centre is cut out; None if all pictures are
            square and of one size.
        class_names: names of the classes, if labels are their indices; otherwise the labels that occur,
            sorted, are the classes.

    Raises:
        DataError: pictures that differ in size, or labels that are no classes.
        CorruptDataError: a picture cannot be decoded.
    """
    labels: list[Any] = []
    shapes: list[tuple[str, tuple[int, ...]]] = []

    def kept() -> Iterator[Labelled]:
        for item in items:
            labels.append(item[2])
            yield item

    def decode(item: Labelled) -> NDArray[np.uint8]:
        picture, data, _ = item
        made = array_picture if isinstance(data, np.ndarray) else decode_picture
        image = made(data, picture, size)  # type: ignore[operator]
        if not shapes:
            shapes.append((picture, image.shape))
        first, shape = shapes[0]
        if image.shape != shape or image.shape[1] != image.shape[2] or image.shape[1] > MAX_IMAGE_SIZE:
            raise DataError(
                f"{picture} is {image.shape[2]}×{image.shape[1]} pixels, {first} {shape[2]}×{shape[1]}: "
                f"pictures must be square, of one size, at most {MAX_IMAGE_SIZE}. Add size=N to the name, "
                f"as in '{name.partition('?')[0]}?size=64', to scale the shorter side to N and cut out the "
                "centre"
            )
        return image

    yield from decode_blocks(kept(), decode)
    return labelling(labels, name, class_names)


def labelling(values: Sequence[Any], name: str, class_names: Sequence[str] | None = None) -> Labelling:
    """Return class indices and names of labels; −1 for those that are None.

    Raises:
        DataError: a label is neither a whole number nor a word, or outside of the classes.
    """
    known = [value for value in values if value is not None]
    if class_names is not None:
        indices = np.array([UNLABELED if value is None else int(value) for value in values], np.int64)
        if len(indices) and (indices.max() >= len(class_names) or indices.min() < UNLABELED):
            raise DataError(f"{name} has a label {indices.max()}, and {len(class_names)} classes")
        return Labelling(indices, tuple(class_names))
    if strange := [v for v in known if isinstance(v, bool) or not isinstance(v, int | np.integer | str)]:
        raise DataError(
            f"{name} has a label {strange[0]!r} ({type(strange[0]).__name__}); expected whole numbers or "
            "words"
        )
    if len({isinstance(value, str) for value in known}) > 1:
        raise DataError(f"{name} has numbers and words as labels; expected one kind")
    classes = sorted(set(known))
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{name} has {len(classes):,} different labels; choose another field with label=")
    place = {value: index for index, value in enumerate(classes)}
    found = [UNLABELED if value is None else place[value] for value in values]
    return Labelling(np.array(found, np.int64), tuple(map(str, classes)))
