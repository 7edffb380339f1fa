"""CIFAR-10 and CIFAR-100, from their *binary* archives: the Python editions are pickles, which we never run.

A record is one label byte (CIFAR-100: a coarse, then the fine label, which is used) and 3072 pixel bytes: the
red, green and blue planes, row by row. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from viewgen.datasets.archive import tar_members
from viewgen.datasets.archived import ArchivedDataset
from viewgen.datasets.dataset import DatasetInfo
from viewgen.datasets.decoded import Blocks, Labelling
from viewgen.datasets.download import RemoteFile
from viewgen.errors import CorruptDataError

__all__ = ["CIFAR10", "CIFAR10_ENTRY", "CIFAR100", "CIFAR100_ENTRY"]

PIXEL_BYTES = 3 * 32 * 32
MAX_FILE_BYTES = 256 << 20
MAX_NAMES_BYTES = 1 << 16
MAX_UNPACKED_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CifarLayout:
    """Members of the archive, and the position of the label in a record."""

    files: dict[str, tuple[str, ...]]
    names: str
    label_bytes: int
    num_classes: int


def cifar_blocks(layout: CifarLayout, archive: Path, split: str) -> Blocks:
    """Yield the images of each record file, in the layout's order (not the archive's)."""
    files = layout.files[split]
    wanted = {**dict.fromkeys(files, MAX_FILE_BYTES), layout.names: MAX_NAMES_BYTES}
    content = {member.name: member.read() for member in tar_members(archive, wanted, cap=MAX_UNPACKED_BYTES)}
    class_names = tuple(content[layout.names].decode("utf-8", "replace").split())
    if len(class_names) != layout.num_classes:
        raise CorruptDataError(
            f"{archive}: {layout.names} names {len(class_names)} classes, not {layout.num_classes}"
        )
    labels = []
    for file in files:
        record_bytes = layout.label_bytes + PIXEL_BYTES
        if len(content[file]) % record_bytes:
            raise CorruptDataError(f"{archive}: {file} is no whole number of {record_bytes}-byte records")
        records = np.frombuffer(content[file], np.uint8).reshape(-1, record_bytes)
        labels.append(records[:, layout.label_bytes - 1].astype(np.int64))
        if len(records) and labels[-1].max() >= layout.num_classes:
            raise CorruptDataError(
                f"{archive}: {file} has label {labels[-1].max()}, beyond the {layout.num_classes}"
            )
        yield records[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    return Labelling(np.concatenate(labels), class_names)


CIFAR10 = ArchivedDataset(
    info=DatasetInfo(
        name="cifar10",
        image_size=32,
        num_classes=10,
        num_images={"train": 50_000, "test": 10_000},
        source="cs.toronto.edu, binary",
        licence="none stated; cite Krizhevsky 2009",
    ),
    archive=RemoteFile(
        name="cifar-10-binary.tar.gz",
        urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        num_bytes=170_052_171,
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
    blocks=partial(
        cifar_blocks,
        CifarLayout(
            files={
                "train": tuple(f"cifar-10-batches-bin/data_batch_{part}.bin" for part in range(1, 6)),
                "test": ("cifar-10-batches-bin/test_batch.bin",),
            },
            names="cifar-10-batches-bin/batches.meta.txt",
            label_bytes=1,
            num_classes=10,
        ),
    ),
)

CIFAR100 = ArchivedDataset(
    info=DatasetInfo(
        name="cifar100",
        image_size=32,
        num_classes=100,
        num_images={"train": 50_000, "test": 10_000},
        source="cs.toronto.edu, binary",
        licence="none stated; cite Krizhevsky 2009",
    ),
    archive=RemoteFile(
        name="cifar-100-binary.tar.gz",
        urls=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
        num_bytes=168_513_733,
        md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
    blocks=partial(
        cifar_blocks,
        CifarLayout(
            files={"train": ("cifar-100-binary/train.bin",), "test": ("cifar-100-binary/test.bin",)},
            names="cifar-100-binary/fine_label_names.txt",
            label_bytes=2,
            num_classes=100,
        ),
    ),
)

CIFAR10_ENTRY, CIFAR100_ENTRY = CIFAR10.entry, CIFAR100.entry
