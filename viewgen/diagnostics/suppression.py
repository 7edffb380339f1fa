"""Suppression: how much of each attribute an encoder kept, beside untrained and supervised references.

For an attribute with accuracy a of a linear probe, chance c (the share of the most frequent class among the
test images), a⁰ of the untrained network and a* of a supervised one:

- gain = a − a⁰; negative where training lost what a random network already tells;
- retained = (a − c) / (a* − c), if a supervised encoder is given.

The probes of all encoders see features with mean 0 and one deviation, so that one learning rate suits them.

Two measures need no probe. The silhouette of an attribute's classes compares, for each image, the mean
distance b to the nearest other class with the mean distance s to its own: mean of (b − s) / max(s, b). The
energy ratio is the mean energy distance between the features of two classes over that of permuted labels:
about 1 if the features do not depend on the attribute, which is what Robinson et al. call suppressed.

Shape legend: N images, A attributes, K classes, D features.

References:
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021, section 2,
    https://arxiv.org/abs/2106.11230
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, https://arxiv.org/abs/2012.09962
    Silhouettes: A graphical aid to the interpretation and validation of cluster analysis, Rousseeuw, 1987,
    https://doi.org/10.1016/0377-0427(87)90125-7
    Energy statistics: A class of statistics based on distances, Székely and Rizzo, 2013,
    https://doi.org/10.1016/j.jspi.2013.03.018
"""

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.features import Features, extract_features
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.probe import ProbeConfig, linear_probe
from viewgen.errors import UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.networks.weights import trained_file
from viewgen.randomness import addressed_generator, addressed_seed
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.branched import load_image_encoder

__all__ = ["ENTRY", "Suppression", "SuppressionConfig", "class_energy", "energy_ratio", "silhouette"]

# training images, evenly spread, of which an untrained network takes its batch statistics
STATISTICS_IMAGES = 1024


class SuppressionConfig(Settings):
    """Probes and references of the measurement."""

    title = "suppression"

    supervised: str | None = setting(
        None, "run or weights file of an encoder trained on the classes, the reference of what is retained"
    )
    epochs: int = setting(50, "passes of the probes over the training images", ge=1)
    learning_rate: float = setting(3.0, "learning rate of the probes at the start", gt=0)
    num_images: int = setting(
        1000, "test images whose distances are compared, evenly spread over the split", ge=2, le=4000
    )
    num_permutations: int = setting(20, "permutations of the labels behind an energy ratio", ge=1)


def silhouette(features: Tensor, labels: Tensor) -> float:
    """Return the mean silhouette of classes in features, in [−1, 1].

    An image that is the only one of its class counts 0, and so do all where there is one class.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
    """
    distances, member = torch.cdist(features.double(), features.double()), _members(labels)
    counts = member.sum(dim=0)
    if len(counts) < 2:
        return 0.0
    sums = distances @ member
    own = (sums * member).sum(dim=1) / (counts[member.argmax(dim=1)] - 1).clamp_min(1)
    others = (sums / counts).masked_fill(member.bool(), torch.inf).amin(dim=1)
    values = (others - own) / torch.maximum(others, own).clamp_min(torch.finfo(torch.float64).tiny)
    alone = counts[member.argmax(dim=1)] == 1
    return float(values.masked_fill(alone, 0).mean())


def energy_ratio(features: Tensor, labels: Tensor, *, num_permutations: int = 20, seed: int = 0) -> float:
    """Return the mean energy distance between classes over its mean with permuted labels.

    It is NaN for features that are all alike, whose energies are 0 up to rounding.

    Args:
        features: `(N, D)`.
        labels: `(N,)`, of at least two classes.
        num_permutations: number of permutations.
        seed: seed of the permutations.
    """
    distances = torch.cdist(features.double(), features.double())
    random = addressed_generator(seed, "energy")
    orders = [torch.randperm(len(labels), generator=random) for _ in range(num_permutations)]
    expected = [class_energy(distances, labels[order]) for order in orders]
    mean = sum(expected) / len(expected)
    # what a matrix product leaves of the distance of equal points
    rounding = torch.finfo(torch.float64).eps ** 0.5 * float(features.double().norm(dim=1).max())
    return class_energy(distances, labels) / mean if mean > rounding else math.nan


def class_energy(distances: Tensor, labels: Tensor) -> float:
    """Return the mean over pairs of classes of 2·E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖.

    Args:
        distances: `(N, N)`.
        labels: `(N,)`.
    """
    member = _members(labels)
    member = member / member.sum(dim=0)
    means = member.T @ distances @ member
    energies = 2 * means - means.diag()[:, None] - means.diag()[None]
    rows, columns = torch.triu_indices(len(means), len(means), 1)
    return float(energies[rows, columns].mean())


def _members(labels: Tensor) -> Tensor:
    """Return the membership of the classes that occur, float64 `(N, K)`."""
    _, index = labels.unique(return_inverse=True)
    return F.one_hot(index).double()


def standardising(train: Features) -> tuple[Tensor, Tensor]:
    """Return shift and scale, `(D,)`, that give features mean 0, and deviation 1/√D where they vary."""
    mean, deviation = train.embeddings.mean(dim=0), train.embeddings.std(dim=0, correction=0)
    return mean, deviation.clamp_min(1e-6) * train.embeddings.shape[1] ** 0.5


def standardised(train: Features, test: Features) -> tuple[Features, Features]:
    """Return features with the training images' mean 0, and deviation 1/√D in every dimension that varies."""
    mean, scale = standardising(train)
    first, second = (replace(one, embeddings=(one.embeddings - mean) / scale) for one in (train, test))
    return first, second


class Suppression:
    """Retained share and gain of each attribute.

    Args:
        config: probes and references.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: SuppressionConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the measures of every class attribute.

        Raises:
            UsageError: the images have no classes, or the encoder has several branches.
        """
        train, test = subject.features
        names = [one.name for one in subject.test.attributes if one.kind == "class"]
        if not train.has_classes or not test.has_classes:
            raise UsageError(f"{subject.test.name} has no classes, whose suppression could be measured")
        top1, untrained = self._accuracies(train, test, seed), self._untrained(subject, seed)
        found = {"attribute_top1": top1, "untrained_top1": untrained, "gain": top1 - untrained}
        labels = test.attributes.cpu()
        chance = np.array([float(column.bincount().max()) / len(column) for column in labels.T])
        found["chance"] = chance
        if self.config.supervised is not None:
            found["supervised_top1"] = self._of_encoder(subject, self._supervised(subject), seed)
            above = found["supervised_top1"] - chance
            if bool((above <= 0).any()):
                subject.note("suppression: a supervised reference is at chance, and its shares are left out")
            known = np.where(above > 0, above, np.nan)
            found["retained"] = (top1 - chance) / known
        rows = np.linspace(0, len(test) - 1, min(self.config.num_images, len(test))).round().astype(int)
        features, labels = test.embeddings.cpu()[rows], labels[rows]
        found["silhouette"] = np.array([silhouette(features, column) for column in labels.T])
        found["energy_ratio"] = np.array(
            [
                energy_ratio(features, column, num_permutations=self.config.num_permutations, seed=seed)
                if len(column.unique()) > 1
                else np.nan
                for column in labels.T
            ]
        )
        on = f"{len(test):,} {subject.test.split}, {len(train):,} {subject.train.split}"
        return [
            Measure(name=name, value=float(value), on=on, group=group)
            for name, values in found.items()
            for group, value in zip(names, values, strict=True)
            if np.isfinite(value)
        ]

    def _accuracies(self, train: Features, test: Features, seed: int) -> NDArray[np.float64]:
        """Return the accuracy of a linear probe of each attribute, `(A,)`."""
        config = ProbeConfig(epochs=self.config.epochs, learning_rate=self.config.learning_rate, num_seeds=1)
        train, test = standardised(train, test)
        found: NDArray[np.float64] = linear_probe(train, test, config, seed=seed).top1[0]
        return found

    def _of_encoder(self, subject: Subject, encoder: Encoder, seed: int) -> NDArray[np.float64]:
        train, test = (
            extract_features(encoder, split, batch_size=subject.batch_size, device=subject.device)
            for split in (subject.train, subject.test)
        )
        return self._accuracies(train, test, seed)

    def _untrained(self, subject: Subject, seed: int) -> NDArray[np.float64]:
        """Return the accuracies of a network of random weights, with batch statistics of training images."""
        trained = subject.encoder
        if not isinstance(trained, Encoder):
            raise UsageError("an encoder of several branches has no single untrained reference")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(addressed_seed(seed, "untrained"))
            encoder = Encoder(trained.config).to(subject.device).train()
        count = min(STATISTICS_IMAGES, len(subject.train))
        rows = np.linspace(0, len(subject.train) - 1, count).round().astype(np.int64)
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean over the batches
        with torch.no_grad():
            for part in np.array_split(rows, -(-len(rows) // subject.batch_size)):
                encoder.embed(to_model(subject.train.images(part), subject.device))
        return self._of_encoder(subject, encoder.eval(), seed)

    def _supervised(self, subject: Subject) -> Encoder:
        assert self.config.supervised is not None
        path = trained_file(self.config.supervised)
        encoder = load_image_encoder(path, subject.device)
        if not isinstance(encoder, Encoder):
            raise UsageError(f"supervised is {path}, an encoder of several branches; expected one encoder")
        return encoder


ENTRY = Entry(
    name="suppression",
    summary="what of each attribute an encoder kept, beside untrained and supervised references",
    settings=SuppressionConfig,
    needs=Suppression.needs,
    build=Suppression,
)
