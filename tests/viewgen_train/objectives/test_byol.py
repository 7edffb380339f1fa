"""BYOL against double loops over its equation."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from viewgen.errors import UsageError
from viewgen.networks.torchvision_import import import_torchvision
from viewgen_train.network import momentum
from viewgen_train.objectives.assimilation import A1, A2
from viewgen_train.objectives.byol import BYOL, BYOLSettings, byol
from viewgen_train.objectives.objective import Head, Outputs
from viewgen_train.resolve import train_settings

N, D, ALPHA = 4, 5, 0.7
OBJECTIVE = BYOL(BYOLSettings())


def vectors(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, D, generator=random, dtype=torch.float64)


def outputs(views):
    return Outputs(
        z=vectors(views, N, seed=2),
        p=vectors(views, N).requires_grad_(),
        target=vectors(views, N, seed=1).requires_grad_(),
    )


def loop(predictions, targets):
    total = torch.zeros((), dtype=torch.float64)
    for p, t in zip(predictions, targets, strict=True):
        lengths = torch.sqrt(sum(a * a for a in p)) * torch.sqrt(sum(b * b for b in t.detach()))
        total = total + 2 - 2 * sum(a * b for a, b in zip(p, t.detach(), strict=True)) / lengths
    return total / len(predictions)


def same(loss, expected, out):
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    gradient, to_target = torch.autograd.grad(loss, (out.p, out.target), allow_unused=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, out.p)[0], rtol=1e-10, atol=1e-13)
    assert to_target is None
    assert float(gradient.abs().max()) > 1e-3


def test_the_loss_is_the_mean_of_both_directions():
    out = outputs(2)
    expected = (loop(out.p[0], out.target[1]) + loop(out.p[1], out.target[0])) / 2
    same(OBJECTIVE.loss(out)["loss"], expected, out)


def test_equal_vectors_have_loss_0_and_opposite_ones_4():
    x = vectors(2, N)
    pairs = {0.0: Outputs(z=x, p=x, target=3 * x.flip(0)), 4.0: Outputs(z=x, p=x, target=-x.flip(0))}
    for expected, out in pairs.items():
        assert float(OBJECTIVE.loss(out)["loss"]) == pytest.approx(expected, abs=1e-12)


def test_a1_is_the_mean_over_pairs_with_a_generated_view():
    out = outputs(3)
    losses = [(loop(out.p[0], out.target[k]) + loop(out.p[k], out.target[0])) / 2 for k in (1, 2)]
    same(A1(OBJECTIVE, 2).loss(out)["loss"], sum(losses) / 2, out)


def test_a2_draws_generated_predictions_towards_the_targets_of_expert_views():
    out = outputs(4)
    base = (loop(out.p[0], out.target[1]) + loop(out.p[1], out.target[0])) / 2
    drawn = sum(loop(out.p[k], out.target[i]) for k in (2, 3) for i in (0, 1)) / 4
    same(A2(OBJECTIVE, 2, ALPHA).loss(out)["loss"], base + ALPHA * drawn, out)


def test_a_weight_belongs_to_its_image():
    out = outputs(2)
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    found = byol(out.p[0], out.target[1], weights)
    torch.testing.assert_close(found, loop(out.p[0, 2:3], out.target[1, 2:3]) / N)


def test_lightly_agrees():
    pytest.importorskip("lightly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_torchvision("ops")
        from lightly.loss import NegativeCosineSimilarity
    out, distance = outputs(2), NegativeCosineSimilarity()
    halves = (distance(out.p[0], out.target[1].detach()) + distance(out.p[1], out.target[0].detach())) / 2
    same(OBJECTIVE.loss(out)["loss"], 2 + 2 * halves, out)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_decay_rises_on_a_cosine(share):
    expected = 1 - (1 - 0.9) * (math.cos(math.pi * share) + 1) / 2
    assert momentum(Head(momentum=0.9, final_momentum=1.0), share) == pytest.approx(expected)
    assert momentum(Head(momentum=0.9), share) == 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_momentum": 1.0}, "target_momentum is 1.0"),
        ({"final_target_momentum": 0.5}, r"final_target_momentum is 0.5, below target_momentum 0.99"),
        ({"queue_size": 10}, "queue_size is a setting of moco, nnclr"),
        ({"temperature": 0.1}, "temperature is a setting of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", {"assimilation": "none", "objective": "byol", **settings})


def test_the_loss_is_one_of_directions_only():
    """Normalising again changes nothing, as for SimSiam."""
    out = outputs(2)
    directions = Outputs(z=out.z, p=F.normalize(out.p, dim=2), target=F.normalize(out.target, dim=2))
    torch.testing.assert_close(OBJECTIVE.loss(out)["loss"], OBJECTIVE.loss(directions)["loss"])
