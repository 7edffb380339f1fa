"""The front door to a cache: a reader that other libraries and notebooks understand."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from viewgen.extras import need
from viewgen.store import CacheReader, open_storage
from viewgen.store.quality import read_scores
from viewgen.store.zarr_view import zarr_group

if TYPE_CHECKING:
    import xarray
    import zarr

    from viewgen.view_dataset import ViewDataset

__all__ = ["Cache", "open"]


class Cache(CacheReader):
    """A reader of a cache that shows itself in notebooks, and becomes an object of other libraries.

    Arguments as in `CacheReader`.
    """

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(url, storage_options, **options)
        self._url, self._storage_options = url, storage_options
        self._options = options
        self._reopen = partial(Cache, url, storage_options, **options)

    def _repr_html_(self) -> str:
        """Return the cache as HTML: what it holds, and the views of a few images."""
        from viewgen.reader_html import reader_html

        return reader_html(self, self._url, self._storage_options)

    def to_zarr(self) -> "zarr.Group":
        """Return the cache as a read-only group of zarr-python, of committed shards alone.

        Rows that are not there have the fill values, and the status 0.
        """
        return zarr_group(self._source.storage, self.spec, self.commits)

    def to_xarray(self) -> "xarray.Dataset":
        """Return the readable rows as a data set of xarray, with the scores of views that were measured.

        Views and codes are read from the cache when they are used. The coordinate ``image`` is the place of
        an image in its data set.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        need("xarray")
        import xarray

        # fill values are not masked: a class index stays an integer
        found = xarray.open_zarr(
            self.to_zarr().store, consolidated=False, chunks=None, mask_and_scale=False, decode_times=False
        )
        scores = read_scores(open_storage(self._url, self._storage_options), self.spec)
        for name, values in scores.items():
            if name not in found:
                found[name] = (("image", "view"), values)
        if len(self) != self.spec.num_images:
            found = found.isel(image=self.rows)
        found = found.assign_coords(image=np.asarray(self.source_index))
        found.attrs = {
            "url": self.url,
            "identity": self.spec.identity,
            "method": self.spec.method,
            **{
                f"dataset_{key}": str(self.spec.dataset[key])
                for key in ("name", "split")
                if key in self.spec.dataset
            },
        }
        return found

    def to_torch(self, **options: Any) -> "ViewDataset":
        """Return the views as a map-style data set of PyTorch; arguments as in `viewgen.ViewDataset`."""
        from viewgen.view_dataset import ViewDataset

        # a data set chooses the statuses of its rows itself
        own = {name: value for name, value in self._options.items() if name != "statuses"}
        return ViewDataset(self._url, storage_options=self._storage_options, **(own | options))


def open(url: str, storage_options: dict[str, Any] | None = None, **options: Any) -> Cache:
    """Return a reader of the cache at `url`.

    Args:
        url: path, ``s3://`` or other fsspec URL of a cache.
        storage_options: options of fsspec.
        options: further arguments of `viewgen.store.CacheReader`, such as ``mirror``.

    Raises:
        MissingFileError: there is no cache at the URL.
    """
    return Cache(url, storage_options, **options)
