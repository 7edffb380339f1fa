"""Caches in memory whose views are chosen, of pictures that any classifier tells apart."""

import numpy as np

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Subject
from viewgen.store import CacheReader, open_storage
from viewgen.testing.caches import small_spec, write_cache_of

NUM_IMAGES, NUM_VIEWS, SIDE = 40, 3, 8
DIGEST = "sha256:bars"


def bars(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures of two classes that any classifier tells apart: horizontal and vertical bars, noisy."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = random.integers(0, 60, (count, 1, SIDE, SIDE))
    for number, label in enumerate(labels):
        place = random.integers(1, SIDE - 2)
        picture = pixels[number, 0] if label else pixels[number, 0].T
        picture[:, place : place + 2] += 180
    return np.repeat(pixels, 3, axis=1).astype(np.uint8), labels.astype(np.int64)


def dataset_of(images: np.ndarray, labels: np.ndarray, digest: str = DIGEST) -> ImageDataset:
    return ImageDataset(
        name="bars",
        split="train",
        image_size=SIDE,
        num_classes=2,
        class_names=("across", "down"),
        pixels=MemoryImages(images),
        targets=labels,
        stored_digest=digest,
    )


IMAGES, LABELS = bars(NUM_IMAGES)


def subject_of(
    views, *, encoder=None, reconstructions=None, dataset=None, config=None, steps=None
) -> Subject:
    """Return a subject with a cache of the given views `(N, V, C, H, W)` in memory."""
    dataset = dataset or dataset_of(IMAGES, LABELS)
    models = {} if reconstructions is None else {"inversions": "sha256:22"}
    views = np.asarray(views, np.uint8)
    config = {"epsilon_boundary": 0.3, "max_steps": 5} if config is None else config

    def reader(pixels, method, **more):
        spec = small_spec(
            dataset={"name": "bars", "split": "train", "digest": dataset.digest},
            method=method,
            config=config,
            models=more,
            num_images=len(pixels),
            num_views=pixels.shape[1],
            height=SIDE,
            width=SIDE,
        )
        storage = open_storage(f"memory://quality-{id(pixels)}-{method}.zarr")
        storage.delete_tree("")
        arrays = {"views": pixels, "label": dataset.targets[: len(pixels)]}
        if steps is not None:
            arrays["steps"] = steps
        write_cache_of(storage, spec, arrays)
        return CacheReader(storage.url)

    parts = {"train": lambda: dataset, "cache": lambda: reader(views, "wsearch", **models)}
    if encoder is not None:
        parts["encoder"] = lambda: encoder
    if reconstructions is not None:
        parts["inversions"] = lambda: reader(np.asarray(reconstructions, np.uint8)[:, None], "invert")
    return Subject(parts, name="bars")


def copies(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[:, None], NUM_VIEWS, axis=1)


def measured(name: str, subject: Subject, **settings) -> dict[str, float]:
    """Return the values of a diagnostic by name and group; each lies in its interval."""
    found = DIAGNOSTICS.resolve(name, "bars", settings).build().measure(subject, 0)
    for measure in found:
        assert measure.low is not None
        assert measure.low <= measure.value <= measure.high
    return {" ".join(filter(None, (row.name, row.group))): row.value for row in found}
