"""The contrastive losses against double loops written from the equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from viewgen.errors import UsageError
from viewgen_train.losses import info_nce, simclr
from viewgen_train.neighbours import knn_accuracy


@pytest.fixture(params=[(2, 3), (5, 4), (9, 16)])
def views(request):
    count, dim = request.param
    random = torch.Generator().manual_seed(count)
    z = torch.randn(2, count, dim, generator=random, dtype=torch.float64)
    return F.normalize(z, dim=2)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_is_equation_1(views, temperature):
    z = [list(map(float, row)) for row in torch.cat([views[0], views[1]])]
    count = len(views[0])
    total = 0.0
    for i in range(2 * count):
        similarity = [
            math.exp(sum(a * b for a, b in zip(z[i], z[k], strict=True)) / temperature)
            for k in range(2 * count)
        ]
        total -= math.log(similarity[(i + count) % (2 * count)] / (sum(similarity) - similarity[i]))
    assert float(simclr(views[0], views[1], temperature)) == pytest.approx(total / (2 * count), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_is_equation_5(views, temperature):
    z1, z2 = views
    count = len(z1)
    total = 0.0
    for anchors, others in ((z1, z2), (z2, z1)):
        for i in range(count):
            similarity = [math.exp(float(anchors[i] @ others[k]) / temperature) for k in range(count)]
            total -= math.log(similarity[i] / sum(similarity))
    assert float(info_nce(z1, z2, temperature)) == pytest.approx(total / (2 * count), rel=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_knn_equals_scikit_learn(metric):
    random = torch.Generator().manual_seed(0)
    train, test = torch.randn(300, 6, generator=random), torch.randn(200, 6, generator=random)
    train_labels = (train[:, 0] > 0).long() + 2 * (train[:, 1] > 0).long()
    test_labels = (test[:, 0] > 0).long() + 2 * (test[:, 1] > 0).long()
    reference = KNeighborsClassifier(5, metric=metric).fit(train.numpy(), train_labels.numpy())
    expected = reference.score(test.numpy(), test_labels.numpy())
    ours = knn_accuracy(train, train_labels, test, test_labels, metric=metric, chunk_size=64)
    assert ours == pytest.approx(expected)


def test_knn_needs_enough_samples():
    with pytest.raises(UsageError, match="5 neighbours"):
        knn_accuracy(torch.ones(3, 2), torch.zeros(3).long(), torch.ones(1, 2), torch.zeros(1).long())
