"""TinyImageNet (64 px), from its zip.

Classes are the WordNet ids in sorted order, named by their first word in ``words.txt``. The official
validation images serve as the test split, because the official test images carry no labels. This gives the
100,000/10,000 images of Constructive Assimilation (Han et al., 2023, https://arxiv.org/abs/2304.00601).

http://cs231n.stanford.edu/tiny-imagenet-200.zip
"""

import re
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.archive import damage_as_error, open_zip, read_zip_member
from viewgen.datasets.archived import ArchivedDataset
from viewgen.datasets.dataset import DatasetInfo
from viewgen.datasets.decoded import Blocks, Labelling
from viewgen.datasets.download import RemoteFile
from viewgen.datasets.pictures import decode_blocks, decode_picture
from viewgen.errors import CorruptDataError

__all__ = ["ENTRY", "TINYIMAGENET"]

FOLDER = "tiny-imagenet-200"
IMAGE_SIZE = 64
MAX_IMAGE_BYTES = 1 << 20
MAX_TEXT_BYTES = 16 << 20
TRAIN_PICTURE = re.compile(rf"{FOLDER}/train/(?P<wnid>[^/]+)/images/(?P=wnid)_(?P<number>\d+)\.JPEG")


def tinyimagenet_blocks(path: Path, split: str) -> Blocks:
    """Yield the pictures: train by class, then number; test (the official ``val``) by number."""
    with damage_as_error(path), open_zip(path) as archive:

        def lines(name: str) -> list[str]:
            return (
                read_zip_member(archive, f"{FOLDER}/{name}", cap=MAX_TEXT_BYTES)
                .decode("utf-8", "replace")
                .splitlines()
            )

        wnids = sorted(line.strip() for line in lines("wnids.txt") if line.strip())
        words = dict(line.split("\t", 1) for line in lines("words.txt") if "\t" in line)
        class_of = {wnid: label for label, wnid in enumerate(wnids)}
        if split == "train":
            found = filter(None, map(TRAIN_PICTURE.fullmatch, archive.namelist()))
            rows = sorted((match["wnid"], int(match["number"]), match[0]) for match in found)
            pictures = [(name, wnid) for wnid, _, name in rows]
        else:
            fields = [line.split("\t") for line in lines("val/val_annotations.txt") if line.strip()]
            if any(len(row) < 2 for row in fields):
                raise CorruptDataError(f"{path}: val_annotations.txt has a line without a class")
            numbered = sorted((len(row[0]), row[0], row[1]) for row in fields)
            pictures = [(f"{FOLDER}/val/images/{file}", wnid) for _, file, wnid in numbered]
        unknown = {wnid for _, wnid in pictures} - set(class_of)
        if unknown:
            raise CorruptDataError(f"{path}: class {min(unknown)} is not in wnids.txt")
        reading = threading.Lock()

        def decode(name: str) -> NDArray[np.uint8]:
            with reading:
                data = read_zip_member(archive, name, cap=MAX_IMAGE_BYTES)
            image = decode_picture(data, f"{path}: {name}", None)
            if image.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
                raise CorruptDataError(
                    f"{path}: {name} has {image.shape[2]}×{image.shape[1]} pixels, not 64×64"
                )
            return image

        yield from decode_blocks([name for name, _ in pictures], decode)
    labels = np.array([class_of[wnid] for _, wnid in pictures], np.int64)
    return Labelling(labels, tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids))


TINYIMAGENET = ArchivedDataset(
    info=DatasetInfo(
        name="tinyimagenet",
        image_size=IMAGE_SIZE,
        num_classes=200,
        num_images={"train": 100_000, "test": 10_000},
        source="cs231n.stanford.edu, zip",
        licence="ImageNet terms: non-commercial research",
    ),
    archive=RemoteFile(
        name="tiny-imagenet-200.zip",
        urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
        num_bytes=248_100_043,
        md5="90528d7ca1a48142e341f4ef8d21d0de",
    ),
    blocks=tinyimagenet_blocks,
    split_aliases={"val": "test"},
)
ENTRY = TINYIMAGENET.entry
