"""The one assertion behind every fault test: each image once, with its label and its views."""

from typing import Any

import faulty_method
import numpy as np

from viewgen.datasets import load_dataset
from viewgen.store import CacheReader, verify_cache

__all__ = ["assert_every_image_once"]


def assert_every_image_once(
    url: str,
    *,
    num_images: int,
    num_views: int = 2,
    seed: int = 0,
    storage_options: dict[str, Any] | None = None,
    missing: tuple[int, ...] = (),
) -> None:
    """Assert that the cache holds every image of digits but `missing` exactly once, with the right views."""
    report = verify_cache(url, storage_options)
    assert report.faults == []
    reader = CacheReader(url, storage_options, check="digest")
    expected = np.setdiff1d(np.arange(num_images), missing)
    assert reader.rows.tolist() == expected.tolist()
    assert reader.source_index.tolist() == expected.tolist()
    dataset = load_dataset("digits")
    np.testing.assert_array_equal(reader.labels, dataset.labels(expected))
    np.testing.assert_array_equal(
        reader.views(expected),
        faulty_method.expected_views(dataset.images(expected), expected, num_views, seed),
    )
    if not missing:
        assert report.ok
