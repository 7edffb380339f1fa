"""Loaders of images, views and codes: held in memory as uint8 if they fit, otherwise streamed."""

import math
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.errors import CorruptDataError
from viewgen.store import CacheReader
from viewgen.views.source import Status

__all__ = ["MEMORY_SHARE", "Codes", "ImageMemory", "ShardBuffer", "ViewMemory", "on_device", "row_status"]

_Rows = NDArray[np.int64]
MEMORY_SHARE = 0.5
"""Share of the free memory that images and views may take together."""
READ_ROWS = 4096


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device, asynchronously if the device has a queue."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def row_status(reader: CacheReader, num_images: int) -> Tensor:
    """Return the `Status` of a cache's first rows, uint8 `(num_images,)`: OK or, if unreadable, FAILED."""
    status = torch.full((num_images,), int(Status.FAILED), dtype=torch.uint8)
    status[torch.from_numpy(reader.rows[reader.rows < num_images])] = int(Status.OK)
    return status


class ImageMemory:
    """Loader of a data set's images; held as uint8 on the device if they fit, otherwise read per batch.

    Args:
        dataset: data set to read.
        num_images: number of leading images of the data set.
        device: device of the batches.
        memory_bytes: memory limit for held images, in bytes.

    Attributes:
        num_images: number of images.
        held_bytes: memory in use, in bytes; 0 if images are read per batch.
    """

    def __init__(
        self, dataset: ImageDataset, num_images: int, device: torch.device, memory_bytes: int
    ) -> None:
        self.dataset, self.num_images, self.device = dataset, num_images, device
        shape = (num_images, dataset.channels, dataset.image_size, dataset.image_size)
        size = math.prod(shape)
        self._held: Tensor | None = None
        self.held_bytes = 0
        if size <= memory_bytes:
            self.held_bytes = size
            self._held = torch.empty(shape, dtype=torch.uint8, device=device)
            for start in range(0, num_images, READ_ROWS):
                rows = np.arange(start, min(start + READ_ROWS, num_images))
                self._held[start : start + len(rows)] = torch.from_numpy(dataset.images(rows))

    def read(self, rows: _Rows) -> Tensor:
        """Return uint8 images `(B, C, H, W)` on the device."""
        if self._held is None:
            return on_device(torch.from_numpy(self.dataset.images(rows)), self.device)
        return self._held.index_select(0, torch.tensor(rows).to(self.device))

    @property
    def classes(self) -> dict[str, int]:
        """Class attribute → number of classes; empty if an image has none."""
        if not self.dataset.has_classes:
            return {}
        return {one.name: one.num_classes or 0 for one in self.dataset.attributes if one.kind == "class"}

    def labels(self, rows: _Rows) -> Tensor:
        """Return the classes of images, int64 `(B, A)`, on the device."""
        labels = torch.from_numpy(self.dataset.labels(rows)).reshape(len(rows), -1)
        return on_device(labels, self.device)


class ViewMemory:
    """All views of a cache as one uint8 tensor; unreadable rows are zeros.

    Args:
        reader: reader of the cache.
        held: device of the tensor: the training device or the CPU.
        device: device of the batches.
    """

    def __init__(self, reader: CacheReader, held: torch.device, device: torch.device) -> None:
        spec = reader.spec
        self.held, self.device = held, device
        self.num_views = spec.num_views
        self.status = row_status(reader, spec.num_images)
        shape = (spec.num_images, spec.num_views, spec.channels, spec.height, spec.width)
        self._views = torch.zeros(shape, dtype=torch.uint8, device=held)
        for part in reader.iter_shards(arrays=["views"]):
            rows = torch.from_numpy(part["row"])
            views = part["views"] if part["views"].flags.writeable else part["views"].copy()
            self._views[rows.to(held)] = torch.from_numpy(views).to(held)

    def read(self, rows: _Rows, view_index: Tensor) -> Tensor:
        """Return uint8 views `(B, m, C, H, W)` for rows `(B,)` and view indices `(B, m)`."""
        flat = torch.tensor(rows)[:, None] * self.num_views + view_index
        chosen = self._views.flatten(0, 1).index_select(0, flat.flatten().to(self.held))
        return on_device(chosen, self.device).view(*view_index.shape, *chosen.shape[1:])

    def expect(self, rows: _Rows) -> None:
        """Do nothing: all views are in memory."""


class ShardBuffer:
    """Prefetching buffer of whole shards of views.

    Args:
        reader: reader of the cache.
        capacity: maximum number of shards in memory.
        device: device of the returned views.
    """

    def __init__(self, reader: CacheReader, capacity: int, device: torch.device) -> None:
        self._reader, self._capacity, self._device = reader, capacity, device
        self.num_views = reader.spec.num_views
        self.status = row_status(reader, reader.spec.num_images)
        self._shards: OrderedDict[int, Future[NDArray[np.uint8]]] = OrderedDict()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shards")

    def read(self, rows: _Rows, view_index: Tensor) -> Tensor:
        """Return uint8 views `(B, m, C, H, W)` for rows `(B,)` and view indices `(B, m)`."""
        spec = self._reader.spec
        out = np.zeros((*view_index.shape, spec.channels, spec.height, spec.width), np.uint8)
        index = view_index.numpy()
        shards = rows // spec.shard_images
        for shard_id in np.unique(shards).tolist():
            chosen = np.flatnonzero(shards == shard_id)
            views = self._shard(shard_id).result()
            out[chosen] = views[(rows[chosen] % spec.shard_images)[:, None], index[chosen]]
        self._forget()
        return on_device(torch.from_numpy(out), self._device)

    def expect(self, rows: _Rows) -> None:
        """Start reading the shards of these rows."""
        for shard_id in np.unique(rows // self._reader.spec.shard_images).tolist():
            self._shard(shard_id)

    def _shard(self, shard_id: int) -> Future[NDArray[np.uint8]]:
        if shard_id not in self._shards:
            self._shards[shard_id] = self._pool.submit(self._load, shard_id)
        self._shards.move_to_end(shard_id)
        return self._shards[shard_id]

    def _load(self, shard_id: int) -> NDArray[np.uint8]:
        spec = self._reader.spec
        part = self._reader.shard(shard_id, ["views"])
        row_range = spec.shard_rows(shard_id)
        if len(part["row"]) == len(row_range):
            whole: NDArray[np.uint8] = part["views"]
            return whole
        views = np.zeros((len(row_range), spec.num_views, spec.channels, spec.height, spec.width), np.uint8)
        views[part["row"] - row_range.start] = part["views"]
        return views

    def _forget(self) -> None:
        while len(self._shards) > self._capacity:
            self._shards.popitem(last=False)


class Codes:
    """Refined codes e(x) of a cache of inversions.

    Args:
        reader: reader of a cache of inversions; its rows are source indices.
        num_images: number of training images.
        device: device of the codes.
        memory_bytes: memory limit for held codes, in bytes.

    Attributes:
        shape: shape of a code.
        missing: mask of images without a code, bool `(num_images,)`.
        held_bytes: memory in use, in bytes; 0 if codes are read per batch.
    """

    def __init__(self, reader: CacheReader, num_images: int, device: torch.device, memory_bytes: int) -> None:
        self._reader, self._device = reader, device
        self.missing = row_status(reader, num_images) != Status.OK
        self.shape = tuple(reader.spec.latent_shape or ())
        self._held: Tensor | None = None
        self.held_bytes = 0
        size = 4 * num_images * math.prod(self.shape)
        if size <= memory_bytes:
            self.held_bytes = size
            self._held = torch.zeros(num_images, *self.shape, device=device)
            readable = (~self.missing).nonzero()[:, 0]
            self._held[readable.to(device)] = self._load(readable.numpy())

    def read(self, rows: _Rows) -> Tensor:
        """Return codes `(B, *shape)`; zeros for images without a code."""
        index = torch.tensor(rows)
        if self._held is not None:
            return self._held.index_select(0, index.to(self._device))
        codes = torch.zeros(len(index), *self.shape, device=self._device)
        there = ~self.missing[index]
        codes[there.to(self._device)] = self._load(index[there].numpy())
        return codes

    def _load(self, rows: _Rows) -> Tensor:
        codes = torch.from_numpy(self._reader.array("anchor_w_plus", rows))
        if not bool(torch.isfinite(codes).all()):
            raise CorruptDataError(
                f"{self._reader.url}: anchor_w_plus holds values that are not finite; check it with "
                f"`viewgen verify {self._reader.url}`, and make it again with `viewgen cache --method invert`"
            )
        return codes.to(self._device)
