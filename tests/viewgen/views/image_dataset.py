"""Images in memory as a data set of one class."""

import numpy as np

from viewgen.datasets.dataset import ImageDataset, MemoryImages


def dataset_of(images):
    """Return the data set ``some`` of images, uint8 `(N, C, H, W)`."""
    return ImageDataset(
        name="some",
        split="train",
        image_size=images.shape[-1],
        num_classes=1,
        class_names=("one",),
        pixels=MemoryImages(images),
        targets=np.zeros(len(images), np.int64),
    )
