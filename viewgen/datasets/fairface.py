"""``fairface:PATH``: faces with age, gender and race, as FairFace is published.

    PATH/fairface_label_train.csv   file,age,gender,race,service_test
    PATH/fairface_label_val.csv     the same columns
    PATH/train/1.jpg …              the pictures that the first column names
    PATH/val/1.jpg …

The attributes have nine, two and seven classes. The pictures are 224 or 448 px wide, by the published
archive; ``fairface:PATH?size=64`` scales the shorter side to 64 px and cuts out the centre.

References:
    FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age for Bias Measurement and Mitigation,
    Kärkkäinen and Joo, 2021, https://arxiv.org/abs/1908.04913
"""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import Blocks, Labelling, decoded_folder, load_decoded
from viewgen.datasets.folder import fingerprint, read_picture
from viewgen.datasets.labelled import check_size, settings_text
from viewgen.datasets.pictures import decode_blocks
from viewgen.errors import CorruptDataError, DataError, MissingFileError, UsageError
from viewgen.files import open_regular
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "FairFaceSettings"]

MAX_TABLE_BYTES = 64 << 20

AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
GENDERS = ("Female", "Male")
RACES = (
    "Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White",
)  # fmt: skip
ATTRIBUTES = {"age": AGES, "gender": GENDERS, "race": RACES}
FILES = {"train": "train", "test": "val"}


class FairFaceSettings(Settings):
    """Folder and size of the pictures."""

    title: ClassVar[str] = "fairface"
    path: str = setting("", "folder with fairface_label_train.csv")
    size: int | None = setting(None, "side in pixels to which pictures are scaled and cropped")


def load(settings: FairFaceSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, decoding it on first use and again when a file changed.

    Raises:
        UsageError: no path, or an impossible size.
        MissingFileError: the table or a picture that it names is missing.
        DataError: pictures of different sizes.
        CorruptDataError: a column is missing, or a value is none of the published classes.
    """
    check_size(settings.size)
    if not settings.path:
        raise UsageError("fairface: needs a path, for example fairface:/data/fairface")
    path = Path(settings.path).expanduser().resolve()
    name = f"fairface:{path}{settings_text(settings)}"
    split = canonical_split(name, split, FILES, {"val": "test"})
    files, labels = _listed(path, path / f"fairface_label_{FILES[split]}.csv")
    found = load_decoded(
        name,
        split,
        decoded_folder(root, "fairface", name, split),
        {"size": settings.size, "listing": fingerprint(list(zip(files, labels.tolist(), strict=True)))},
        lambda: _blocks(files, labels, settings.size),
        num_images=len(files),
    )
    return replace(
        found,
        num_classes=max(map(len, ATTRIBUTES.values())),
        attribute_names=tuple(ATTRIBUTES),
        attribute_values=tuple(ATTRIBUTES.values()),
    )


def _listed(path: Path, table: Path) -> tuple[list[Path], NDArray[np.int64]]:
    """Return the pictures of a table and their labels, `(N, 3)`."""
    try:
        with open_regular(table) as opened:
            text = opened.read(MAX_TABLE_BYTES + 1)
        if len(text) > MAX_TABLE_BYTES:
            raise CorruptDataError(f"{table} has more than {MAX_TABLE_BYTES >> 20} MiB, too much for a table")
        rows = list(csv.DictReader(io.StringIO(text.decode("utf-8"))))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"there is no {table}; expected FairFace as it is published, fairface_label_train.csv and "
            "fairface_label_val.csv beside the folders train and val"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptDataError(f"{table} is no table of labels: {error}") from error
    if not rows or {"file", *ATTRIBUTES} - rows[0].keys():
        raise CorruptDataError(f"{table} lacks rows or columns; expected file, {', '.join(ATTRIBUTES)}")
    files, labels = [], []
    for number, row in enumerate(rows, 2):
        file = path / str(row["file"])
        if not file.is_relative_to(path) or ".." in Path(str(row["file"])).parts:
            raise CorruptDataError(f"{table}, line {number}: {row['file']} lies outside of {path}")
        if not file.is_file():
            raise MissingFileError(f"{table}, line {number}, names {file}, which is not there")
        files.append(file)
        labels.append(
            [_class(row[one], values, f"{table}, line {number}") for one, values in ATTRIBUTES.items()]
        )
    return files, np.array(labels, np.int64)


def _class(value: str | None, values: tuple[str, ...], place: str) -> int:
    if value not in values:
        raise CorruptDataError(f"{place}: {value!r} is none of {', '.join(values)}")
    return values.index(value)


def _blocks(files: list[Path], labels: NDArray[np.int64], size: int | None) -> Blocks:
    shape = read_picture(files[0], size).shape

    def decode(file: Path) -> NDArray[np.uint8]:
        image = read_picture(file, size)
        if image.shape != shape or image.shape[1] != image.shape[2]:
            raise DataError(
                f"{file} is {image.shape[2]}×{image.shape[1]} pixels, {files[0]} {shape[2]}×{shape[1]}: "
                "pictures must be square and of one size; add ?size=64 to the name to scale and crop them"
            )
        return image

    yield from decode_blocks(files, decode)
    return Labelling(labels, ())


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError(
        "fairface:PATH is read from your disk; its archives are linked at github.com/joojs/fairface"
    )


ENTRY = DatasetEntry(
    name="fairface",
    summary="faces with age, gender and race, in a folder",
    settings=FairFaceSettings,
    build=load,
    info=DatasetInfo(
        name="fairface:PATH",
        image_size=None,
        num_classes=9,
        num_images={},
        source="FairFace: pictures, CSV files",
        licence="CC BY 4.0",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
)
