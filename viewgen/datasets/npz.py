"""``npz:URL``: arrays of images and labels in one NumPy file.

Arrays are found by their names: ``train_images`` and ``train_labels`` (as MedMNIST has them), ``x_train`` and
``y_train`` (as Keras does), or ``images`` and ``labels``, ``x`` and ``y``, ``data`` and ``target`` for a
file of one split, train. The classes of the train split are those of every split.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from viewgen.datasets.arrays import array_header, opened_arrays, read_array
from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import decoded_folder, load_decoded
from viewgen.datasets.files import absolute, open_file, stamp
from viewgen.datasets.labelled import Labelled, check_size, labelled_blocks, labelling, settings_text
from viewgen.datasets.pictures import array_size
from viewgen.errors import DataError, UsageError
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
        OutOfMemoryError: its images do not fit into the free memory.
    """
    url, name = _checked(settings)
    with _opened(url) as arrays:
        splits = _splits(url, arrays.files)
        split = _canonical(name, split, splits)
        images, labels = splits[split]
        source: dict[str, Any] = {"size": settings.size, "file": stamp(url), "arrays": [images, labels]}
        train_labels = splits["train"][1]
        if split != "train" and train_labels is not None:
            source["classes"] = _classes(url, train_labels, arrays, name)
    return load_decoded(
        name,
        split,
        decoded_folder(root, "npz", name, split),
        source,
        lambda: labelled_blocks(
            _labelled(url, images, labels), name, settings.size, train_classes=source.get("classes", ())
        ),
        num_images=0,
    )


def raw_sizes(settings: NpzSettings, split: str, most: int, root: Path) -> list[tuple[int, int]]:
    """Return width and height of at most `most` images of a split, from the header of their array."""
    url, name = _checked(settings)
    with _opened(url) as arrays:
        splits = _splits(url, arrays.files)
        images, _ = splits[_canonical(name, split, splits)]
        shape, _ = array_header(arrays, images)
    size = array_size(shape[1:])
    return [] if size is None else [size] * min(shape[0], most)


def resized_name(settings: NpzSettings, image_size: int) -> str:
    """Return the name of the same images at another size."""
    return f"npz:{absolute(settings.url)}{settings_text(settings.replace(size=image_size))}"


def _checked(settings: NpzSettings) -> tuple[str, str]:
    """Return the file, and the canonical name of the data set."""
    check_size(settings.size)
    if not settings.url:
        raise UsageError("npz: needs a file, for example npz:/data/flowers.npz")
    url = absolute(settings.url)
    return url, f"npz:{url}{settings_text(settings)}"


def _canonical(name: str, split: str, splits: Mapping[str, object]) -> str:
    held_out = (("val", "test"), ("test", "val"))
    aliases = {one: other for one, other in held_out if one not in splits and other in splits}
    return canonical_split(name, split, splits, aliases)


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    with open_file(url) as file, opened_arrays(file, url) as arrays:
        yield arrays


def _classes(url: str, labels: str, arrays: Any, name: str) -> list[str]:
    """Return the names of the classes in an array of labels."""
    return list(labelling(_vector(url, labels, arrays).tolist(), name).class_names)


def _vector(url: str, labels: str, arrays: Any) -> NDArray[Any]:
    """Return labels `(N,)` or `(N, 1)` as `(N,)`."""
    classes = read_array(arrays, labels, url)
    columns = classes.reshape(len(classes), -1)
    if columns.shape[1] != 1:
        raise DataError(f"{url}: {labels} has {columns.shape[1]} labels of each image; expected one of each")
    return columns[:, 0]


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
    with _opened(url) as arrays:
        pixels = read_array(arrays, images, url)
        classes = None if labels is None else _vector(url, labels, arrays)
    if classes is not None and len(classes) != len(pixels):
        raise DataError(
            f"{url}: {labels} has {len(classes)} labels for {len(pixels)} images; expected one of each"
        )
    if pixels.ndim not in (3, 4):
        raise DataError(
            f"{url}: {images} has shape {pixels.shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    for number in range(len(pixels)):
        label: Any = None if classes is None else classes[number].item()
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
    raw_sizes=raw_sizes,
    resized_name=resized_name,
)
