"""Fashion-MNIST: 28×28 grey images in IDX files, with 2 black pixels added on each side to 32×32, as RGB.

The files, gzip-compressed or plain, are looked for in ROOT/fashion-mnist, in ROOT, in ROOT/FashionMNIST/raw
(torchvision's place) and in /usr/share/datasets/fashion-mnist (Debian's package dataset-fashion-mnist), then
downloaded. https://github.com/zalandoresearch/fashion-mnist
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.download import RemoteFile, fetch
from viewgen.datasets.idx import read_idx
from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.settings import Settings

__all__ = ["ENTRY", "FASHION_MNIST", "FashionMnist"]

NAME = "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SITE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
REPOSITORY = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
PAD = 2
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _remote(name: str, num_bytes: int, md5: str) -> RemoteFile:
    return RemoteFile(
        name=name, urls=(f"{SITE}/{name}", f"{REPOSITORY}/{name}"), num_bytes=num_bytes, md5=md5
    )


@dataclass(frozen=True, slots=True)
class PaddedGreyImages:
    """Grey images `(N, 28, 28)`, uint8, given as RGB with a black border."""

    grey: NDArray[np.uint8]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        padded = np.pad(self.grey[indices], ((0, 0), (PAD, PAD), (PAD, PAD)))
        return np.repeat(padded[:, None], 3, axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FashionMnist:
    """Fashion-MNIST.

    Attributes:
        files: split → (images, labels), as published.
        directories: folders searched besides the data root.
    """

    files: dict[str, tuple[RemoteFile, RemoteFile]]
    directories: tuple[Path, ...] = field(default=(DEBIAN,))

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(
            name=NAME,
            image_size=28 + 2 * PAD,
            num_classes=len(CLASS_NAMES),
            num_images={"train": 60_000, "test": 10_000},
            source="IDX, Zalando or Debian",
            licence="MIT",
        )

    def is_present(self, root: Path) -> bool:
        return all(self._find(file, root) is not None for pair in self.files.values() for file in pair)

    def download(self, root: Path) -> list[Path]:
        return [self._obtain(file, root, True) for pair in self.files.values() for file in pair]

    def load(self, split: str, root: Path, *, download: bool) -> ImageDataset:
        split = canonical_split(NAME, split, self.files)
        images_path, labels_path = (self._obtain(file, root, download) for file in self.files[split])
        grey, labels = read_idx(images_path, num_axes=3), read_idx(labels_path, num_axes=1)
        if grey.shape[1:] != (28, 28) or len(grey) != len(labels) or not len(grey):
            raise CorruptDataError(
                f"{images_path} has shape {grey.shape}, {labels_path} {labels.shape}: no match"
            )
        if labels.max() >= len(CLASS_NAMES):
            raise CorruptDataError(
                f"{labels_path} has label {labels.max()}, beyond the {len(CLASS_NAMES)} classes"
            )
        return ImageDataset(
            name=NAME,
            split=split,
            image_size=28 + 2 * PAD,
            num_classes=len(CLASS_NAMES),
            class_names=CLASS_NAMES,
            pixels=PaddedGreyImages(grey),
            targets=labels.astype(np.int64),
        )

    def _find(self, file: RemoteFile, root: Path) -> Path | None:
        folders = (root / NAME, root, root / "FashionMNIST" / "raw", *self.directories)
        names = (file.name, file.name.removesuffix(".gz"))
        return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)

    def _obtain(self, file: RemoteFile, root: Path, download: bool) -> Path:
        # No checksum of files that are there: Debian packs them anew. IDX sizes and gzip's CRC guard them.
        found = self._find(file, root)
        if found is not None:
            return found
        if not download:
            raise MissingFileError(f"{file.name} is not at {root / NAME}. {file.advice(root / NAME)}")
        return fetch(file, root / NAME)


FASHION_MNIST = FashionMnist(
    files={
        "train": (
            _remote("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            _remote("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        ),
        "test": (
            _remote("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            _remote("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    }
)
ENTRY = DatasetEntry(
    name=NAME,
    summary="70,000 grey pictures of clothes",
    settings=Settings,
    build=lambda settings, split, root, download: FASHION_MNIST.load(split, root, download=download),
    info=FASHION_MNIST.info,
    is_present=FASHION_MNIST.is_present,
    download=FASHION_MNIST.download,
)
