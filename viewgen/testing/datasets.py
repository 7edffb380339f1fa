"""Contract of data sets; see `viewgen.testing`."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from viewgen.datasets import DatasetEntry, ImageDataset
from viewgen.testing.entries import EntryContract

__all__ = ["DatasetContract"]


class DatasetContract(EntryContract):
    """Contract of a data set: shapes, labels, and a digest of the contents.

    Attributes:
        splits: tested splits, whose images must differ.
    """

    entry: ClassVar[DatasetEntry]
    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Data folder; override it if the data set needs files."""
        return tmp_path

    def load(self, split: str, root: Path) -> ImageDataset:
        """Return one split."""
        dataset: ImageDataset = self.choice.build(split, root, False)
        return dataset

    @pytest.fixture
    def dataset(self, root: Path) -> ImageDataset:
        """The first split."""
        return self.load(self.splits[0], root)

    def test_images_by_source_index(self, dataset: ImageDataset) -> None:
        index = np.array([len(dataset) - 1, 0, 0])
        images = dataset.images(index)
        assert images.dtype == np.uint8
        assert images.shape == (3, dataset.channels, dataset.image_size, dataset.image_size)
        assert np.array_equal(images[1], images[2])
        assert np.array_equal(images, np.concatenate([dataset.images([row]) for row in index]))

    def test_what_is_returned_is_a_copy(self, dataset: ImageDataset) -> None:
        images = dataset.images([0])
        before = images.copy()
        images[:] = 255 - images
        assert np.array_equal(dataset.images([0]), before)

    def test_indices_outside_are_refused(self, dataset: ImageDataset) -> None:
        for index in (-1, len(dataset)):
            with pytest.raises(IndexError):
                dataset.images([index])

    def test_labels(self, dataset: ImageDataset) -> None:
        labels = dataset.labels(np.arange(len(dataset)))
        assert labels.dtype == np.int64
        assert labels.shape == (len(dataset), *dataset.label_shape)
        assert labels.min() >= -1
        assert labels.max() < dataset.num_classes
        assert dataset.label_text(labels[0])

    def test_every_attribute_has_a_target_for_every_image(self, dataset: ImageDataset) -> None:
        for attribute in dataset.attributes:
            target = dataset.target(attribute.name)
            assert target.shape == (len(dataset),)
            if attribute.kind == "class":
                assert attribute.num_classes is not None
                assert target.max() < attribute.num_classes
            else:
                assert target.dtype == np.float32
                assert np.isfinite(target).all()

    def test_the_digest_is_stable_and_that_of_the_contents(self, dataset: ImageDataset, root: Path) -> None:
        assert dataset.digest.startswith("sha256:")
        assert self.load(self.splits[0], root).digest == dataset.digest
        digests = {self.load(split, root).digest for split in self.splits}
        assert len(digests) == len(self.splits)

    def test_name_and_split_say_what_was_loaded(self, root: Path) -> None:
        for split in self.splits:
            dataset = self.load(split, root)
            assert dataset.split == split
            assert dataset.name.partition(":")[0].partition("?")[0] == self.entry.name
            assert len(dataset) > 0

    def test_what_is_known_beforehand_holds(self, dataset: ImageDataset, root: Path) -> None:
        info = self.entry.info
        assert info.name.partition(":")[0] == self.entry.name
        assert info.num_classes in (None, dataset.num_classes)
        if info.num_images:
            assert info.num_images[dataset.split] == len(dataset)
        assert self.entry.is_present(root) is not False
