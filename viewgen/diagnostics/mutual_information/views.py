"""The views of a data set as pairs: originals, expert views made on the fly, and the views of caches."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.mutual_information.pairs import view_picks
from viewgen.errors import DataError
from viewgen.images import to_model
from viewgen.randomness import addressed_generator
from viewgen.store import CacheReader
from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
from viewgen.views.expert import ExpertConfig

__all__ = ["CachedViews", "ExpertViews", "OriginalViews", "ViewPairs", "Views", "check_cache"]

UNLIMITED = 2**31


class Views(Protocol):
    """One kind of view of every image of a data set.

    Attributes:
        num_views: different views of an image.
    """

    num_views: int

    def take(self, source_index: NDArray[np.int64], *address: int | str) -> Tensor:
        """Return one view of each image, float32 `(B, 3, H, W)` in [−1, 1]; the same for the same address.

        The last part of `address` counts the draws.
        """
        ...


class OriginalViews:
    """The images themselves."""

    num_views = 1

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def take(self, source_index: NDArray[np.int64], *address: int | str) -> Tensor:
        return to_model(self.dataset.images(source_index))


class ExpertViews:
    """Expert views, made when they are asked for; each image's draws are addressed by the image."""

    num_views = UNLIMITED

    def __init__(self, dataset: ImageDataset, config: ExpertConfig) -> None:
        self.dataset = dataset
        self.config = config

    def take(self, source_index: NDArray[np.int64], *address: int | str) -> Tensor:
        uniforms = [
            torch.rand(NUM_UNIFORMS, generator=addressed_generator(*address, int(image)))
            for image in source_index
        ]
        return expert_views(to_model(self.dataset.images(source_index)), torch.stack(uniforms), self.config)


class CachedViews:
    """The views of a cache, one of them at random."""

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader
        self.num_views = reader.spec.num_views
        self._row_of = dict(zip(reader.source_index.tolist(), reader.rows.tolist(), strict=True))

    @property
    def source_index(self) -> NDArray[np.int64]:
        """Source indices of the images that have views, ascending."""
        return np.array(sorted(self._row_of), np.int64)

    def take(self, source_index: NDArray[np.int64], *address: int | str) -> Tensor:
        rows = np.array([self._row_of[int(image)] for image in source_index], np.int64)
        picks = view_picks(np.full(len(rows), self.num_views), *address)
        return to_model(self.reader.views(rows, picks))


class ViewPairs:
    """Pairs of views of the same image.

    Args:
        x, y: the two kinds of view.
        source_index: of the images, int64 `(N,)`; positions count along it.
    """

    def __init__(self, x: Views, y: Views, source_index: NDArray[np.int64]) -> None:
        self.x, self.y = x, y
        self.source_index = source_index

    @property
    def num_images(self) -> int:
        return len(self.source_index)

    @property
    def num_draws(self) -> int:
        return max(self.x.num_views, self.y.num_views)

    def draw(self, positions: NDArray[np.int64], *address: int | str) -> tuple[Tensor, Tensor]:
        images = self.source_index[positions]
        *stage, draw = address
        return self.x.take(images, *stage, "x", draw), self.y.take(images, *stage, "y", draw)


def check_cache(reader: CacheReader, dataset: ImageDataset) -> None:
    """Refuse a cache that does not hold views of a data set.

    Raises:
        DataError: it was made of other images, or its views have another size.
    """
    spec = reader.spec
    made_of = (spec.dataset.get("name"), spec.dataset.get("split"))
    if made_of != (dataset.name, dataset.split):
        raise DataError(
            f"{reader.url} holds views of {made_of[0]} {made_of[1]}, not of {dataset.name} {dataset.split}; "
            "give the data set and split that the cache was made of"
        )
    if (spec.height, spec.width) != (dataset.image_size, dataset.image_size):
        raise DataError(
            f"{reader.url} holds views of {spec.height}×{spec.width} pixels, the images of {dataset.name} "
            f"have {dataset.image_size}×{dataset.image_size}; the views of a pair must have one size"
        )
    if spec.dataset.get("digest") != dataset.digest:
        raise DataError(
            f"{reader.url} was made of other images than {dataset.name} {dataset.split} holds now (its "
            f"digest is {spec.dataset.get('digest')}, not {dataset.digest}); make the cache again"
        )
    if not len(reader):
        raise DataError(f"{reader.url} has no finished images yet; `viewgen show` tells how far it is")
