"""The data set: images and labels addressed by source index, and a digest of both.

A source index is a position in one split, 0 to len − 1. It never changes, whatever the order or batch size in
which images are asked for; caches and ledgers are keyed by it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewgen.errors import UsageError, nearest_name
from viewgen.registry import Entry

__all__ = [
    "Attribute",
    "ContentDigest",
    "DatasetEntry",
    "DatasetInfo",
    "ImageDataset",
    "MemoryImages",
    "PixelSource",
    "canonical_split",
]

UNLABELED = -1
DIGEST_BLOCK = 512


class PixelSource(Protocol):
    """Source of a split's pixels: memory, a memory-mapped file or a renderer."""

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `indices` (`(B,)`, in range) as a new array `(B, C, H, W)`, uint8."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryImages:
    """Images held in memory: `array` is `(N, C, H, W)`, uint8."""

    array: NDArray[np.uint8]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.array[indices]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One known property of every image: the target of a readout.

    Attributes:
        name: ``"class"`` where there is only one.
        kind: ``"class"`` or ``"real"``.
        num_classes: number of classes; None for a real number.
        values: name of each class, where they have names.
    """

    name: str
    kind: Literal["class", "real"]
    num_classes: int | None = None
    values: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """One split of an image data set.

    Attributes:
        name: canonical name, such as ``"digits"`` or ``"folder:/data/x"``: load it to get the same again.
        split: ``"train"``, ``"test"`` or, for STL-10, ``"unlabeled"``.
        image_size: H = W, in pixels.
        num_classes: number of classes; for a label with several attributes, the largest of their numbers; 0
            where images have real numbers only, with labels of −1.
        class_names: one name per class; empty where a label has several attributes.
        pixels: source of the images.
        targets: labels `(N, *label_shape)`, int64; −1 where the official data has none.
        attribute_names: names of the label's entries, for multi-attribute labels `(A,)`.
        attribute_values: names of each attribute's classes, `A` tuples, not all of one length; empty if they
            have no names.
        real_targets: real numbers `(N, R)`, float32, such as positions; None where there are none.
        real_names: names of the real numbers.
        channels: C.
        stored_digest: digest computed when the images were decoded, if it was.
        digest_images: number of leading images that the digest covers; None for all (see `digest`).
        sources: data sets that images are rendered from, whose digests the digest covers.
    """

    name: str
    split: str
    image_size: int
    num_classes: int
    class_names: tuple[str, ...]
    pixels: PixelSource = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    attribute_names: tuple[str, ...] = ()
    attribute_values: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    real_targets: NDArray[np.float32] | None = field(default=None, repr=False)
    real_names: tuple[str, ...] = ()
    channels: int = 3
    stored_digest: str | None = field(default=None, repr=False)
    digest_images: int | None = field(default=None, repr=False)
    sources: tuple["ImageDataset", ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """`()` for one label per image, `(A,)` for a label with A attributes."""
        return self.targets.shape[1:]

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Known properties of every image: classes first, then real numbers."""
        classes: tuple[Attribute, ...] = ()
        if self.label_shape:
            named = self.attribute_values or ((),) * len(self.attribute_names)
            classes = tuple(
                Attribute(
                    name=name,
                    kind="class",
                    num_classes=len(values) or int(self.targets[:, column].max()) + 1,
                    values=values,
                )
                for column, (name, values) in enumerate(zip(self.attribute_names, named, strict=True))
            )
        elif self.num_classes or not self.real_names:
            classes = (
                Attribute(name="class", kind="class", num_classes=self.num_classes, values=self.class_names),
            )
        return (*classes, *(Attribute(name=name, kind="real") for name in self.real_names))

    @property
    def has_classes(self) -> bool:
        """True if every image has a class for each class attribute, and there is at least one."""
        return any(one.kind == "class" for one in self.attributes) and bool((self.targets >= 0).all())

    def target(self, name: str) -> NDArray[Any]:
        """Return an attribute of all images: `(N,)`, int64 for classes, float32 for a real number.

        Raises:
            UsageError: there is no such attribute.
        """
        names = [attribute.name for attribute in self.attributes]
        if name not in names:
            raise UsageError(
                f"data set {self.name!r} has no attribute {name!r}{nearest_name(name, names) or '.'} "
                f"Its attributes: {', '.join(names)}"
            )
        column = names.index(name)
        if self.real_targets is not None and name in self.real_names:
            return self.real_targets[:, self.real_names.index(name)]
        return self.targets[:, column] if self.label_shape else self.targets

    def images(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Return images by source index.

        Args:
            indices: source indices, `(B,)`, in any order; duplicates are allowed, negative ones are not.

        Returns:
            A new array `(B, C, H, W)`, uint8, 0 to 255.

        Raises:
            IndexError: an index lies outside 0 … len − 1.
        """
        return self.pixels.read(self._checked(indices))

    def labels(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        """Return labels by source index: `(B, *label_shape)`, int64; −1 for an unlabeled image."""
        return self.targets[self._checked(indices)]

    def reals(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.float32]:
        """Return real-valued targets by source index: `(B, R)`, float32; R is 0 where there are none."""
        rows = self._checked(indices)
        if self.real_targets is None:
            return np.zeros((len(rows), 0), np.float32)
        return np.asarray(self.real_targets[rows], np.float32)

    def batch(self, indices: Sequence[int] | NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `image`, `label` and `source_index` at `indices`: the input of a pipeline."""
        checked = self._checked(indices)
        return {
            "image": self.pixels.read(checked),
            "label": self.targets[checked],
            "source_index": checked,
        }

    def label_text(self, label: int | Sequence[int] | NDArray[Any]) -> str:
        """Return a label in words: ``"cat"``, ``"star, dots, red"``, or ``"unlabeled"`` for −1."""
        values = np.atleast_1d(np.asarray(label))
        if self.label_shape and not self.attribute_values:
            return ", ".join(
                f"{name} {value}" for name, value in zip(self.attribute_names, values, strict=True)
            )
        if self.attribute_values:
            return ", ".join(names[value] for names, value in zip(self.attribute_values, values, strict=True))
        (value,) = values
        return "unlabeled" if value == UNLABELED else self.class_names[value]

    def leading(self, count: int) -> "ImageDataset":
        """Return the data set of the first `count` images, or of all if there are no more.

        Raises:
            UsageError: fewer than two.
        """
        if count < 2:
            raise UsageError(f"the first {count} images of {self.name} are asked for; expected 2 or more")
        reals = None if self.real_targets is None else self.real_targets[:count]
        return replace(self, targets=self.targets[:count], real_targets=reals, stored_digest=None)

    @cached_property
    def digest(self) -> str:
        """``"sha256:…"`` of the decoded images and labels.

        A decoded data set stores it when it is decoded. A rendered one (trifeature) hashes all labels and its
        first `digest_images` images, which contain every combination of attributes. One that is rendered from
        other data sets also hashes their digests, so that a change of any of their images is noticed.
        """
        if self.stored_digest is not None:
            return self.stored_digest
        digest = ContentDigest()
        for indices in self._blocks(self.digest_images or len(self)):
            digest.update(self.pixels.read(indices))
        for source in self.sources:
            digest.add_source(source.digest)
        return digest.finish(self.targets, self.real_targets)

    def _blocks(self, count: int) -> Iterator[NDArray[np.int64]]:
        count = min(count, len(self))
        for start in range(0, count, DIGEST_BLOCK):
            yield np.arange(start, min(start + DIGEST_BLOCK, count))

    def _checked(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        array = np.asarray(indices)
        if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
            raise IndexError(
                f"source indices are a vector of integers, got {array.dtype} of shape {array.shape}"
            )
        if array.size and (array.min() < 0 or array.max() >= len(self)):
            raise IndexError(
                f"{self.name} {self.split} has source indices 0 to {len(self) - 1}, "
                f"got {array.min()} to {array.max()}"
            )
        return array.astype(np.int64)


class ContentDigest:
    """SHA-256 over images, block by block, then their shape and the labels."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._num_images = 0
        self._image_shape: tuple[int, ...] = ()

    def update(self, images: NDArray[np.uint8]) -> None:
        """Add the next block of images, `(B, C, H, W)`."""
        self._hash.update(np.ascontiguousarray(images).reshape(-1).data)
        self._num_images += len(images)
        self._image_shape = images.shape[1:]

    def add_source(self, digest: str) -> None:
        """Add the digest of a data set that images are rendered from."""
        self._hash.update(digest.encode())

    def finish(self, labels: NDArray[np.int64], reals: NDArray[np.float32] | None = None) -> str:
        """Add the labels, and real-valued targets where there are any, and return ``"sha256:…"``."""
        shapes = {"images": [self._num_images, *self._image_shape], "labels": list(labels.shape)}
        self._hash.update(json.dumps(shapes).encode())
        self._hash.update(np.ascontiguousarray(labels, dtype="<i8").reshape(-1).data)
        if reals is not None:
            self._hash.update(json.dumps({"reals": list(reals.shape)}).encode())
            self._hash.update(np.ascontiguousarray(reals, dtype="<f4").reshape(-1).data)
        return f"sha256:{self._hash.hexdigest()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """One line of ``viewgen datasets``.

    Attributes:
        name: name for loading it; an upper-case word is a placeholder.
        image_size: H = W in pixels as delivered; None where it depends on the files.
        num_classes: number of classes (for trifeature, values per attribute); None where unknown in advance.
        num_images: images per split; empty where it depends on the files.
        source: origin of the data.
        licence: the licence or terms under which its authors offer it.
        present: True if it can be loaded without a network connection; None where this depends on the path.
    """

    name: str
    image_size: int | None
    num_classes: int | None
    num_images: dict[str, int]
    source: str
    licence: str
    present: bool | None = None


def _always(root: Path) -> bool:
    return True


def _nothing(root: Path) -> list[Path]:
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetEntry(Entry):
    """A data set in the registry, or a family of data sets that share a name.

    Its settings are part of its name: ``NAME:VALUE`` gives the first one, ``NAME?size=64&noise=0.1`` any.
    `build` is called as ``build(settings, split, root, download)`` and returns an `ImageDataset`; `root` is
    the data folder, and `download` permits fetching missing files.

    Attributes:
        info: facts that are known without access to the disk.
        is_present: function of the data folder; True if the data set can be loaded without a network
            connection. None where that depends on the settings.
        download: function that fetches and verifies every missing file into the data folder; returns their
            paths.
        raw_sizes: function (settings, split, most, root) of pictures that can be had in any size; returns
            width and height of at most so many of them, in pixels, empty where they are not at hand. None if
            the size is fixed.
        resized_name: function (settings, side) that returns the name of the same pictures at that size.
        margin: black pixels added on each side of every image.
    """

    info: DatasetInfo
    is_present: Callable[[Path], bool | None] = _always
    download: Callable[[Path], list[Path]] = _nothing
    raw_sizes: Callable[[Any, str, int, Path], list[tuple[int, int]]] | None = None
    resized_name: Callable[[Any, int], str] | None = None
    margin: int = 0


def canonical_split(
    name: str, split: str, known: Iterable[str], aliases: dict[str, str] | None = None
) -> str:
    """Return the split's canonical name, or raise UsageError with the nearest one."""
    split = (aliases or {}).get(split, split)
    splits = tuple(known)
    if split not in splits:
        raise UsageError(
            f"data set {name!r} has no split {split!r}{nearest_name(split, splits) or '.'} "
            f"Its splits: {', '.join(splits)}"
        )
    return split
