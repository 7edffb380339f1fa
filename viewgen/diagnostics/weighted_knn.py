"""Weighted k-nearest-neighbour classification: each of k neighbours votes with weight exp(cosine / τ).

k is 200 and τ is 0.1 in the papers of instance discrimination, MoCo's small-image code and Huang et al.

Shape legend: N training images, M test images, A attributes.

References:
    Unsupervised Feature Learning via Non-Parametric Instance Discrimination, Wu et al., 2018, section 3.4,
    https://arxiv.org/abs/1805.01978
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from viewgen.diagnostics.features import Features
from viewgen.diagnostics.knn import class_accuracies, nearest_neighbours
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "WeightedKnn", "WeightedKnnConfig", "weighted_knn_accuracies"]

TESTED_AT_ONCE = 4096


@torch.no_grad()
def weighted_knn_accuracies(
    train: Features, test: Features, *, num_neighbours: int = 200, temperature: float = 0.1
) -> NDArray[np.float64]:
    """Return the accuracy of the weighted vote for each attribute of the labels, `(A,)`.

    A tied vote goes to the tied class with the lowest index.

    Args:
        train, test: features and labels on one device.
        num_neighbours: k; all training samples vote if there are fewer.
        temperature: τ; 0 is approached by the nearest neighbour, ∞ by the majority.
    """
    k = min(num_neighbours, len(train))
    nearest = nearest_neighbours(train.embeddings, test.embeddings, num_neighbours=k)
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    known, correct = F.normalize(train.embeddings, dim=1), []
    for start in range(0, len(test), TESTED_AT_ONCE):
        part = test.part(slice(start, start + TESTED_AT_ONCE))
        rows_Mk = nearest[start : start + TESTED_AT_ONCE]
        anchors = F.normalize(part.embeddings, dim=1)
        # neighbour by neighbour: all at once would be k copies of the features
        cosine_Mk = torch.stack([(anchors * known[rows]).sum(dim=1) for rows in rows_Mk.T], dim=1)
        weights_Mk = ((cosine_Mk - cosine_Mk.amax(dim=1, keepdim=True)) / temperature).exp()
        votes_MkA = train.attributes[rows_Mk]
        scores = weights_Mk.new_zeros(len(part), num_classes, votes_MkA.shape[2])
        scores.scatter_add_(1, votes_MkA, weights_Mk[:, :, None].expand_as(votes_MkA))
        correct.append((scores.argmax(dim=1) == part.attributes).double())
    return torch.cat(correct).mean(dim=0).cpu().numpy()


class WeightedKnnConfig(Settings):
    """Settings of the vote."""

    title = "weighted_knn"

    neighbours: int = setting(200, "k, neighbours that vote", ge=1)
    temperature: float = setting(0.1, "τ, a neighbour of cosine s has the weight exp(s/τ)", gt=0)


class WeightedKnn:
    """Accuracy on held-out images of the weighted vote of the nearest training images.

    Args:
        config: settings of the vote.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: WeightedKnnConfig) -> None:
        self.config = config

    def accuracies(self, subject: Subject) -> NDArray[np.float64]:
        """Return the accuracy of each attribute, `(A,)`; A is 0 if the images have no classes."""
        train, test = subject.features
        if not train.has_classes:
            return np.zeros(0)
        if len(train) < self.config.neighbours:
            subject.note(f"all {len(train)} training images vote, fewer than {self.config.neighbours}")
        return weighted_knn_accuracies(
            train, test, num_neighbours=self.config.neighbours, temperature=self.config.temperature
        )

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the accuracy of each attribute. No randomness is involved."""
        return class_accuracies(subject, "weighted_knn_top1", self.accuracies(subject))


ENTRY = Entry(
    name="weighted_knn",
    summary="accuracy of a weighted vote of 200 neighbours on the frozen backbone's features",
    settings=WeightedKnnConfig,
    needs=WeightedKnn.needs,
    build=WeightedKnn,
)
