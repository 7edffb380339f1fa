"""Generated images for measurement: samples and reconstructions, in 8 bits as stored.

Samples are drawn with ψ 1 and fixed noise.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.feature_nets import FeatureNet
from viewgen.diagnostics.measure import Subject
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.images import to_model, to_storage
from viewgen.inversion.perceptual import check_perceptual
from viewgen.networks.files import Models
from viewgen.networks.generator import SamplingGenerator, class_labels
from viewgen.randomness import addressed_normal
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import offline_step

__all__ = ["compared_rows", "net_features", "reconstructions", "refined", "samples", "spread"]

BATCH = 256
NETWORKS = ("generator", "inverter", "encoder", "discriminator")


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Return `count` rows spread evenly over `total`, because image folders are sorted by class."""
    count = min(total, count)
    return np.arange(count) * total // max(1, count)


def compared_rows(subject: Subject, num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the compared rows of the train split and of the test split, at most `num_images` of each."""
    return spread(len(subject.train), num_images), spread(len(subject.test), num_images)


def net_features(net: FeatureNet, images: NDArray[np.uint8]) -> Tensor:
    """Return a network's features of storage images, `(N, D)`, on the CPU."""
    parts = np.array_split(images, -(-len(images) // BATCH))
    return torch.cat([net.features(torch.from_numpy(part)).cpu() for part in parts])


def networks(subject: Subject) -> Models:
    """Return all available feature networks."""
    return subject.models(*NETWORKS)


def samples(subject: Subject, rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.uint8]:
    """Return storage images of `count` seeded codes.

    Args:
        subject: subject with a generator.
        rows: training images whose labels condition a class-conditional generator.
        count: number of samples.
        seed: seed of the codes.
    """
    name = f"samples {len(rows)} {count} {seed}"
    return subject.derived(name, lambda: _samples(subject, rows, count, seed))


@torch.no_grad()
def _samples(subject: Subject, rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.uint8]:
    models = networks(subject)
    generator = models.generator
    if not isinstance(generator, SamplingGenerator):
        raise DataError(
            "the generator has no prior to sample from (`sample`); its samples cannot be measured"
        )
    parts = []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        z = addressed_normal((size, generator.noise_dim), seed, "quality", start)
        labels = None
        if generator.num_classes:
            labels = _labels(models, subject.train, rows[np.arange(start, start + size) % len(rows)])
        parts.append(to_storage(generator.sample(z.to(models.device), labels)).cpu().numpy())
    return np.concatenate(parts)


def _labels(models: Models, images: ImageDataset, rows: NDArray[np.int64]) -> Tensor | None:
    assert models.generator is not None
    labels = torch.from_numpy(images.labels(rows)).to(models.device)
    return class_labels(labels, models.generator.num_classes)


def reconstructions(subject: Subject, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return g(e(x)) of held-out images, uint8 `(N, 3, H, W)`."""
    return subject.derived(f"reconstructions {len(rows)}", lambda: _reconstructions(subject, rows))


@torch.no_grad()
def _reconstructions(subject: Subject, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    models, generator = networks(subject), subject.part("inverting")
    parts = []
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        x = to_model(subject.test.images(part), models.device)
        codes = generator.start(x, _labels(models, subject.test, part))
        parts.append(to_storage(generator.decode(codes)).cpu().numpy())
    return np.concatenate(parts)


def refined(subject: Subject, rows: NDArray[np.int64], seed: int) -> NDArray[Any]:
    """Return reconstructions of held-out images from refined codes, by the data set's recipe."""
    models = networks(subject)
    choice = VIEWS.resolve("invert", subject.test.name, {})
    try:
        check_perceptual(choice.settings.perceptual, has_discriminator=models.discriminator is not None)
    except (UsageError, MissingFileError) as error:
        subject.note(f"codes were refined without the perceptual term of the recipe: {error}")
        choice = VIEWS.resolve("invert", subject.test.name, {"perceptual": "none"})
    resources = Resources(models=models)
    source = choice.build(resources)
    step = offline_step(source, resources, seed=seed, num_views=1)
    return np.asarray(step(subject.test.batch(rows))["views"][:, 0])
