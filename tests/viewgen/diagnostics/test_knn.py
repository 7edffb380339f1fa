"""Nearest neighbours against scikit-learn and against a loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from viewgen.diagnostics import knn
from viewgen.diagnostics.features import Features
from viewgen.diagnostics.knn import knn_accuracies, knn_accuracy, nearest_neighbours
from viewgen.errors import UsageError


def make_features(count: int, seed: int) -> Features:
    """Labels `(count, 2)` with three and two values; features of different norms, so that metrics differ."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=random) * torch.rand(count, 1, generator=random).mul(3).exp()
    labels = torch.stack([(x[:, 0] > 0).long() + (x[:, 1] > 0).long(), (x[:, 2] > 0).long()], dim=1)
    return Features(embeddings=x, labels=labels)


TRAIN, TEST = make_features(300, 0), make_features(200, 1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_votes_are_those_of_scikit_learn(metric):
    """Even k have ties, which both give to the lowest class."""
    neighbours = (5, 1, 4, 20)
    found = knn_accuracies(TRAIN, TEST, neighbours=neighbours, metric=metric)
    for row, k in enumerate(neighbours):
        for attribute in range(2):
            reference = KNeighborsClassifier(k, metric=metric, algorithm="brute")
            reference.fit(TRAIN.embeddings.numpy(), TRAIN.labels[:, attribute].numpy())
            expected = reference.score(TEST.embeddings.numpy(), TEST.labels[:, attribute].numpy())
            assert found[row, attribute] == pytest.approx(expected), (k, attribute)
            single = knn_accuracy(
                TRAIN.embeddings, TRAIN.labels[:, attribute], TEST.embeddings, TEST.labels[:, attribute],
                num_neighbours=k, metric=metric,
            )  # fmt: skip
            assert single == found[row, attribute]
    assert len(set(found.ravel())) > 4


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("chunk_size", [None, 64, 1])
def test_neighbours_are_those_of_scikit_learn(metric, chunk_size):
    found = nearest_neighbours(
        TRAIN.embeddings, TEST.embeddings, num_neighbours=7, metric=metric, chunk_size=chunk_size
    )
    reference = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute")
    expected = reference.fit(TRAIN.embeddings.double().numpy()).kneighbors(
        TEST.embeddings.double().numpy(), return_distance=False
    )
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("num_train", "k"), [(300, 5), (257, 1), (300, 16), (300, 300), (17, 1)])
def test_neighbours_of_any_number_are_those_of_a_sort(metric, num_train, k):
    """Groups of columns of every size, with and without a rest, and none."""
    train, test = TRAIN.embeddings[:num_train].double(), TEST.embeddings.double()
    if metric == "cosine":
        nearness = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    else:
        nearness = -torch.cdist(test, train)
    found = nearest_neighbours(train, test, num_neighbours=k, metric=metric)
    assert torch.equal(found, nearness.argsort(dim=1, descending=True)[:, :k])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_faiss_finds_the_same_neighbours_where_it_is_asked(metric, monkeypatch):
    pytest.importorskip("faiss")
    train, test = TRAIN.embeddings, TEST.embeddings
    expected = nearest_neighbours(train, test, num_neighbours=7, metric=metric)
    monkeypatch.setattr(knn, "FAISS_PAIRS", 1)
    asked = []
    by_faiss = knn._faiss_neighbours
    monkeypatch.setattr(knn, "_faiss_neighbours", lambda *given: asked.append(1) or by_faiss(*given))
    found = nearest_neighbours(train.T.contiguous().T, test, num_neighbours=7, metric=metric)
    assert torch.equal(found, expected)
    assert found.dtype == torch.int64
    test = test.clone()
    test[3, 2] = torch.nan  # of which faiss says that there are no neighbours
    assert nearest_neighbours(train, test, num_neighbours=7, metric=metric).shape == (200, 7)
    nearest_neighbours(train.double(), TEST.embeddings.double(), num_neighbours=7, metric=metric)
    assert len(asked) == 1


def test_the_metrics_differ():
    cosine, euclidean = (
        nearest_neighbours(TRAIN.embeddings, TEST.embeddings, num_neighbours=5, metric=metric)
        for metric in ("cosine", "euclidean")
    )
    assert not torch.equal(cosine, euclidean)


def test_a_sample_is_its_own_nearest_neighbour():
    found = nearest_neighbours(TRAIN.embeddings, TRAIN.embeddings, num_neighbours=1, metric="euclidean")
    assert found[:, 0].tolist() == list(range(len(TRAIN)))


def test_what_cannot_be_asked_is_refused():
    few = Features(embeddings=torch.ones(3, 2), labels=torch.zeros(3).long())
    with pytest.raises(UsageError, match="5 neighbours were asked of 3"):
        knn_accuracies(few, few)
    with pytest.raises(UsageError, match="0 neighbours"):
        knn_accuracies(few, few, neighbours=(0,))
    with pytest.raises(UsageError, match="did you mean 'euclidean'"):
        knn_accuracies(few, few, neighbours=(1,), metric="euclid")
