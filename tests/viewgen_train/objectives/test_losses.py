"""The contrastive losses against double loops written from the equations."""

import math

import pytest
import torch
import torch.nn.functional as F

from viewgen_train.objectives.infonce import info_nce
from viewgen_train.objectives.simclr import simclr


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
