"""k-nearest-neighbour classification on frozen features: a matrix product and a top-k, a chunk at a time.

Where faiss is installed (Linux, on a processor), it searches large sets, exactly.

References:
    Unsupervised Feature Learning via Non-Parametric Instance Discrimination, Wu et al., 2018,
    https://arxiv.org/abs/1805.01978
"""

import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.features import Features
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.regression import r_squared
from viewgen.errors import UsageError, nearest_name
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = [
    "ENTRY",
    "METRICS",
    "Knn",
    "KnnConfig",
    "Metric",
    "knn_accuracies",
    "knn_accuracy",
    "knn_r_squared",
    "nearest_neighbours",
]

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")

# numbers in one chunk's table of distances: 256 MB; and its rows on a processor, whose caches are small
CHUNK_NUMBERS = 2**26
MOST_CHUNK = 256
# columns in a group below which sorting all of them is as fast
SMALLEST_GROUP = 4
# pairs of samples from which the import of faiss is worth it
FAISS_PAIRS = 10**8


@torch.no_grad()
def nearest_neighbours(
    train_features: Tensor,
    test_features: Tensor,
    *,
    num_neighbours: int,
    metric: Metric = "cosine",
    chunk_size: int | None = None,
) -> Tensor:
    """Return the rows of each test sample's nearest training samples, nearest first, int64 `(M, k)`.

    Args:
        train_features: `(N, D)`.
        test_features: `(M, D)`.
        num_neighbours: k.
        metric: ``"cosine"`` or ``"euclidean"``.
        chunk_size: test samples compared at once; by default the number that fits into 256 MB, on a processor
            at most 256. No effect on faiss.

    Raises:
        UsageError: fewer training samples than neighbours, or an unknown metric.
    """
    if not 1 <= num_neighbours <= len(train_features):
        raise UsageError(
            f"{num_neighbours} neighbours were asked of {len(train_features)} training samples; "
            "expected at least 1, and no more than there are samples"
        )
    if metric not in METRICS:
        raise UsageError(f"no metric {metric!r}{nearest_name(metric, METRICS)} (known: {', '.join(METRICS)})")
    if metric == "cosine":
        train_features, test_features = F.normalize(train_features, dim=1), F.normalize(test_features, dim=1)
    if _is_for_faiss(train_features, test_features):
        return _faiss_neighbours(train_features, test_features, num_neighbours, metric)
    # ‖x − t‖² = ‖x‖² − 2(x·t − ‖t‖²/2), and ‖x‖² is the same for all neighbours of x
    half_square = train_features.square().sum(dim=1) / 2
    num_train = len(train_features)
    if chunk_size is None:
        chunk_size = max(1, CHUNK_NUMBERS // num_train)
        if train_features.device.type == "cpu":
            chunk_size = min(chunk_size, MOST_CHUNK)
    # one table for all chunks: fresh memory costs as much as a third of the product
    table = train_features.new_empty(min(chunk_size, len(test_features)), num_train)
    found = []
    for features in test_features.split(chunk_size):
        closeness = torch.mm(features, train_features.T, out=table[: len(features)])
        if metric == "euclidean":
            closeness -= half_square
        found.append(_largest(closeness, num_neighbours))
    return torch.cat(found)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the columns of the largest values of each row, largest first, int64 `(M, count)`.

    The k largest values are in the k groups of columns with the largest maxima: only those are sorted.
    """
    num_columns = values.shape[1]
    size = 1 << (int(math.sqrt(num_columns / count)).bit_length() - 1)
    if size < SMALLEST_GROUP:
        return values.topk(count, dim=1).indices
    grouped = num_columns // size * size
    best = values[:, :grouped].unflatten(1, (-1, size)).amax(dim=2).topk(count, dim=1).indices
    columns: Tensor = (best[..., None] * size + torch.arange(size, device=values.device)).flatten(1)
    if grouped < num_columns:
        rest = torch.arange(grouped, num_columns, device=values.device)
        columns = torch.cat([columns, rest.expand(len(values), -1)], dim=1)
    places = values.gather(1, columns).topk(count, dim=1).indices
    return columns.gather(1, places)


def _is_for_faiss(train_features: Tensor, test_features: Tensor) -> bool:
    """Return True if faiss is installed and finds these neighbours sooner: many pairs, on a processor."""
    return (
        sys.platform == "linux"
        and train_features.device.type == "cpu"
        and train_features.dtype == torch.float32
        and len(train_features) * len(test_features) >= FAISS_PAIRS
        and find_spec("faiss") is not None
        and bool(torch.isfinite(train_features).all() and torch.isfinite(test_features).all())
    )


def _faiss_neighbours(
    train_features: Tensor, test_features: Tensor, num_neighbours: int, metric: Metric
) -> Tensor:
    """Return what `nearest_neighbours` does, by faiss's exact search without an index."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    places = faiss.knn(
        np.ascontiguousarray(test_features.numpy()),
        np.ascontiguousarray(train_features.numpy()),
        num_neighbours,
        metric=faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2,
    )[1]
    return torch.from_numpy(places)


def knn_accuracies(
    train: Features, test: Features, *, neighbours: Sequence[int] = (5,), metric: Metric = "cosine"
) -> NDArray[np.float64]:
    """Return the accuracy of the majority vote for each k and each attribute of the labels, `(len, A)`.

    A tied vote goes to the tied class with the lowest index, as in scikit-learn.

    Args:
        train, test: features and labels on one device.
        neighbours: values of k.
        metric: ``"cosine"`` or ``"euclidean"``; errors are those of `nearest_neighbours`.
    """
    nearest = nearest_neighbours(
        train.embeddings, test.embeddings, num_neighbours=max(neighbours), metric=metric
    )
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    votes_MkA = train.attributes[nearest]
    correct = [
        (_majority(votes_MkA[:, :k], num_classes) == test.attributes).double().mean(dim=0) for k in neighbours
    ]
    return torch.stack(correct).cpu().numpy()


def knn_r_squared(
    train: Features, test: Features, *, neighbours: Sequence[int] = (5,), metric: Metric = "cosine"
) -> NDArray[np.float64]:
    """Return R² of the neighbours' mean for each k and each real-valued target, `(len, R)`.

    Args:
        train, test: features and real-valued targets on one device.
        neighbours: values of k.
        metric: ``"cosine"`` or ``"euclidean"``; errors are those of `nearest_neighbours`.
    """
    assert train.reals is not None
    assert test.reals is not None
    nearest = nearest_neighbours(
        train.embeddings, test.embeddings, num_neighbours=max(neighbours), metric=metric
    )
    values_MkR = train.reals[nearest]
    return np.stack([r_squared(values_MkR[:, :k].mean(dim=1), test.reals) for k in neighbours])


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    num_neighbours: int = 5,
    metric: Metric = "cosine",
) -> float:
    """Return the share of test samples whose neighbours' majority has their class (see `knn_accuracies`).

    Args:
        train_features: `(N, D)`.
        train_labels: class indices `(N,)`.
        test_features: `(M, D)`.
        test_labels: class indices `(M,)`.
        num_neighbours: k.
        metric: distance between features.

    Raises:
        UsageError: fewer training samples than neighbours.
    """
    train = Features(embeddings=train_features, labels=train_labels)
    test = Features(embeddings=test_features, labels=test_labels)
    return float(knn_accuracies(train, test, neighbours=(num_neighbours,), metric=metric)[0, 0])


def _majority(votes_MkA: Tensor, num_classes: int) -> Tensor:
    """Return the most frequent class among k votes, `(M, A)`."""
    num_samples, _, num_attributes = votes_MkA.shape
    counts = votes_MkA.new_zeros(num_samples, num_classes, num_attributes)
    # argmax returns the first of equal counts
    return counts.scatter_add_(1, votes_MkA, torch.ones_like(votes_MkA)).argmax(dim=1)


class KnnConfig(Settings):
    """Settings of the vote."""

    title = "knn"

    neighbours: tuple[int, ...] = setting((5,), "numbers of neighbours that vote", min_length=1)
    metrics: tuple[Metric, ...] = setting(METRICS, "distances between features", min_length=1)


class Knn:
    """Accuracy on held-out images of the majority vote of the nearest training images.

    Args:
        config: settings of the vote.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: KnnConfig) -> None:
        self.config = config

    def accuracies(self, subject: Subject) -> dict[str, NDArray[np.float64]]:
        """Return the accuracies of every metric, for each k and each attribute of the labels, `(len, A)`.

        A is 0 if the images have real-valued targets only.
        """
        train, test = subject.features
        if not train.has_classes:
            return {metric: np.zeros((len(self.config.neighbours), 0)) for metric in self.config.metrics}
        return {
            metric: knn_accuracies(train, test, neighbours=self.config.neighbours, metric=metric)
            for metric in self.config.metrics
        }

    def real_accuracies(self, subject: Subject) -> dict[str, NDArray[np.float64]]:
        """Return R² of every metric, for each k and each real-valued target, `(len, R)`."""
        train, test = subject.features
        if train.reals is None:
            return {metric: np.zeros((len(self.config.neighbours), 0)) for metric in self.config.metrics}
        return {
            metric: knn_r_squared(train, test, neighbours=self.config.neighbours, metric=metric)
            for metric in self.config.metrics
        }

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return accuracies of classes and R² of real numbers, for each k, metric and attribute.

        No randomness is involved.
        """
        on = f"{len(subject.test):,} {subject.test.split}, {len(subject.train):,} {subject.train.split}"
        real_names = subject.train.real_names
        return [
            Measure(name=f"knn{k}_{name}[{metric}]", value=float(value), on=on, group=attribute)
            for name, tables in (("top1", self.accuracies(subject)), ("r2", self.real_accuracies(subject)))
            for metric, table in tables.items()
            for k, row in zip(self.config.neighbours, table, strict=True)
            for attribute, value in zip(
                attributes(subject, len(row)) if name == "top1" else real_names, row, strict=True
            )
        ]


def class_accuracies(subject: Subject, name: str, found: NDArray[np.float64]) -> list[Measure]:
    """Return accuracies of held-out images `(A,)` as measures, one for each class attribute."""
    on = f"{len(subject.test):,} {subject.test.split}, {len(subject.train):,} {subject.train.split}"
    return [
        Measure(name=name, value=float(value), on=on, group=attribute)
        for attribute, value in zip(attributes(subject, len(found)), found, strict=True)
    ]


def attributes(subject: Subject, count: int) -> tuple[str, ...]:
    """Return the names of the label's attributes (numbers if unnamed); "" for a single attribute."""
    if count == 0:
        return ()
    if count == 1 and not subject.train.real_names:
        return ("",)
    if count == 1 and not subject.train.attribute_names:
        return ("class",)
    return subject.train.attribute_names or tuple(map(str, range(count)))


ENTRY = Entry(
    name="knn",
    summary="accuracy (of real numbers R²) of nearest neighbours on the frozen backbone's features",
    settings=KnnConfig,
    needs=Knn.needs,
    build=Knn,
)
