"""Images of each class with their views: those of a cache, or expert views made class by class.

View j of image i is a function of (seed, "concentration", i, j), so that m views are the first m of any
larger number, and A(x) only grows with m. The image itself is always the first of its views.

Shape legend: N images of a class, M = m + 1 views of each with the image itself, C, H, W channels and space.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.mutual_information.views import check_cache
from viewgen.errors import DataError, OutOfMemoryError, UsageError
from viewgen.memory import available_bytes
from viewgen.randomness import addressed_generator
from viewgen.settings import Settings, setting
from viewgen.status import Status
from viewgen.store import CacheReader
from viewgen.views.compositions import composition_name
from viewgen.views.draws import ImageDraws
from viewgen.views.expert import ExpertConfig, ExpertSource
from viewgen.views.source import Images

__all__ = ["ClassViews", "ClassViewsConfig", "check_memory", "class_views", "graph_bytes", "labels_of"]

ViewsChoice = Literal["auto", "cache", "expert"]

ADDRESS = "concentration"
NUM_VIEWS = 8
IMAGES_AT_ONCE = 256
MEMORY_SHARE = 0.8
KEPT_BYTES = 1 << 28
INVERT = "invert"
# here: for these images and views; beyond: for others
CERTIFIED = "certified here, estimated beyond"

# rows of the data set (N,) and m → views, uint8 (N, m, C, H, W)
MakeViews = Callable[[NDArray[np.int64], int], NDArray[np.uint8]]


class ClassViewsConfig(Settings):
    """Images of each class, and their views."""

    views: ViewsChoice = setting(
        "auto", "views: cache, expert, or auto, which is the cache of a subject that has one"
    )
    attribute: str | None = setting(None, "class attribute, where images have several")
    num_per_class: int = setting(100, "training images of each class, at most", ge=2)
    num_views: int | None = setting(None, "views of each image; by default all of a cache, else 8", ge=1)

    def takes_expert(self, *, has_cache: bool) -> bool:
        """Return whether expert views are measured, of a subject with a cache or without."""
        return self.views == "expert" or (self.views == "auto" and not has_cache)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassViews:
    """Some images of each class, with their views.

    Attributes:
        dataset: the images.
        names: names of the classes.
        numbers: their labels in the data set.
        rows: rows of the data set, one int64 `(N,)` per class, ascending.
        shares: share of each class among all images, p_k, float64 `(K,)`.
        num_views: m, views of an image beside the image itself.
        kind: kind of the views: ``"expert"``, or the method of the cache.
        expert: settings of expert views; None of those of a cache.
    """

    dataset: ImageDataset
    names: tuple[str, ...]
    numbers: tuple[int, ...]
    rows: tuple[NDArray[np.int64], ...]
    shares: NDArray[np.float64]
    num_views: int
    kind: str
    expert: ExpertConfig | None = None
    _make: MakeViews = field(repr=False)
    _kept: dict[int, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.rows)

    @property
    def num_images(self) -> int:
        """Number of images of all classes."""
        return sum(map(len, self.rows))

    @property
    def augment(self) -> str | None:
        """Name of the combination of operations of expert views, where they have one."""
        return None if self.expert is None else composition_name(self.expert)

    @property
    def on(self) -> str:
        """Words for images and views."""
        smallest, largest = (function(map(len, self.rows)) for function in (min, max))
        count = f"{largest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
        return f"{self.num_classes} classes × {count} images × {self.num_views} views"

    def certified(self, direction: str = "") -> str:
        """Return words for images and views, the direction of a number, and where it is more than estimated.

        Args:
            direction: ``"at least"``, ``"at most"``, … of the number beyond these images and views.
        """
        return f"{self.on}; {direction}{', ' if direction else ''}{CERTIFIED}"

    def images(self, label: int) -> NDArray[np.uint8]:
        """Return the images of a class, uint8 `(N, C, H, W)`."""
        return self.dataset.images(self.rows[label])

    def views(self, label: int, count: int | None = None) -> NDArray[np.uint8]:
        """Return the images of a class, or the first `count` of them, with their views, `(N, M, C, H, W)`.

        A small sample is made once and kept.
        """
        if label in self._kept:
            return self._kept[label][:count]
        rows = self.rows[label][:count]
        parts = []
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            part = rows[start : start + IMAGES_AT_ONCE]
            images = self.dataset.images(part)[:, None]
            parts.append(np.concatenate([images, self._make(part, self.num_views)], axis=1))
        found = np.concatenate(parts)
        if count is None and self.num_images * found[0].nbytes <= KEPT_BYTES:
            self._kept[label] = found
        return found


def labels_of(dataset: ImageDataset, attribute: str | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the class of each image, int64 `(N,)`, and the names of the classes.

    Raises:
        DataError: images without classes, or with several of which none is named.
        UsageError: the data set has no such attribute, or it is a real number.
    """
    classes = [one for one in dataset.attributes if one.kind == "class"]
    names = ", ".join(one.name for one in classes)
    if attribute is None:
        if len(classes) != 1:
            what = f"{len(classes)} attributes ({names})" if classes else "no classes, only real numbers"
            raise DataError(
                f"images of {dataset.name} have {what}; concentration is one of classes"
                + ("; name an attribute with --set attribute=NAME" if classes else "")
            )
        attribute = classes[0].name
    labels = dataset.target(attribute)
    chosen = [one for one in classes if one.name == attribute]
    if not chosen:
        raise UsageError(f"attribute {attribute!r} of {dataset.name} is a real number; classes: {names}")
    if bool((labels < 0).any()):
        raise DataError(f"{dataset.name} {dataset.split} holds images without a label; give a labelled split")
    count = chosen[0].num_classes or int(labels.max(initial=0)) + 1
    values = chosen[0].values
    return labels, values or tuple(f"class {number}" for number in range(count))


def class_views(subject: Subject, config: ClassViewsConfig, seed: int) -> ClassViews:
    """Return images of each class with their views.

    Args:
        subject: subject with training images, and a cache or the strength of the expert transform.
        config: views, and number of images; the sample of images is the same for every source of views.
        seed: seed of the sample and of expert views.

    Raises:
        DataError: images without classes, a class with one image, a cache without usable views.
        UsageError: there is no cache, or it has fewer views than asked for.
    """
    dataset = subject.train
    labels, names = labels_of(dataset, config.attribute)
    num_views = config.num_views
    usable = np.ones(len(dataset), np.bool_)
    reader: CacheReader | None = None
    expert: ExpertConfig | None = None
    if config.views == "cache" or subject.has("cache"):
        reader = subject.part("cache")
        check_cache(reader, dataset)
        usable = np.isin(np.arange(len(dataset)), _converged(subject, reader))
    if config.views != "expert" and reader is not None:
        kind, make, there = reader.spec.method, _cached(reader), reader.spec.num_views
        if num_views is not None and num_views > there:
            raise UsageError(
                f"{num_views} views of an image were asked of {reader.url}, which has {there}; give "
                f"--set num_views={there} or fewer, or make a cache with --views {num_views}"
            )
        num_views = num_views or there
    else:
        expert = subject.expert
        kind, make, num_views = "expert", _expert(dataset, expert, seed), num_views or NUM_VIEWS
    counts = np.bincount(labels, minlength=len(names))
    rows, kept = [], []
    for label in range(len(names)):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=addressed_generator(seed, ADDRESS, label)).numpy()
        # drawn from all images and then restricted: caches with other gaps share most of their sample
        members = members[order]
        members = members[usable[members]][: config.num_per_class]
        if len(members):
            rows.append(np.sort(members))
            kept.append(label)
    _check_classes(subject, dataset, names, rows, kept)
    return ClassViews(
        dataset=dataset,
        names=tuple(names[label] for label in kept),
        numbers=tuple(kept),
        rows=tuple(rows),
        shares=counts[kept] / counts[kept].sum(),
        num_views=num_views,
        kind=kind,
        expert=expert,
        _make=make,
    )


def _check_classes(
    subject: Subject,
    dataset: ImageDataset,
    names: tuple[str, ...],
    rows: list[NDArray[np.int64]],
    kept: list[int],
) -> None:
    if len(rows) < len(names):
        absent = [name for label, name in enumerate(names) if label not in kept]
        subject.note(f"{len(absent)} of {len(names)} classes have no image here: {', '.join(absent[:5])}")
    single = [names[label] for label, members in zip(kept, rows, strict=True) if len(members) < 2]
    if single or not rows:
        what = f"class {single[0]!r} has 1 image" if single else "there is no image"
        raise DataError(
            f"{dataset.name} {dataset.split}: {what}; the distances of a class take at least 2 images of it"
        )


def _converged(subject: Subject, reader: CacheReader) -> NDArray[np.int64]:
    """Return the images whose views have converged."""
    spec = reader.spec
    if spec.method == INVERT:
        raise DataError(f"{reader.url} holds reconstructions; concentration is measured on views")
    if spec.roles:
        roles = ", ".join(role.name for role in spec.roles)
        raise DataError(f"{reader.url} holds one view per role ({roles}), of which no two are comparable")
    converged = reader.status[reader.rows] == Status.OK
    left_out = spec.num_images - int(converged.sum())
    if left_out:
        subject.note(
            f"{left_out:,} of {spec.num_images:,} images of the cache are left out: missing, failed or not "
            "converged"
        )
    return np.asarray(reader.source_index[converged])


def _cached(reader: CacheReader) -> MakeViews:
    row_of = dict(zip(reader.source_index.tolist(), reader.rows.tolist(), strict=True))

    def make(rows: NDArray[np.int64], num_views: int) -> NDArray[np.uint8]:
        found = reader.views(np.array([row_of[row] for row in rows.tolist()], np.int64))
        return np.asarray(found[:, :num_views])

    return make


def _expert(dataset: ImageDataset, config: ExpertConfig, seed: int) -> MakeViews:
    source = ExpertSource(config, name=ADDRESS, at_once=IMAGES_AT_ONCE)

    def make(rows: NDArray[np.int64], num_views: int) -> NDArray[np.uint8]:
        index = torch.from_numpy(rows)
        pixels = torch.from_numpy(dataset.images(rows))
        images = Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index))
        return source.views(images, num_views).storage.transpose(0, 1).numpy()

    return make


def graph_bytes(num_images: int) -> int:
    """Return the bytes of a class's distances and of all that the search of main parts makes of them.

    Distances and their sorted half are float32, and the graph's complement has up to three copies of a byte.
    """
    return (4 + 2 + 3) * num_images**2


def check_memory(sample: ClassViews, more_bytes: int = 0, available: int | None = None) -> None:
    """Check that the largest class fits into memory: its views, its distances, and what is given.

    Raises:
        OutOfMemoryError: it does not.
    """
    largest = max(map(len, sample.rows))
    image_bytes = sample.dataset.channels * sample.dataset.image_size**2
    # the views with one copy
    needed = graph_bytes(largest) + 2 * largest * (sample.num_views + 1) * image_bytes + more_bytes
    free = int(MEMORY_SHARE * (available_bytes() if available is None else available))
    if needed > free:
        raise OutOfMemoryError(
            f"{largest:,} images of a class with {sample.num_views} views need about {needed / 2**30:.1f} "
            f"GiB, and {free / 2**30:.1f} GiB may be used; give fewer with --set num_per_class=N"
        )
