"""The data sets by name."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset
from viewgen.datasets.root import resolve_data_root
from viewgen.errors import UsageError
from viewgen.registry import Choice, Registry

__all__ = ["DATASETS", "download_dataset", "list_datasets", "load_dataset"]

DATASETS: Registry[DatasetEntry] = Registry(
    "data set",
    "viewgen.datasets",
    {
        "digits": "viewgen.datasets.digits",
        "fashion-mnist": "viewgen.datasets.fashion_mnist",
        "cifar10": "viewgen.datasets.cifar:CIFAR10_ENTRY",
        "cifar100": "viewgen.datasets.cifar:CIFAR100_ENTRY",
        "tinyimagenet": "viewgen.datasets.tinyimagenet",
        "stl10": "viewgen.datasets.stl10",
        "folder": "viewgen.datasets.folder",
        "trifeature": "viewgen.datasets.trifeature",
        "overlay": "viewgen.datasets.overlay",
        "colorful-digits": "viewgen.datasets.overlay:COLORFUL_ENTRY",
        "stl-digits": "viewgen.datasets.overlay:STL_ENTRY",
        "garment-digits": "viewgen.datasets.overlay:GARMENT_ENTRY",
    },
)

_QUERY = re.compile(r"\?(\w+=[^?&]*(?:&\w+=[^?&]*)*)$")


def load_dataset(
    name: str, split: str = "train", *, data_root: str | Path | None = None, download: bool = True
) -> ImageDataset:
    """Load one split of a data set.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``tinyimagenet``, ``stl10``,
            ``folder:PATH``, ``folder:PATH?size=N``, ``trifeature``, ``trifeature:SIZE``, ``overlay``,
            ``colorful-digits``, ``stl-digits``, ``garment-digits`` (each with its background as
            ``NAME:BACKGROUND``), or a name that an installed package adds, with its settings as
            ``NAME?setting=value``.
        split: ``train`` or ``test``; STL-10 also has ``unlabeled``.
        data_root: folder of the files; by default the environment's ``VIEWGEN_DATA``, then the platform's
            cache.
        download: fetch missing files.

    Raises:
        UsageError: no such data set, setting or split.
        MissingFileError: files are missing and were not or could not be downloaded.
        CorruptDataError: an archive, a picture or a decoded copy is damaged.
        DataError: an image folder is empty or its pictures differ in size.
        StorageError: the data root cannot be written.
    """
    dataset: ImageDataset = _chosen(name).build(split, resolve_data_root(data_root), download)
    return dataset


def list_datasets(data_root: str | Path | None = None) -> list[DatasetInfo]:
    """Return the facts of each data set, including its presence under `data_root`."""
    root = resolve_data_root(data_root)
    entries = [DATASETS.entry(name) for name in DATASETS.names]
    return [replace(entry.info, present=entry.is_present(root)) for entry in entries]


def download_dataset(name: str, data_root: str | Path | None = None) -> list[Path]:
    """Fetch and verify the files of a data set; return their paths, none for a set that needs no files.

    Raises:
        UsageError, MissingFileError, CorruptDataError, StorageError: as `load_dataset`.
    """
    return _chosen(name).entry.download(resolve_data_root(data_root))


def _chosen(name: str) -> Choice[DatasetEntry]:
    """Return the entry and the settings that a name such as ``folder:PATH?size=64`` stands for."""
    base = re.split("[:?]", name, maxsplit=1)[0]
    entry, rest = DATASETS.entry(base), name[len(base) :]
    fields = entry.settings.model_fields
    given: dict[str, str] = {}
    query = _QUERY.search(rest)
    pairs = [pair.partition("=") for pair in query[1].split("&")] if query else []
    # behind a colon a question mark may belong to the value, a path for example
    if query and (query.start() == 0 or all(key in fields for key, _, _ in pairs)):
        given = {key: text for key, _, text in pairs}
        rest = rest[: query.start()]
    if argument := rest[1:]:
        if not fields:
            raise UsageError(f"data set {base!r} takes nothing after a colon, got {name}")
        given[next(iter(fields))] = argument
    values = {
        key: _value(fields[key].annotation if key in fields else str, text) for key, text in given.items()
    }
    return Choice(entry, entry.settings(**values))


def _value(annotation: Any, text: str) -> Any:
    if annotation is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
