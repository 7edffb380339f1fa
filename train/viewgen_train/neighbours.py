"""k-nearest-neighbour classification on frozen features."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from viewgen.errors import UsageError

__all__ = ["knn_accuracy"]


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_neighbours: int = 5,
    metric: Literal["cosine", "euclidean"] = "cosine",
    chunk_size: int = 4096,
) -> float:
    """Return the share of test samples whose neighbours' majority has their class.

    A tied vote goes to the tied class with the lowest index.

    Args:
        train_features: `(N, D)`.
        train_labels: class indices `(N,)`.
        test_features: `(M, D)`.
        test_labels: class indices `(M,)`.
        num_neighbours: k.
        metric: distance between features.
        chunk_size: test samples compared at once.

    Raises:
        UsageError: fewer training samples than neighbours.
    """
    if len(train_features) < num_neighbours:
        raise UsageError(f"{num_neighbours} neighbours were asked of {len(train_features)} training samples")
    if metric == "cosine":
        train_features, test_features = F.normalize(train_features, dim=1), F.normalize(test_features, dim=1)
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    half_square = train_features.square().sum(dim=1) / 2
    correct = 0
    for features, labels in zip(test_features.split(chunk_size), test_labels.split(chunk_size), strict=True):
        closeness = features @ train_features.T
        if metric == "euclidean":
            closeness = closeness - half_square
        votes = train_labels[closeness.topk(num_neighbours, dim=1).indices]
        counts = F.one_hot(votes, num_classes).sum(dim=1)
        correct += int((counts.argmax(dim=1) == labels).sum())
    return correct / len(test_features)
