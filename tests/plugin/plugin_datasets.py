"""Stripes: images of two directions, drawn."""

from pathlib import Path

import numpy as np

from viewgen.datasets import DatasetEntry, DatasetInfo, ImageDataset
from viewgen.datasets.dataset import MemoryImages, canonical_split
from viewgen.settings import Settings, setting

COUNTS = {"train": 48, "test": 16}


class StripesSettings(Settings):
    """Size of the images."""

    title = "stripes"

    size: int = setting(32, "side of the images, in pixels", ge=8, le=64)


def load(settings: StripesSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Return one split."""
    split = canonical_split("stripes", split, COUNTS)
    random = np.random.default_rng(list(COUNTS).index(split))
    count, size = COUNTS[split], settings.size
    labels = np.arange(count) % 2
    phase = random.integers(0, 8, (count, 1, 1)) + np.arange(size)[None, :, None]
    stripes = np.broadcast_to((phase // 4 % 2) * 160, (count, size, size))
    turned = np.where(labels[:, None, None] == 1, stripes.transpose(0, 2, 1), stripes)
    pixels = turned[:, None] + random.integers(0, 90, (count, 3, size, size))
    return ImageDataset(
        name=f"stripes:{size}",
        split=split,
        image_size=size,
        num_classes=2,
        class_names=("across", "along"),
        pixels=MemoryImages(pixels.astype(np.uint8)),
        targets=labels,
    )


ENTRY = DatasetEntry(
    name="stripes",
    summary="stripes of two directions, drawn",
    settings=StripesSettings,
    build=load,
    info=DatasetInfo(
        name="stripes:SIZE", image_size=None, num_classes=2, num_images=COUNTS, source="drawn", licence="CC0"
    ),
)
