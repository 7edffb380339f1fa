"""Samples of a cache for a training loop: an image's views with its label, scores and weights.

Shape legend: N readable rows, B batch, V stored views, n views of a sample, C, H, W channels and space.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import UsageError
from viewgen.status import Status
from viewgen.store import CacheReader, open_storage
from viewgen.views.cached import CachedConfig
from viewgen.views.scores import load_scores, score_values

__all__ = ["Sample", "Transform", "ViewSamples"]

# name → value of a sample, see `ViewSamples`
Sample = dict[str, Any]
# storage image, uint8 (C, H, W) → anything that the loop takes
Transform = Callable[[Tensor], Any]


class ViewSamples:
    """Samples of a cache; base of `viewgen.ViewDataset` and `viewgen.ViewStream`.

    A sample is a dictionary: "views" `(n, C, H, W)`, uint8 or what `transform` returns; "label", int64;
    "index", the image's place in its data set; "image", if `originals`; "weight" `(n,)`, if a score is used;
    and each of `columns`, `(n,)`.

    It can be pickled, and used in processes that were forked: each opens a remote cache anew.

    Args:
        url: URL of the cache.
        transform: function of every view and original image, uint8 `(C, H, W)`; by default they stay uint8.
            What it draws from torch's generator differs between workers and epochs.
        views: views of a sample: None for all in their order, a number of different ones drawn anew each
            time, or the indices of some.
        originals: True to add the images that the views were made of, from the data set.
        columns: names of scores of every view to add: ``"distance"``, or those that `viewgen measure
            --write-columns` has written.
        score: score that `drop_below` and `score_weight` use, with a minus if smaller is better.
        drop_below: quantile of the score below which views are not drawn and weigh 0.
        score_weight: γ of the weights exp(γ·q), q the score in standard deviations.
        use_unconverged: True to use images whose search did not converge.
        data_root: folder of the data sets, for `originals`.
        storage_options: options of the cache's fsspec file system.
        reader_options: further arguments of `viewgen.store.CacheReader`, such as ``mirror``.

    Raises:
        MissingFileError: there is no such cache, no data set for `originals`, or no scores in the cache.
        DataError: the data set holds other images than the cache was made of.
        UsageError: views or scores that the cache does not have.
    """

    def __init__(
        self,
        url: str,
        *,
        transform: Transform | None = None,
        views: int | Sequence[int] | None = None,
        originals: bool = False,
        columns: Sequence[str] = (),
        score: str | None = None,
        drop_below: float = 0.0,
        score_weight: float = 0.0,
        use_unconverged: bool = False,
        data_root: str | None = None,
        storage_options: dict[str, Any] | None = None,
        **reader_options: Any,
    ) -> None:
        statuses = (Status.OK, Status.NOT_CONVERGED) if use_unconverged else (Status.OK,)
        self._reader = CacheReader(url, storage_options, statuses=statuses, **reader_options)
        self._process = os.getpid()
        self.transform, self.views = transform, self._checked_views(views)
        spec = self._reader.spec
        used = CachedConfig(score=score, drop_below=drop_below, score_weight=score_weight)
        scores = load_scores(self._reader, used, storage_options)
        storage = open_storage(url, storage_options)
        self._columns = {name: score_values(self._reader, name, storage) for name in columns}
        self._keep = None
        if scores is not None:
            self._keep = scores.keep.numpy()
            weight = torch.exp(score_weight * torch.nan_to_num(scores.standard, nan=0.0))
            self._columns["weight"] = (weight * scores.keep).numpy()
        # what was committed when this was opened: a process that opens a growing cache anew finds more
        self._rows, self._committed = self._reader.rows, list(self._reader.committed)
        self._labels = self._reader.labels
        self._source_index = self._reader.source_index
        self._position = np.full(spec.num_images, -1, np.int64)
        self._position[self._reader.rows] = np.arange(len(self._reader))
        self._images: ImageDataset | None = None
        self.originals, self._data_root = originals, data_root
        if originals:
            from viewgen.diagnostics.mutual_information.views import check_cache

            check_cache(self._reader, self._dataset)

    @property
    def reader(self) -> CacheReader:
        """The cache, opened in this process."""
        if self._process != os.getpid():
            # threads and connections of a file system do not outlive a fork
            if not self._reader.is_local:
                self._reader = self._reader.reopened()
            self._process = os.getpid()
        return self._reader

    @property
    def labels(self) -> Tensor:
        """Labels, int64 `(N, *label_shape)`; −1 where an image has none."""
        return torch.from_numpy(self._labels)

    @property
    def source_index(self) -> NDArray[np.int64]:
        """Places of the images in their data set, int64 `(N,)`."""
        return self._source_index

    @property
    def num_views(self) -> int:
        """Views of a sample."""
        if isinstance(self.views, int):
            return self.views
        return self._reader.spec.num_views if self.views is None else len(self.views)

    def __getstate__(self) -> dict[str, Any]:
        # a process that unpickles this opens the data set itself
        return self.__dict__ | {"_images": None}

    def samples(self, rows: NDArray[np.int64], stored: NDArray[np.uint8] | None = None) -> list[Sample]:
        """Return the samples of rows of the cache.

        Args:
            rows: rows of the cache, `(B,)`.
            stored: all their views `(B, V, C, H, W)`, if they have been read.
        """
        chosen = self._chosen(rows)
        if stored is not None:
            pixels = stored[np.arange(len(rows))[:, None], chosen]
        elif self.views is None:
            pixels = self.reader.views(rows)
        else:
            pixels = np.stack([self.reader.views(rows, index) for index in chosen.T], axis=1)
        positions = self._position[rows]
        labels, places = self._labels[positions], self._source_index[positions]
        images = self._dataset.images(places) if self.originals else None
        found = []
        for number in range(len(rows)):
            sample: Sample = {
                # of its own, so that a sample that is held does not hold its batch
                "views": self._transformed(torch.from_numpy(pixels[number].copy())),
                "label": torch.as_tensor(labels[number]),
                "index": int(places[number]),
            }
            if images is not None:
                image = torch.from_numpy(np.array(images[number]))
                sample["image"] = image if self.transform is None else self.transform(image)
            for name, values in self._columns.items():
                sample[name] = torch.from_numpy(values[rows[number], chosen[number]])
            found.append(sample)
        return found

    def _chosen(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the view indices of the rows' samples, `(B, n)`."""
        num_stored = self._reader.spec.num_views
        if not isinstance(self.views, int):
            indices = range(num_stored) if self.views is None else self.views
            return np.tile(np.array(indices, np.int64), (len(rows), 1))
        keys = torch.rand(len(rows), num_stored)
        if self._keep is not None:
            keys += torch.from_numpy(self._keep[rows])  # a dropped view only where too few others are left
        return keys.argsort(dim=1, descending=True)[:, : self.views].numpy()

    def _transformed(self, views: Tensor) -> Any:
        if self.transform is None:
            return views
        made = [self.transform(view) for view in views]
        return torch.stack(made) if all(isinstance(view, Tensor) for view in made) else made

    @property
    def _dataset(self) -> ImageDataset:
        if self._images is None:
            made_of = self._reader.spec.dataset
            self._images = load_dataset(made_of["name"], made_of["split"], data_root=self._data_root)
        return self._images

    def _checked_views(self, views: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
        there = self._reader.spec.num_views
        if views is None:
            return None
        if isinstance(views, int | np.integer):
            if not 1 <= views <= there:
                raise UsageError(
                    f"views is {views}; the cache has {there} views of an image, expected 1 … {there}"
                )
            return int(views)
        chosen = tuple(int(view) for view in views)
        if not chosen or not all(0 <= view < there for view in chosen):
            raise UsageError(f"views are {chosen}; expected some of 0 … {there - 1}")
        return chosen
