"""STL-10 (96 px), from its binary archive, streamed: the unlabeled split alone is 2.8 GB.

Images are stored column by column, one colour plane after the other; labels run from 1 to 10, here 0 to 9,
and −1 for the 100,000 unlabeled images. https://cs.stanford.edu/~acoates/stl10/
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.archive import tar_members
from viewgen.datasets.archived import ArchivedDataset
from viewgen.datasets.dataset import UNLABELED, DatasetInfo
from viewgen.datasets.decoded import Blocks, Labelling
from viewgen.datasets.download import RemoteFile
from viewgen.errors import CorruptDataError

__all__ = ["ENTRY", "STL10"]

IMAGE_BYTES = 3 * 96 * 96
BLOCK_IMAGES = 256
FOLDER = "stl10_binary"
MAX_IMAGES = 200_000
MAX_UNPACKED_BYTES = 4 << 30


def stl10_blocks(archive: Path, split: str) -> Blocks:
    """Yield blocks of a split, transposed to row-major."""
    pixels_file = f"{FOLDER}/{split}_X.bin"
    labels_file = f"{FOLDER}/{split}_y.bin"
    names_file = f"{FOLDER}/class_names.txt"
    wanted = {pixels_file: MAX_IMAGES * IMAGE_BYTES, names_file: 1 << 16}
    if split != "unlabeled":
        wanted[labels_file] = MAX_IMAGES
    num_images = 0
    class_names: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    for member in tar_members(archive, wanted, cap=MAX_UNPACKED_BYTES):
        if member.name == names_file:
            class_names = tuple(member.read().decode("utf-8", "replace").split())
        elif member.name == labels_file:
            labels = np.frombuffer(member.read(), np.uint8).astype(np.int64) - 1
        else:
            if member.num_bytes % IMAGE_BYTES:
                raise CorruptDataError(
                    f"{archive}: {member.name} is no whole number of {IMAGE_BYTES}-byte images"
                )
            num_images = member.num_bytes // IMAGE_BYTES
            for start in range(0, num_images, BLOCK_IMAGES):
                count = min(BLOCK_IMAGES, num_images - start)
                columns = np.frombuffer(member.read(count * IMAGE_BYTES), np.uint8).reshape(count, 3, 96, 96)
                yield columns.swapaxes(2, 3)
    if labels is None:
        labels = np.full(num_images, UNLABELED, np.int64)
    elif labels.size and (labels.min() < 0 or labels.max() >= len(class_names)):
        raise CorruptDataError(f"{archive}: {labels_file} has labels outside 1 to {len(class_names)}")
    return Labelling(labels, class_names)


STL10 = ArchivedDataset(
    info=DatasetInfo(
        name="stl10",
        image_size=96,
        num_classes=10,
        num_images={"train": 5_000, "test": 8_000, "unlabeled": 100_000},
        source="cs.stanford.edu, binary",
        licence="none stated; images from ImageNet, cite Coates et al. 2011",
    ),
    archive=RemoteFile(
        name="stl10_binary.tar.gz",
        urls=(
            "https://cs.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        ),
        num_bytes=2_640_397_119,
        md5="91f7769df0f17e558f3565bffb0c7dfb",
    ),
    blocks=stl10_blocks,
)
ENTRY = STL10.entry
