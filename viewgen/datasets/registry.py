"""The data sets by name."""

from dataclasses import replace
from pathlib import Path

from viewgen.datasets.cifar import CIFAR10, CIFAR100
from viewgen.datasets.dataset import DatasetFamily, DatasetInfo, ImageDataset
from viewgen.datasets.digits import DIGITS
from viewgen.datasets.fashion_mnist import FASHION_MNIST
from viewgen.datasets.folder import FOLDER
from viewgen.datasets.root import resolve_data_root
from viewgen.datasets.stl10 import STL10
from viewgen.datasets.tinyimagenet import TINYIMAGENET
from viewgen.datasets.trifeature import TRIFEATURE
from viewgen.errors import UsageError, nearest_name

__all__ = ["DATASETS", "download_dataset", "list_datasets", "load_dataset"]

DATASETS: dict[str, DatasetFamily] = {
    "digits": DIGITS,
    "fashion-mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "tinyimagenet": TINYIMAGENET,
    "stl10": STL10,
    "folder": FOLDER,
    "trifeature": TRIFEATURE,
}


def load_dataset(
    name: str, split: str = "train", *, data_root: str | Path | None = None, download: bool = True
) -> ImageDataset:
    """Load one split of a data set.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``tinyimagenet``, ``stl10``,
            ``folder:PATH``, ``folder:PATH?size=N``, ``trifeature`` or ``trifeature:SIZE``.
        split: ``train`` or ``test``; STL-10 also has ``unlabeled``.
        data_root: where files live; by default the environment's ``VIEWGEN_DATA``, then the platform's cache.
        download: fetch what is missing.

    Raises:
        UsageError: no such data set or split.
        MissingFileError: files are missing and were not or could not be downloaded.
        CorruptDataError: an archive, a picture or a decoded copy is damaged.
        DataError: an image folder is empty or its pictures differ in size.
        StorageError: the data root cannot be written.
    """
    prefix, _, argument = name.partition(":")
    return _family(prefix).load(argument, split, resolve_data_root(data_root), download)


def list_datasets(data_root: str | Path | None = None) -> list[DatasetInfo]:
    """Return what is known of each data set, and whether it is present under `data_root`."""
    root = resolve_data_root(data_root)
    return [replace(family.info, present=family.is_present(root)) for family in DATASETS.values()]


def download_dataset(name: str, data_root: str | Path | None = None) -> list[Path]:
    """Fetch and verify the files of a data set; return their paths, none for a set that needs no files.

    Raises:
        UsageError, MissingFileError, CorruptDataError, StorageError: as `load_dataset`.
    """
    return _family(name.partition(":")[0]).download(resolve_data_root(data_root))


def _family(name: str) -> DatasetFamily:
    if name not in DATASETS:
        raise UsageError(
            f"unknown data set {name!r}{nearest_name(name.lower(), DATASETS) or '.'} "
            f"Data sets: {', '.join(DATASETS)}"
        )
    return DATASETS[name]
