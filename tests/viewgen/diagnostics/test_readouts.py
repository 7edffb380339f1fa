"""Weighted votes of neighbours against a loop, nearest centres against scikit-learn."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestCentroid

from viewgen.diagnostics import weighted_knn as module
from viewgen.diagnostics.features import Features
from viewgen.diagnostics.knn import knn_accuracies
from viewgen.diagnostics.nearest_centre import nearest_centre_accuracies
from viewgen.diagnostics.weighted_knn import WeightedKnnConfig, weighted_knn_accuracies
from viewgen.errors import UsageError


def make_features(count: int, seed: int) -> Features:
    """Labels `(count, 2)` with three and two values, of features that tell them in part."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=random)
    noise = torch.randn(count, 3, generator=random)
    y = x[:, :3] + noise
    labels = torch.stack([(y[:, 0] > 0).long() + (y[:, 1] > 0).long(), (y[:, 2] > 0).long()], dim=1)
    return Features(embeddings=x, labels=labels)


TRAIN, TEST = make_features(120, 0), make_features(60, 1)


def loop(k, temperature):
    right = [0, 0]
    known = F.normalize(TRAIN.embeddings.double(), dim=1)
    for row in range(len(TEST)):
        cosines = known @ F.normalize(TEST.embeddings[row].double(), dim=0)
        nearest = sorted(range(len(TRAIN)), key=lambda i: -float(cosines[i]))[:k]
        for attribute in range(2):
            votes = Counter()
            for i in nearest:
                votes[int(TRAIN.labels[i, attribute])] += math.exp(float(cosines[i]) / temperature)
            right[attribute] += max(votes, key=votes.get) == int(TEST.labels[row, attribute])
    return [count / len(TEST) for count in right]


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.1), (7, 0.5), (120, 0.05)])
def test_votes_are_those_of_a_loop(k, temperature, monkeypatch):
    monkeypatch.setattr(module, "TESTED_AT_ONCE", 25)
    found = weighted_knn_accuracies(TRAIN, TEST, num_neighbours=k, temperature=temperature)
    assert found.tolist() == pytest.approx(loop(k, temperature))


def test_temperature_leads_from_the_nearest_to_the_majority():
    nearest = weighted_knn_accuracies(TRAIN, TEST, num_neighbours=9, temperature=1e-5)
    assert nearest.tolist() == pytest.approx(knn_accuracies(TRAIN, TEST, neighbours=(1,))[0].tolist())
    # without a tie: an odd number of votes for two classes
    majority = weighted_knn_accuracies(TRAIN, TEST, num_neighbours=9, temperature=1e5)
    assert majority[1] == pytest.approx(knn_accuracies(TRAIN, TEST, neighbours=(9,))[0, 1])
    capped = [weighted_knn_accuracies(TRAIN, TEST, num_neighbours=k).tolist() for k in (120, 1000)]
    assert capped[0] == capped[1]


def test_centres_are_those_of_scikit_learn():
    found = nearest_centre_accuracies(TRAIN, TEST)
    x, y = (F.normalize(part.embeddings, dim=1).numpy() for part in (TRAIN, TEST))
    for attribute in range(2):
        reference = NearestCentroid().fit(x, TRAIN.labels[:, attribute].numpy())
        assert found[attribute] == pytest.approx(reference.score(y, TEST.labels[:, attribute].numpy()))
    assert found[0] != found[1]


def test_a_class_without_training_images_is_never_chosen():
    train = Features(embeddings=torch.eye(2), labels=torch.tensor([0, 2]))
    test = Features(
        embeddings=torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.2, 1.0]]), labels=torch.tensor([0, 2, 1])
    )
    assert nearest_centre_accuracies(train, test).tolist() == pytest.approx([2 / 3])


@pytest.mark.parametrize("given", [{"temperature": 0.0}, {"neighbours": 0}])
def test_impossible_settings_are_refused(given):
    with pytest.raises(UsageError, match="weighted_knn"):
        WeightedKnnConfig(**given)
