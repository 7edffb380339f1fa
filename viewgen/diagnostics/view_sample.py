"""The sample of a cache on which its views are measured: images, reconstructions and views, in memory.

Shape legend: B images, V views of each, C, H, W channels and space, K projection dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.mutual_information.views import check_cache
from viewgen.errors import DataError, ModelError
from viewgen.networks.batched import images_at_once, project
from viewgen.networks.encoder import Encoder
from viewgen.recipes import recipe
from viewgen.store import CacheReader

__all__ = [
    "NUM_IMAGES",
    "Projections",
    "ViewSample",
    "by_images",
    "project_sample",
    "sample_projections",
    "view_sample",
]

NUM_IMAGES = 512
"""Images of a measurement by default; its interval says what a sample of them leaves open."""

INVERT = "invert"
VALUES_AT_ONCE = 1 << 25


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSample:
    """Some of a cache's images with everything that belongs to them.

    Attributes:
        rows: rows of the cache, int64 `(B,)`.
        source_index: rows of the data set, int64 `(B,)`.
        images: real images, uint8 `(B, C, H, W)`.
        views: uint8 `(B, V, C, H, W)`.
        reconstructions: uint8 `(B, C, H, W)`; None if no inversions are at hand.
        labels: int64 `(B, *label_shape)`, −1 for none.
        distance: distance of each view from its anchor, float32 `(B, V)`, NaN where not measured.
        steps: updates of each image, int32 `(B,)`.
        epsilon: ε₁ of the cache, else that of the data set's W-search; None if neither is a number.
        searched: True if the method makes updates and counts them.
        around_image: True if ε₁ counts from the image and not from its reconstruction.
        of: words for the images: count, data set split.
    """

    rows: NDArray[np.int64]
    source_index: NDArray[np.int64]
    images: NDArray[np.uint8]
    views: NDArray[np.uint8]
    reconstructions: NDArray[np.uint8] | None
    labels: NDArray[np.int64]
    distance: NDArray[np.float32]
    steps: NDArray[np.int32]
    epsilon: float | None
    searched: bool
    around_image: bool
    of: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_views(self) -> int:
        """V."""
        return int(self.views.shape[1])

    @property
    def anchors(self) -> NDArray[np.uint8]:
        """Images from which views are told apart: reconstructions where they are at hand, else images."""
        if self.around_image or self.reconstructions is None:
            return self.images
        return self.reconstructions


@dataclass(frozen=True, kw_only=True, slots=True)
class Projections:
    """Unit vectors of a sample under an encoder, on the CPU.

    Attributes:
        images: `(B, K)`.
        views: `(B, V, K)`.
        reconstructions: `(B, K)`, or None.
        anchors: `(B, K)`, those of `ViewSample.anchors`.
    """

    images: Tensor
    views: Tensor
    reconstructions: Tensor | None
    anchors: Tensor


def by_images(function: Callable[..., Tensor], *arrays: NDArray[Any]) -> Tensor:
    """Return a function's results on blocks of images `(B, …)`, put together; floats of all would not fit."""
    block = max(1, VALUES_AT_ONCE // arrays[0][0].size)
    parts = [
        function(*(torch.from_numpy(array[start : start + block]) for array in arrays))
        for start in range(0, len(arrays[0]), block)
    ]
    return torch.cat(parts)


def view_sample(subject: Subject, num_images: int) -> ViewSample:
    """Return up to `num_images` images of a cache, spread evenly, read once per subject.

    Raises:
        DataError: the cache holds no views, or only reconstructions.
    """
    return subject.derived(f"view sample {num_images}", lambda: _read(subject, num_images))


def _read(subject: Subject, num_images: int) -> ViewSample:
    reader: CacheReader = subject.part("cache")
    spec, dataset = reader.spec, subject.train
    if spec.method == INVERT:
        raise DataError(f"{reader.url} holds reconstructions; views are measured in a cache of views")
    check_cache(reader, dataset)
    rows, place = reader.rows, None
    if subject.has("inversions"):
        inversions: CacheReader = subject.part("inversions")
        place = dict(zip(inversions.source_index.tolist(), inversions.rows.tolist(), strict=True))
        rows = rows[[source in place for source in reader.source_index.tolist()]]
    rows = rows[spread(len(rows), num_images)]
    if not len(rows):
        raise DataError(f"{reader.url} holds no view to measure")
    source = reader.array("source_index", rows)
    reconstructions = None
    if place is not None:
        reconstructions = inversions.views(np.array([place[one] for one in source.tolist()]), 0)
    epsilon = spec.config.get(
        "epsilon_boundary", recipe(dataset.name, "wsearch").get("epsilon_boundary", 0.3)
    )
    steps = reader.array("steps", rows)
    return ViewSample(
        rows=rows,
        source_index=source,
        images=dataset.images(source),
        views=reader.views(rows),
        reconstructions=reconstructions,
        labels=reader.array("label", rows),
        distance=reader.array("distance", rows),
        steps=steps,
        epsilon=float(epsilon) if isinstance(epsilon, int | float) else None,
        searched="max_steps" in spec.config or bool((steps > 0).any()),
        around_image=spec.config.get("anchor") == "image",
        of=f"{len(rows):,} of {len(reader):,} images",
    )


def sample_projections(subject: Subject, num_images: int) -> Projections:
    """Return the sample's projections under the subject's encoder, computed once."""
    sample = view_sample(subject, num_images)
    return subject.derived(
        f"view projections {num_images}", lambda: project_sample(subject.encoder, sample, subject.device)
    )


def project_sample(encoder: Encoder, sample: ViewSample, device: Any) -> Projections:
    """Return the sample's projections under an encoder on `device`.

    Raises:
        ModelError: the encoder was trained on images of another size.
    """
    size = sample.images.shape[-1]
    if encoder.config.image_size != size:
        raise ModelError(
            f"the encoder was trained on {encoder.config.image_size}-px images, the views have {size} px; "
            "give an encoder of that size"
        )
    device = torch.device(device)
    at_once = images_at_once(size, device)

    def projected(images: NDArray[np.uint8]) -> Tensor:
        return project(encoder, torch.from_numpy(images).to(device), at_once).cpu()

    images = projected(sample.images)
    views = projected(sample.views.reshape(-1, *sample.images.shape[1:]))
    rebuilt = None if sample.reconstructions is None else projected(sample.reconstructions)
    return Projections(
        images=images,
        views=views.unflatten(0, (len(sample), sample.num_views)),
        reconstructions=rebuilt,
        anchors=images if sample.around_image or rebuilt is None else rebuilt,
    )
