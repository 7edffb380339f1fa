"""Sources of the gallery's pictures, and reasons for missing ones.

Views lie in the cache. Originals come from the data set if it is available and is the one from which the
cache was made. Reconstructions and anchor codes come from the cache of inversions. Frames between an anchor
and a view come from the generator, if the views' codes were kept. Every missing picture has a reason in words
for the page.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import MissingFileError, ViewgenError
from viewgen.store import CacheSpec, inversions_url, open_storage, read_spec
from viewgen_pipelines.gallery.index import CacheIndex, Snapshot
from viewgen_pipelines.gallery.networks import Networks, find_networks

__all__ = ["CacheSource"]


@dataclass(kw_only=True)
class _Slot:
    """A lazily found object, searched for until found, at most once per generation of its dependencies."""

    value: Any = None
    reason: str = ""
    key: object = None


@dataclass(kw_only=True)
class CacheSource:
    """One cache with everything that belongs to it.

    Attributes:
        url: URL of the cache.
        storage_options: options of the fsspec file system of the cache and of its inversions.
        data_root: folder of the data sets, None for the default.
        inversions: URL of the inversions; None for the default URL beside the cache.
        models: folder of a `viewgen pretrain` run, None for the networks that ship.
    """

    url: str = field(repr=False)
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    data_root: str | None = None
    inversions: str | None = field(default=None, repr=False)
    models: str | None = None

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._dataset, self._inversions, self._networks = _Slot(), _Slot(), _Slot()

    @cached_property
    def index(self) -> CacheIndex:
        return CacheIndex(self.url, self.storage_options)

    def snapshot(self) -> Snapshot:
        """Return the present state of the cache; see `CacheIndex.snapshot`."""
        return self.index.snapshot()

    def dataset(self, spec: CacheSpec) -> tuple[ImageDataset | None, str]:
        """Return the data set, or None and the reason."""
        return self._look(self._dataset, spec.identity, lambda: self._find_dataset(spec))

    def inversion_index(self, spec: CacheSpec) -> tuple[CacheIndex | None, str]:
        """Return the index of the inversions, or None and the reason."""
        return self._look(self._inversions, spec.identity, lambda: self._find_inversions(spec), again=True)

    def networks(self, spec: CacheSpec) -> Networks:
        """Return the cache's generator and encoder, where available."""
        networks, _ = self._look(
            self._networks, spec.identity, lambda: (find_networks(spec, self.models), "")
        )
        return networks if isinstance(networks, Networks) else Networks({})

    def label_text(self, spec: CacheSpec, label: Any) -> str:
        """Return a label in words if the data set names its classes: ``"cat"``, else ``"class 3"``."""
        dataset, _ = self.dataset(spec)
        if dataset is not None:
            return dataset.label_text(label)
        values = np.atleast_1d(label).tolist()
        return "unlabeled" if values == [-1] else "class " + ", ".join(map(str, values))

    def class_text(self, spec: CacheSpec, value: int, attribute: int = 0) -> str:
        """Return one value of a label in words, with the name of its attribute where there are several."""
        if not spec.label_shape:
            return self.label_text(spec, value)
        dataset, _ = self.dataset(spec)
        if dataset is not None and dataset.attribute_values:
            known = dataset.attributes[attribute]
            return f"{known.name}: {known.values[value]}"
        return f"attribute {attribute}: {value}"

    def original(self, snapshot: Snapshot, row: int) -> NDArray[np.uint8] | None:
        """Return the data set's image behind a row, uint8 `(3, H, W)`, or None."""
        dataset, _ = self.dataset(snapshot.spec)
        source = int(snapshot.columns["source_index"][row])
        if dataset is None or not 0 <= source < len(dataset):
            return None
        with self._lock:  # an archive's file handle is shared
            image: NDArray[np.uint8] = dataset.images([source])[0]
        return image

    def reconstruction(self, snapshot: Snapshot, row: int) -> NDArray[np.uint8] | None:
        """Return the inversion's picture of a row, uint8 `(3, H, W)`, or None."""
        found = self._inversion_of(snapshot, row)
        if found is None:
            return None
        inversions, inverted = found
        image: NDArray[np.uint8] = inversions.reader.views(inverted, 0)
        return image

    def has_reconstruction(self, snapshot: Snapshot, row: int) -> bool:
        """Return True if a row's inversion exists or will never exist."""
        return "inversions" not in snapshot.spec.models or self._inversion_of(snapshot, row) is not None

    def why_no_frames(self, snapshot: Snapshot, row: int) -> str:
        """Return the reason why a row has no frames between anchor and views; empty if it has."""
        spec = snapshot.spec
        if "generator" not in spec.models or spec.method == "invert":
            return f"Views of method {spec.method} have no codes of their own."
        if "w_plus" not in spec.arrays:
            return "The views' codes were not kept; a cache made with --keep-latents shows what lies between."
        found = self._inversion_of(snapshot, row)
        if found is None:
            return self.inversion_index(spec)[1] or "This image's inversion is not there."
        if "anchor_w_plus" not in found[0].spec.arrays:
            return "The inversions hold no codes."
        if "generator" not in self.networks(spec).paths:
            return (
                f"The generator that made this cache ({spec.models['generator']}) is not at hand; "
                "--models DIR names the folder of the pretraining that made it."
            )
        return ""

    def frames(
        self, snapshot: Snapshot, row: int, view: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None] | None:
        """Draw the frames between the anchor and a view, see `Networks.frames`; None if impossible."""
        if self.why_no_frames(snapshot, row):
            return None
        found = self._inversion_of(snapshot, row)
        if found is None:
            return None
        anchor = found[0].reader.array("anchor_w_plus", [found[1]])[0]
        code = snapshot.reader.array("w_plus", [row])[0, view]
        return self.networks(snapshot.spec).frames(anchor, code)

    def pairwise_distances(self, snapshot: Snapshot, row: int) -> NDArray[np.float32] | None:
        """Return the distances between a row's views, `(V, V)`, or None without the cache's encoder."""
        networks = self.networks(snapshot.spec)
        if "encoder" not in networks.paths:
            return None
        return networks.pairwise_distances(snapshot.reader.views(row))

    def _inversion_of(self, snapshot: Snapshot, row: int) -> tuple[Snapshot, int] | None:
        index, _ = self.inversion_index(snapshot.spec)
        if index is None:
            return None
        try:
            inversions = index.snapshot()
        except ViewgenError:
            return None
        inverted = inversions.row_of_source.get(int(snapshot.columns["source_index"][row]))
        return (inversions, inverted) if inverted is not None and inversions.readable(inverted) else None

    def _look(
        self, slot: _Slot, key: str, find: Callable[[], tuple[Any, str]], *, again: bool = False
    ) -> tuple[Any, str]:
        with self._lock:
            if slot.key != key or (again and slot.value is None):
                try:
                    slot.value, slot.reason = find()
                except ViewgenError as error:
                    slot.value, slot.reason = None, str(error)
                slot.key = key
            return slot.value, slot.reason

    def _find_dataset(self, spec: CacheSpec) -> tuple[ImageDataset | None, str]:
        wanted = spec.dataset
        dataset = load_dataset(
            str(wanted.get("name")), str(wanted.get("split")), data_root=self.data_root, download=False
        )
        if dataset.digest != wanted.get("digest"):
            return None, (
                f"the data set {dataset.name!r} found here is {dataset.digest}, the cache was made of "
                f"{wanted.get('digest')}; say with --data-root where the right one is"
            )
        return dataset, ""

    def _find_inversions(self, spec: CacheSpec) -> tuple[CacheIndex | None, str]:
        identity = spec.models.get("inversions")
        if spec.method == "invert":
            return None, "these are the reconstructions"
        if identity is None:
            return None, f"method {spec.method!r} does not start from inversions"
        url = self.inversions or inversions_url(self.url, spec)
        try:
            there = read_spec(open_storage(url, self.storage_options))
        except MissingFileError:
            name = url.rstrip("/").rpartition("/")[2]
            return (
                None,
                f"the inversions ({name}) are not beside the cache; --inversions URL says where they are",
            )
        if there.identity != identity:
            return None, f"the inversions found are {there.identity}, the cache was made from {identity}"
        return CacheIndex(url, self.storage_options), ""
