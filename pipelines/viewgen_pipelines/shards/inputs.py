"""Inputs of workers on other machines, beside the package: weights and images, by URL and digest.

The driver puts the inputs into the cache's own storage, ``run/inputs/<sha256>``, which every worker can
reach; a job names them by digest. Each node downloads each file once, into ``inputs/`` of its data root,
where all its workers find it, and checks the digest. Images are divided into parts, and a node fetches only
the parts that its shards need. At the end of the run, the driver deletes ``run/inputs``.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset
from viewgen.datasets.lock import directory_lock
from viewgen.datasets.root import resolve_data_root
from viewgen.errors import CorruptDataError, StorageError, UsageError
from viewgen.files import write_atomically
from viewgen.networks.files import file_digest
from viewgen.store import RUN_FOLDER, CacheSpec, ObjectExistsError, Storage, open_storage

__all__ = ["Inputs", "download", "fetch", "fetch_dataset", "publish", "withdraw"]

FOLDER = f"{RUN_FOLDER}/inputs"
PART_BYTES = 32 * 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Digests (``"sha256:…"``) of the files that a job's workers fetch.

    Attributes:
        networks: kind → digest of its weights file.
        labels: digest of the labels, ``.npy``.
        reals: digest of the real-valued targets, ``.npy``; None if there are none.
        parts: digests of the images, ``.npy`` of `part_images` each, in the order of the cache's rows.
        part_images: images per part.
    """

    networks: Mapping[str, str] = field(default_factory=dict)
    labels: str
    parts: tuple[str, ...]
    part_images: int
    reals: str | None = None


def publish(
    storage: Storage, dataset: ImageDataset, num_images: int, model_paths: Mapping[str, str]
) -> Inputs:
    """Put weights and the first `num_images` images into the cache's storage; existing files stay.

    Raises:
        StorageError: the storage cannot be written.
    """
    networks = {kind: _put(storage, Path(path).read_bytes()) for kind, path in model_paths.items()}
    rows = np.arange(num_images)
    part_images = max(1, PART_BYTES // (3 * dataset.image_size**2))
    parts = tuple(
        _put(storage, _npy(dataset.images(rows[start : start + part_images])))
        for start in range(0, num_images, part_images)
    )
    return Inputs(
        networks=networks,
        labels=_put(storage, _npy(dataset.labels(rows))),
        parts=parts,
        part_images=part_images,
        reals=_put(storage, _npy(dataset.reals(rows))) if dataset.real_names else None,
    )


def withdraw(storage: Storage) -> None:
    """Delete the files written by `publish`."""
    storage.delete_tree(FOLDER)


def fetch(storage: Storage, digest: str, data_root: str | Path | None = None) -> Path:
    """Return this node's copy of a published file; the first caller on the node downloads it.

    Args:
        storage: storage of the cache.
        digest: ``"sha256:…"`` of the file.
        data_root: folder whose ``inputs/`` receives the copy; by default the data root of the data sets.

    Raises:
        MissingFileError, StorageError: the storage does not provide the file, or the copy cannot be written.
        CorruptDataError: the received file has another digest.
    """
    name = digest.removeprefix("sha256:")
    return _keep(
        digest, lambda: storage.read(f"{FOLDER}/{name}"), f"{FOLDER}/{name} of {storage.url}", data_root
    )


def download(
    url: str, storage_options: dict[str, Any] | None = None, data_root: str | Path | None = None
) -> Path:
    """Return this machine's copy of a file at a URL.

    Args:
        url: fsspec URL; with ``#sha256:…`` appended the file must have that digest, and an existing copy is
            used without asking the server.
        storage_options: options of the fsspec file system of `url`.
        data_root: folder whose ``inputs/`` receives the copy, see `fetch`.

    Raises:
        MissingFileError, StorageError: the server does not provide the file, or the copy cannot be written.
        CorruptDataError: the received file has another digest.
        UsageError: the text after the # is not a digest.
    """
    base, _, digest = url.partition("#")
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{url!r}: expected sha256: and 64 hexadecimal digits behind the #")
    parent, _, name = base.rpartition("/")

    def read() -> bytes:
        return open_storage(parent, storage_options).read(name)

    if digest:
        return _keep(digest, read, base, data_root)
    data = read()
    return _keep(_digest(data), lambda: data, base, data_root)


def fetch_dataset(storage: Storage, spec: CacheSpec, inputs: Inputs) -> ImageDataset:
    """Return the cache's images as a data set whose parts are fetched on first read.

    Raises:
        MissingFileError, StorageError, CorruptDataError: see `fetch`; for the labels now, for images later.
    """
    return ImageDataset(
        name=spec.dataset["name"],
        split=spec.dataset["split"],
        image_size=spec.height,
        channels=spec.channels,
        num_classes=0,
        class_names=(),
        pixels=_PublishedImages(storage, inputs),
        targets=np.load(fetch(storage, inputs.labels), allow_pickle=False),
        real_targets=None
        if inputs.reals is None
        else np.load(fetch(storage, inputs.reals), allow_pickle=False),
        real_names=tuple(spec.dataset.get("real_names", ())),
        stored_digest=spec.dataset["digest"],
    )


class _PublishedImages:
    """Images in parts, each fetched and memory-mapped when first read."""

    def __init__(self, storage: Storage, inputs: Inputs) -> None:
        self._storage = storage
        self._inputs = inputs
        self._parts: dict[int, NDArray[np.uint8]] = {}

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        part_ids, offsets = np.divmod(indices, self._inputs.part_images)
        first = self._part(int(part_ids[0]) if len(part_ids) else 0)
        images = np.empty((len(indices), *first.shape[1:]), np.uint8)
        for part_id in np.unique(part_ids).tolist():
            chosen = part_ids == part_id
            images[chosen] = self._part(part_id)[offsets[chosen]]
        return images

    def _part(self, part_id: int) -> NDArray[np.uint8]:
        if part_id not in self._parts:
            path = fetch(self._storage, self._inputs.parts[part_id])
            self._parts[part_id] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._parts[part_id]


def _keep(digest: str, read: Callable[[], bytes], title: str, data_root: str | Path | None) -> Path:
    """Return the node's copy of the file with that digest; `read` is called once if there is no copy."""
    folder = resolve_data_root(data_root) / "inputs" / digest.removeprefix("sha256:")
    target = folder / "content"
    if target.is_file() and file_digest(target) == digest:
        return target
    with directory_lock(folder):
        if target.is_file() and file_digest(target) == digest:
            return target
        data = read()
        if _digest(data) != digest:
            raise CorruptDataError(f"{title} is damaged: its digest is {_digest(data)}, expected {digest}")
        try:
            write_atomically(target, data)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error
    return target


def _put(storage: Storage, data: bytes) -> str:
    digest = _digest(data)
    path = f"{FOLDER}/{digest.removeprefix('sha256:')}"
    if storage.size(path) != len(data):
        storage.delete(path)
        with contextlib.suppress(ObjectExistsError):
            storage.write_new(path, data)
    return digest


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()
