"""Diagnostics during a training: accuracies of the encoder at hand, and measures of collapse."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.collapse import (
    collapse_warning,
    constant_warning,
    feature_measures,
    projection_measures,
)
from viewgen.diagnostics.features import Features, evaluation_mode, extract_features
from viewgen.diagnostics.knn import knn_accuracies, knn_r_squared
from viewgen.diagnostics.probe import linear_probe, probe_config
from viewgen.images import to_model
from viewgen.randomness import addressed_generator
from viewgen.views.branched import ImageEncoder
from viewgen_train.loader import ImageMemory
from viewgen_train.objectives.objective import Outputs

__all__ = ["CollapseWatch", "KnnSets", "accuracies"]

log = logging.getLogger(__name__)

# part of the training images that the others classify
HELD_OUT_SHARE = 0.2
# training images whose features tell a collapse
COLLAPSE_IMAGES, EMBEDDED_AT_ONCE = 2048, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnSets:
    """Data sets of the accuracy measurements during training.

    Attributes:
        train: labelled images, candidates for neighbours.
        test: images to classify; None if the data set has no other split.
        max_images: number of images of either that take part at most.
    """

    train: ImageDataset
    test: ImageDataset | None
    max_images: int = 50_000


def accuracies(
    encoder: ImageEncoder, sets: KnnSets, device: torch.device, seed: int, *, knn: bool, probe: bool
) -> dict[str, float]:
    """Return accuracies on test images, and on training images that are held out from the neighbours.

    Where images have several class attributes, ``knn5_top1`` is the mean over them, and ``knn5_top1[digit]``
    the accuracy of one.

    Args:
        encoder: encoder on `device`; its training mode is restored.
        sets: data sets of the measurement.
        device: device of the encoder.
        seed: root seed of the training.
        knn: True for 5-NN accuracies.
        probe: True for a linear probe.
    """
    order = torch.randperm(len(sets.train), generator=addressed_generator(seed, "knn"))[: sets.max_images]
    train = extract_features(encoder, sets.train, device=device, rows=order.numpy())
    # the first rows of the random order are classified by the others
    count = max(1, int(HELD_OUT_SHARE * len(train)))
    parts = {"heldout": (train.part(slice(count, None)), train.part(slice(count)))}
    if sets.test is not None:
        rows = torch.arange(min(len(sets.test), sets.max_images)).numpy()
        parts["top1"] = (train, extract_features(encoder, sets.test, device=device, rows=rows))
    values: dict[str, float] = {}
    for name, pair in parts.items() if knn else ():
        values |= _knn(name, *pair, sets.train)
    if probe and train.has_classes:
        name = "top1" if "top1" in parts else "heldout"
        config = probe_config(sets.train.name, num_seeds=1, augmentation="none")
        top1 = linear_probe(*parts[name], config, seed=seed).top1[0]
        values |= _of_attributes(f"probe_{name}", top1, sets.train)
    return values


def _knn(name: str, train: Features, test: Features, dataset: ImageDataset) -> dict[str, float]:
    """Return the 5-NN accuracies, and R², averaged over real numbers."""
    neighbours = (min(5, len(train)),)
    found: dict[str, float] = {}
    if train.has_classes:
        top1 = knn_accuracies(train, test, neighbours=neighbours)[0]
        found |= _of_attributes(f"knn5_{name}", top1, dataset)
    if train.reals is not None:
        found[f"knn5_r2_{name}"] = float(knn_r_squared(train, test, neighbours=neighbours)[0].mean())
    return found


def _of_attributes(name: str, top1: NDArray[np.float64], dataset: ImageDataset) -> dict[str, float]:
    """Return the mean of the attributes' accuracies `(A,)`, and each of them where there are several."""
    found = {name: float(top1.mean())}
    if len(top1) > 1:
        names = dataset.attribute_names or tuple(map(str, range(len(top1))))
        found |= {f"{name}[{one}]": float(value) for one, value in zip(names, top1, strict=True)}
    return found


class CollapseWatch:
    """Measures of collapse during a training, with a warning at the first one.

    Args:
        encoder: encoder in training, on the device of the images.
        images: training images, of which at most 2048 are embedded.
        seed: root seed of the training.
    """

    def __init__(self, encoder: ImageEncoder, images: ImageMemory, seed: int) -> None:
        self.encoder, self.images = encoder, images
        order = torch.randperm(images.num_images, generator=addressed_generator(seed, "knn"))
        self._rows = order[:COLLAPSE_IMAGES]
        self._warned = False

    @torch.no_grad()
    def measure(self, out: Outputs) -> dict[str, float]:
        """Return measures of features in evaluation mode, and of the projections of a step's first views.

        Args:
            out: outputs of the step.
        """
        with evaluation_mode(self.encoder):
            features: list[Tensor] = [
                self.encoder.embed(to_model(self.images.read(rows.numpy())))
                for rows in self._rows.split(EMBEDDED_AT_ONCE)
            ]
        values = feature_measures(torch.cat(features))
        second = None if len(out.z) < 2 else out.z[1] if out.target is None else out.target[1]
        values |= projection_measures(out.z[0], second)
        warning = collapse_warning(values) or constant_warning(out.z[0])
        if warning is not None and not self._warned:
            log.warning("%s", warning)
            self._warned = True
        return values
