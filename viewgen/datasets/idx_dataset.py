"""Data sets of grey images in IDX files, with 2 black pixels added on each side to 32×32, as RGB."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.download import RemoteFile, fetch
from viewgen.datasets.idx import read_idx
from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.settings import Settings

__all__ = ["PADDED_SIZE", "SIZE", "IdxDataset", "PaddedGreyImages", "idx_files"]

SIZE, PAD = 28, 2
PADDED_SIZE = SIZE + 2 * PAD


@dataclass(frozen=True, slots=True)
class PaddedGreyImages:
    """Grey images `(N, 28, 28)`, uint8, given as RGB with a black border."""

    grey: NDArray[np.uint8]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        padded = np.pad(self.grey[indices], ((0, 0), (PAD, PAD), (PAD, PAD)))
        return np.repeat(padded[:, None], 3, axis=1)


# splits of MNIST and of what takes its place, and the start of their files' names
STARTS = {"train": "train", "test": "t10k"}


def idx_files(
    sites: tuple[str, ...], facts: dict[str, tuple[tuple[int, str], tuple[int, str]]]
) -> dict[str, tuple[RemoteFile, RemoteFile]]:
    """Return split → the files of images and of labels, under MNIST's names.

    Args:
        sites: URLs of the folders that have them.
        facts: split → size in bytes and MD5 digest of either file.
    """

    def remote(name: str, num_bytes: int, md5: str) -> RemoteFile:
        return RemoteFile(
            name=name, urls=tuple(f"{site}/{name}" for site in sites), num_bytes=num_bytes, md5=md5
        )

    return {
        split: (
            remote(f"{STARTS[split]}-images-idx3-ubyte.gz", *images),
            remote(f"{STARTS[split]}-labels-idx1-ubyte.gz", *labels),
        )
        for split, (images, labels) in facts.items()
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class IdxDataset:
    """Grey images of 28 px and their labels in IDX files.

    Attributes:
        name: name of the data set; its files are searched in ROOT/NAME.
        summary: line of help.
        class_names: one name per class.
        files: split → (images, labels), as published.
        num_images: images per split.
        source: origin of the data.
        licence: licence under which its authors offer it.
        folders: further folders under the data root.
        directories: folders searched besides the data root.
    """

    name: str
    summary: str
    class_names: tuple[str, ...]
    files: dict[str, tuple[RemoteFile, RemoteFile]]
    num_images: dict[str, int]
    source: str
    licence: str
    folders: tuple[str, ...] = ()
    directories: tuple[Path, ...] = ()

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(
            name=self.name,
            image_size=PADDED_SIZE,
            num_classes=len(self.class_names),
            num_images=self.num_images,
            source=self.source,
            licence=self.licence,
        )

    @property
    def entry(self) -> DatasetEntry:
        """Registry entry of the data set."""
        return DatasetEntry(
            name=self.name,
            summary=self.summary,
            settings=Settings,
            build=lambda settings, split, root, download: self.load(split, root, download=download),
            info=self.info,
            is_present=self.is_present,
            download=self.download,
            margin=PAD,
        )

    def is_present(self, root: Path) -> bool:
        return all(self._find(file, root) is not None for pair in self.files.values() for file in pair)

    def download(self, root: Path) -> list[Path]:
        return [self._obtain(file, root, True) for pair in self.files.values() for file in pair]

    def load(self, split: str, root: Path, *, download: bool) -> ImageDataset:
        split = canonical_split(self.name, split, self.files)
        images_path, labels_path = (self._obtain(file, root, download) for file in self.files[split])
        grey, labels = read_idx(images_path, num_axes=3), read_idx(labels_path, num_axes=1)
        if grey.shape[1:] != (SIZE, SIZE) or len(grey) != len(labels) or not len(grey):
            raise CorruptDataError(
                f"{images_path} has shape {grey.shape}, {labels_path} {labels.shape}: no match"
            )
        if labels.max() >= len(self.class_names):
            raise CorruptDataError(
                f"{labels_path} has label {labels.max()}, beyond the {len(self.class_names)} classes"
            )
        return ImageDataset(
            name=self.name,
            split=split,
            image_size=PADDED_SIZE,
            num_classes=len(self.class_names),
            class_names=self.class_names,
            pixels=PaddedGreyImages(grey),
            targets=labels.astype(np.int64),
        )

    def _find(self, file: RemoteFile, root: Path) -> Path | None:
        folders = (root / self.name, *(root / folder for folder in self.folders), *self.directories)
        names = (file.name, file.name.removesuffix(".gz"))
        return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)

    def _obtain(self, file: RemoteFile, root: Path, download: bool) -> Path:
        # No checksum of files that are there: Debian packs them anew. IDX sizes and gzip's CRC guard them.
        found = self._find(file, root)
        if found is not None:
            return found
        if not download:
            raise MissingFileError(
                f"{file.name} is not at {root / self.name}. {file.advice(root / self.name)}"
            )
        return fetch(file, root / self.name)
