"""Nearest-centre classification: an image has the class whose mean of normalised features is closest.

G(x) = argmin_k ‖f(x) − μ_k‖, the classifier of the generalization bounds of Huang et al., with centres μ_k
of the training images. It is linear: argmax_k μ_k·f(x) − ‖μ_k‖²/2.

Shape legend: N training images, M test images, D feature dimension, A attributes.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang et al., 2021, section 2,
    https://arxiv.org/abs/2111.00743
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.features import Features
from viewgen.diagnostics.knn import class_accuracies
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.registry import Entry
from viewgen.settings import Settings

__all__ = ["ENTRY", "NearestCentre", "NearestCentreConfig", "nearest_centre", "nearest_centre_accuracies"]


def nearest_centre(z: Tensor, centres: Tensor) -> Tensor:
    """Return the index of the centre, of `(K, D)`, that is nearest to each vector `(B, D)`, int64 `(B,)`."""
    return (z.to(centres) @ centres.T - centres.square().sum(dim=1) / 2).argmax(dim=1)


@torch.no_grad()
def nearest_centre_accuracies(train: Features, test: Features) -> NDArray[np.float64]:
    """Return the accuracy of the nearest centre for each attribute of the labels, `(A,)`.

    Args:
        train: features and labels that the centres are means of; a class without images has no centre.
        test: features and labels of the images to classify.
    """
    f, g = (F.normalize(part.embeddings, dim=1) for part in (train, test))
    correct = []
    for known, wanted in zip(train.attributes.T, test.attributes.T, strict=True):
        classes, index = known.unique(return_inverse=True)
        sums = f.new_zeros(len(classes), f.shape[1]).index_add_(0, index, f)
        centres = sums / torch.bincount(index)[:, None]
        correct.append((classes[nearest_centre(g, centres)] == wanted).double().mean())
    return torch.stack(correct).cpu().numpy()


class NearestCentreConfig(Settings):
    """The nearest centre has no settings."""

    title = "nearest_centre"


class NearestCentre:
    """Accuracy on held-out images of the nearest class centre of the training images.

    Args:
        config: unused; there are no settings.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: NearestCentreConfig) -> None:
        self.config = config

    def accuracies(self, subject: Subject) -> NDArray[np.float64]:
        """Return the accuracy of each attribute, `(A,)`; A is 0 if the images have no classes."""
        train, test = subject.features
        return nearest_centre_accuracies(train, test) if train.has_classes else np.zeros(0)

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the accuracy of each attribute. No randomness is involved."""
        return class_accuracies(subject, "centre_top1", self.accuracies(subject))


ENTRY = Entry(
    name="nearest_centre",
    summary="accuracy of the nearest class centre on the frozen backbone's features",
    settings=NearestCentreConfig,
    needs=NearestCentre.needs,
    build=NearestCentre,
)
