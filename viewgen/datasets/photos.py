"""``photos:PATH``: windows of large pictures, such as those of DIV2K, at places given by address.

Every picture has `windows` windows of `size` pixels, cut where the picture's name and the window's number
say, uniformly over the picture. They have no labels. Pictures lie anywhere under PATH/train,
PATH/DIV2K_train_HR or, without these, PATH itself; those of the split ``test``, never among the others, under
PATH/test, PATH/valid or PATH/DIV2K_valid_HR. Windows are cut on first use, and again when a picture was
added, removed or changed.

With ``?labels=picture`` a picture is the class of its windows. Every picture, of those that are not under
PATH/test, PATH/valid or PATH/DIV2K_valid_HR, is cut across its longer side: windows to train on come from one
half, those to test with from the other, and share no pixel. The picture's name says which half is which.
The first images are one window of each picture, the next ones a second window of each.

References:
    NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and Study, Agustsson and Timofte, 2017,
    https://data.vision.ee.ethz.ch/cvl/DIV2K/
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import (
    UNLABELED,
    DatasetEntry,
    DatasetInfo,
    ImageDataset,
    PixelSource,
    canonical_split,
)
from viewgen.datasets.decoded import Blocks, Labelling, load_decoded
from viewgen.datasets.folder import MAX_IMAGE_SIZE, fingerprint, picture_files, read_picture
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "PhotosSettings", "corner"]

FOLDERS = {
    "train": ("train", "DIV2K_train_HR"),
    "test": ("test", "valid", "DIV2K_valid_HR"),
}


class PhotosSettings(Settings):
    """Folder of the pictures, and windows cut out of them."""

    title: ClassVar[str] = "photos"
    path: str = setting("", "folder of the pictures")
    size: int = setting(128, "side of a window in pixels", ge=8, le=MAX_IMAGE_SIZE)
    windows: int = setting(16, "windows of a picture, of one split", ge=1, le=100_000)
    labels: Literal["none", "picture"] = setting(
        "none", "classes of the windows: none, or their pictures, which then lie half in either split"
    )


@dataclass(frozen=True, slots=True)
class ReorderedImages:
    """Images in another order: image i is number `order[i]` of `pixels`; `order` is `(N,)`."""

    pixels: PixelSource
    order: NDArray[np.int64]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pixels.read(self.order[indices])


def load(settings: PhotosSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, cutting its windows on first use.

    Raises:
        UsageError: no path.
        MissingFileError: there is no such directory.
        DataError: it holds no pictures, or one that is smaller than a window; with classes, a single one, or
            one whose half is smaller.
        CorruptDataError: a picture cannot be decoded.
    """
    if not settings.path:
        raise UsageError("photos: needs a path, for example photos:/data/DIV2K")
    path = Path(settings.path).expanduser().resolve()
    if not path.is_dir():
        raise MissingFileError(f"there is no directory {path}; expected {path}/picture.png")
    given = {key: value for key, value in settings.to_json().items() if key != "path"}
    if settings.labels == "none":
        del given["labels"]
    query = "&".join(f"{key}={value}" for key, value in given.items())
    name = f"photos:{path}?{query}"
    folders = {
        one: found
        for one, names in FOLDERS.items()
        if (found := next((path / part for part in names if (path / part).is_dir()), None))
    }
    folders.setdefault("train", path)
    if settings.labels == "picture":
        folders["test"] = folders["train"]
    split = canonical_split(name, split, folders, {"valid": "test", "val": "test"})
    held_out = [path / part for part in FOLDERS["test"]] if folders[split] == path else []
    files = sorted(
        file
        for file in picture_files(folders[split])
        if not any(file.is_relative_to(folder) for folder in held_out)
    )
    if not files:
        raise DataError(f"{folders[split]} holds no pictures")
    if settings.labels == "picture" and len(files) == 1:
        raise DataError(f"{folders[split]} holds one picture, which makes one class; expected two or more")
    source = given | {"listing": fingerprint([(file, 0) for file in files])}
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    dataset = load_decoded(
        name,
        split,
        root / "photos" / key / split,
        source,
        lambda: _blocks(files, folders[split], settings, split),
        num_images=len(files) * settings.windows,
    )
    if settings.labels == "none":
        return dataset
    order = np.arange(len(dataset), dtype=np.int64).reshape(len(files), settings.windows).T.ravel()
    return replace(dataset, pixels=ReorderedImages(dataset.pixels, order), targets=dataset.targets[order])


def corner(picture: str, window: int, height: int, width: int, size: int) -> tuple[int, int]:
    """Return the top left corner of a window, (row, column), uniform over the places inside the picture.

    Args:
        picture: path of the picture below the folder of its split.
        window: number of the window.
        height, width: sides of the picture, in pixels.
        size: side of the window.
    """
    # Imported here because it brings torch, which the list of data sets should not wait for.
    from viewgen.randomness import addressed_seed

    draws = np.random.Generator(np.random.PCG64(addressed_seed("photos", picture, window)))
    return int(draws.integers(height - size + 1)), int(draws.integers(width - size + 1))


def half(picture: str, split: str, height: int, width: int) -> tuple[slice, slice]:
    """Return the half of a picture that a split has, as slices of rows and columns.

    The longer side is cut in the middle; of an odd one, a line in the middle belongs to neither.

    Args:
        picture: path of the picture below the folder of its split.
        split: ``"train"`` or ``"test"``.
        height, width: sides of the picture, in pixels.
    """
    from viewgen.randomness import addressed_seed

    middle = max(height, width) // 2
    is_first = (addressed_seed("photos", "half", picture) % 2 == 0) == (split == "train")
    part = slice(0, middle) if is_first else slice(max(height, width) - middle, None)
    return (part, slice(None)) if height > width else (slice(None), part)


def _blocks(files: list[Path], folder: Path, settings: PhotosSettings, split: str) -> Blocks:
    size, count = settings.size, settings.windows
    names = [file.relative_to(folder).as_posix() for file in files]
    for file, name in zip(files, names, strict=True):
        image, address, told = read_picture(file, None), name, ""
        _, whole_height, whole_width = image.shape
        if settings.labels == "picture":
            rows, columns = half(name, split, whole_height, whole_width)
            image, address = image[:, rows, columns], f"{split}/{name}"
            told = ", of which a split has one half"
        _, height, width = image.shape
        if min(height, width) < size:
            raise DataError(
                f"{file} is {whole_width}×{whole_height} pixels{told}, and a window {size}×{size}; give a "
                "smaller ?size=, or remove the picture"
            )
        windows: list[NDArray[np.uint8]] = []
        for window in range(count):
            row, column = corner(address, window, height, width, size)
            windows.append(image[:, row : row + size, column : column + size])
        yield np.stack(windows)
    if settings.labels == "none":
        return Labelling(np.full(len(files) * count, UNLABELED, np.int64), ())
    return Labelling(np.repeat(np.arange(len(files), dtype=np.int64), count), tuple(names))


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError("photos:PATH is read from your disk; there is nothing to download")


ENTRY = DatasetEntry(
    name="photos",
    summary="windows of large pictures, without classes or with the picture as class",
    settings=PhotosSettings,
    build=load,
    info=DatasetInfo(
        name="photos:PATH",
        image_size=None,
        num_classes=None,
        num_images={},
        source="large pictures, DIV2K",
        licence="yours",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
)
