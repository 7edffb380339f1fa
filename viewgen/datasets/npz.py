"""``npz:URL``: arrays of images and labels in one NumPy file.

Arrays are found by their names: ``train_images`` and ``train_labels`` (as MedMNIST has them), ``x_train`` and
``y_train`` (as Keras does), or ``images`` and ``labels``, ``x`` and ``y``, ``data`` and ``target`` for a
file of one split, train.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import decoded_folder, load_decoded
from viewgen.datasets.files import absolute, open_file, stamp
from viewgen.datasets.labelled import Labelled, check_size, labelled_blocks, settings_text
from viewgen.errors import CorruptDataError, DataError, UsageError
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "NpzSettings"]

IMAGES = ("images", "image", "x", "data", "imgs")
LABELS = ("labels", "label", "y", "target", "targets")


class NpzSettings(Settings):
    """File, and size of the images."""

    title: ClassVar[str] = "npz"
    url: str = setting("", "path or URL of the .npz file")
    size: int | None = setting(None, "side in pixels to which images are scaled and cropped")


def load(settings: NpzSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, decoding it on first use and again when the file changed.

    Raises:
        UsageError: no file, an impossible size, or no such split.
        MissingFileError: there is no such file.
        DataError: no images in it, or of another shape or type.
        CorruptDataError: it is damaged.
    """
    check_size(settings.size)
    if not settings.url:
        raise UsageError("npz: needs a file, for example npz:/data/flowers.npz")
    url = absolute(settings.url)
    name = f"npz:{url}{settings_text(settings)}"
    try:
        with open_file(url) as file, np.load(file, allow_pickle=False) as arrays:
            splits = _splits(url, arrays.files)
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, OSError) as error:
        if isinstance(error, DataError | FileNotFoundError):
            raise
        raise CorruptDataError(f"{url} is no .npz file, or damaged: {error}") from error
    split = canonical_split(name, split, splits, {"val": "test"} if "val" not in splits else None)
    images, labels = splits[split]
    return load_decoded(
        name,
        split,
        decoded_folder(root, "npz", name, split),
        {"size": settings.size, "file": stamp(url), "arrays": [images, labels]},
        lambda: labelled_blocks(_labelled(url, images, labels), name, settings.size),
        num_images=0,
    )


def _splits(url: str, names: list[str]) -> dict[str, tuple[str, str | None]]:
    """Return split → names of its images and labels."""
    found: dict[str, tuple[str, str | None]] = {}
    for split in ("train", "test", "val"):
        images = _first(names, [form for one in IMAGES for form in (f"{split}_{one}", f"{one}_{split}")])
        if images:
            forms = [form for one in LABELS for form in (f"{split}_{one}", f"{one}_{split}")]
            found[split] = images, _first(names, forms)
    if not found and (images := _first(names, [*IMAGES, "arr_0"])):
        found["train"] = images, _first(names, [*LABELS, "arr_1"])
    if "train" not in found:
        raise DataError(
            f"{url} holds {', '.join(names) or 'nothing'}; expected train_images and train_labels, x_train "
            "and y_train, or images and labels"
        )
    return found


def _first(names: list[str], forms: list[str]) -> str | None:
    return next((form for form in forms if form in names), None)


def _labelled(url: str, images: str, labels: str | None) -> Iterator[Labelled]:
    with open_file(url) as file, np.load(file, allow_pickle=False) as arrays:
        try:
            pixels = arrays[images]
            classes = None if labels is None else arrays[labels]
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise CorruptDataError(f"{url} is damaged, or holds objects: {error}") from error
    if classes is not None:
        classes = classes.reshape(len(classes), -1)
        if classes.shape != (len(pixels), 1):
            raise DataError(
                f"{url}: {labels} has {classes.shape[0]} × {classes.shape[1]} labels for {len(pixels)} "
                "images; expected one of each"
            )
    if pixels.ndim not in (3, 4):
        raise DataError(
            f"{url}: {images} has shape {pixels.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    for number in range(len(pixels)):
        label: Any = None if classes is None else classes[number, 0].item()
        yield f"{url}: {images}[{number}]", pixels[number], label


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError("npz:URL is read when it is used; there is nothing to download before")


ENTRY = DatasetEntry(
    name="npz",
    summary="arrays of images and labels in a NumPy file, on disk or at a URL",
    settings=NpzSettings,
    build=load,
    info=DatasetInfo(
        name="npz:URL",
        image_size=None,
        num_classes=None,
        num_images={},
        source="a NumPy file, NAME.npz",
        licence="yours",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
)
