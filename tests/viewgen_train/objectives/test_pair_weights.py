"""Pair-quality weights against closed forms and double loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from viewgen.errors import UsageError
from viewgen_train.objectives.align_logsumexp import AlignLogSumExp, AlignLogSumExpSettings
from viewgen_train.objectives.alignment import alignment
from viewgen_train.objectives.assimilation import A1, A2
from viewgen_train.objectives.decoupled import Decoupled, DecoupledSettings
from viewgen_train.objectives.hard_negatives import HardNegatives
from viewgen_train.objectives.ifm import IFM
from viewgen_train.objectives.infonce import InfoNCE, InfoNCESettings
from viewgen_train.objectives.linear import Linear, LinearSettings
from viewgen_train.objectives.objective import Outputs
from viewgen_train.objectives.pair_weights import pair_weights
from viewgen_train.objectives.simclr import SimCLR, SimCLRSettings
from viewgen_train.objectives.simsiam import SimSiam, SimSiamSettings
from viewgen_train.resolve import train_settings

N, D = 6, 5
BASES = [
    SimCLR(SimCLRSettings()),
    InfoNCE(InfoNCESettings()),
    SimSiam(SimSiamSettings()),
    Decoupled(DecoupledSettings()),
    AlignLogSumExp(AlignLogSumExpSettings()),
    Linear(LinearSettings()),
    IFM(HardNegatives(InfoNCE(InfoNCESettings()), 1.0), 0.1),
]


def outputs(num_views, weights=None):
    random = torch.Generator().manual_seed(0)
    z, p = (
        F.normalize(torch.randn(num_views, N, D, generator=random, dtype=torch.float64), dim=2) for _ in "zp"
    )
    return Outputs(z=z, p=p, weights=weights)


def random_weights(num_generated):
    random = torch.Generator().manual_seed(1)
    return pair_weights(torch.randn(num_generated, N, generator=random, dtype=torch.float64), 1.0)


def test_weights_are_genviews():
    scores = torch.tensor([[0.0, 1.0, 2.0, math.nan]])
    total = 1 + math.e + math.e**2 + 1
    expected = [4 / total, 4 * math.e / total, 4 * math.e**2 / total, 4 / total]
    assert pair_weights(scores, 1.0)[0].tolist() == pytest.approx(expected)
    assert pair_weights(scores, 0.0)[0].tolist() == [1.0] * 4
    doubled = pair_weights(2 * scores, 1.0)
    torch.testing.assert_close(pair_weights(scores, 2.0), doubled)


@pytest.mark.parametrize("base", BASES, ids=lambda base: type(base).__name__)
def test_weights_of_1_change_nothing_and_a_weight_belongs_to_its_image(base):
    plain = base.loss(outputs(2))["loss"]
    ones = torch.ones(2, N, dtype=torch.float64)
    torch.testing.assert_close(base.loss(outputs(2, ones))["loss"], plain)
    # all weight on one pair after the other sums up to the plain loss of all
    alone = [F.one_hot(torch.tensor(i), N).double().expand(2, -1) for i in range(N)]
    parts = torch.stack([base.loss(outputs(2, weights))["loss"] for weights in alone])
    torch.testing.assert_close(parts.sum(), plain)
    weights = random_weights(2)
    found = base.loss(outputs(2, weights))["loss"]
    torch.testing.assert_close(found, (parts * weights.mean(dim=0)).sum())


@pytest.mark.parametrize("base", BASES, ids=lambda base: type(base).__name__)
def test_a1_weights_each_generated_view_by_its_own(base):
    weights = random_weights(3)
    found = A1(base, 3).loss(outputs(4, weights))["loss"]
    out = outputs(4)
    parts = []
    for view in (1, 2, 3):
        pair = Outputs(z=out.z[[0, view]], p=out.p[[0, view]], weights=weights[view - 1 : view])
        parts.append(base.loss(pair)["loss"])
    torch.testing.assert_close(found, torch.stack(parts).mean())


def test_a2_weights_the_alignment_and_not_the_expert_pair():
    weights = random_weights(2)
    out = outputs(4, weights)
    base = BASES[0]
    found = A2(base, 2, 0.5).loss(out)["loss"]
    aligned = 0.0
    for image in range(N):
        for view in range(2):
            pair = (out.z[0, image] + out.z[1, image]) @ out.z[2 + view, image]
            aligned += weights[view, image] * pair / (2 * base.temperature) / (2 * N)
    plain = base.loss(Outputs(z=out.z[:2]))["loss"]
    torch.testing.assert_close(found, plain - 0.5 * aligned)
    torch.testing.assert_close(alignment(out.z[0], out.z[1], out.z[2:], base.temperature, weights), aligned)


def test_a2_of_simsiam_weights_generated_predictions():
    weights = random_weights(2)
    out, base = outputs(4, weights), BASES[2]
    found = A2(base, 2, 0.5).loss(out)["loss"]
    cosines = torch.stack([F.cosine_similarity(out.p[2:], out.z[i], dim=2) for i in range(2)])
    plain = base.loss(Outputs(z=out.z[:2], p=out.p[:2]))["loss"]
    torch.testing.assert_close(found, plain - 0.5 * (weights * cosines).mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_weight": 1.0}, "need a score"),
        ({"drop_below": 0.1}, "need a score"),
        ({"score": "density"}, "would be ignored"),
        ({"score": "density", "drop_below": 1.0}, "drop_below"),
        ({"score": "density", "score_weight": 1.0, "assimilation": "A2-full"}, "'supcon' would ignore"),
        ({"score": "density", "score_weight": 1.0, "generated": "viewmaker"}, "score"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", settings)
