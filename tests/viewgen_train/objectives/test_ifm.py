"""IFM of every objective that bears it; the worst perturbation of an anchor of any length; propositions."""

import math

import pytest
import torch
import torch.nn.functional as F

from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.contrast import Contrast, info_nce_of
from viewgen_train.objectives.ifm import IFM
from viewgen_train.objectives.objective import Allocated, Outputs, Widths
from viewgen_train.resolve import train_settings

TAU, EPSILON, D, N = 0.3, 0.1, 4, 6
BEARING = [name for name in OBJECTIVES.built_in if "IFM" in OBJECTIVES.entry(name).bears]


def vectors(count, seed, dim=D):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, N, dim, generator=random, dtype=torch.float64)


def value_and_gradients(objective):
    """Return the loss of two views and its gradients with respect to projections and predictions."""
    leaves = [vectors(2, seed).requires_grad_() for seed in (0, 1)]
    z, p = (F.normalize(leaf, dim=2) for leaf in leaves)
    loss = objective.loss(Outputs(z=z, p=p, target=F.normalize(vectors(2, 2), dim=2)))["loss"]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss.detach(), [one for one in gradients if one is not None]


def built(name):
    entry = OBJECTIVES.entry(name)
    fields = entry.settings.model_fields
    given = {"temperature": TAU, "queue_size": 9}
    objective = entry.build(entry.settings(**{key: one for key, one in given.items() if key in fields}))
    if isinstance(objective, Allocated):
        objective.allocate(Widths(features=D, projections=D))
        objective.double()
    return objective


def test_what_bears_ifm():
    assert set(BEARING) == {"infonce", "simclr", "supcon", "moco", "nnclr"}


@pytest.mark.parametrize("name", BEARING)
def test_no_weight_is_the_plain_objective(name):
    base = built(name)
    plain, gradients = value_and_gradients(base)
    found, ours = value_and_gradients(IFM(base, EPSILON, 0.0))
    assert torch.equal(found, plain)
    assert len(ours) == len(gradients) > 0
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
        assert float(other.abs().max()) > 1e-4


@pytest.mark.parametrize("name", BEARING)
@pytest.mark.parametrize("only", [False, True])
def test_no_perturbation_is_the_plain_objective(name, only):
    """Up to the rounding of logits that are put together in another order."""
    base = built(name)
    plain, gradients = value_and_gradients(base)
    found, ours = value_and_gradients(IFM(base, 0.0, only=only))
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-13)
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    settings = train_settings("digits", {"assimilation": "none", "objective": name, "ifm_epsilon": 0.0})
    assert not isinstance(build_objective(settings), IFM), "an epsilon of 0 is no combinator at all"


@pytest.mark.parametrize("name", BEARING)
def test_the_loss_rises_with_epsilon(name):
    base = built(name)
    losses = [
        float(value_and_gradients(IFM(base, epsilon, only=True))[0]) for epsilon in (0, 1e-3, 0.1, 0.2, 1)
    ]
    assert losses == sorted(set(losses))
    steps = torch.linspace(0, 1, 50, dtype=torch.float64)
    logits = vectors(1, 3)[0] / TAU
    plain = Contrast(positives=logits[:, :1], negatives=logits[:, 1:], temperature=TAU)
    rows = [
        torch.logaddexp(part.positives[:, 0], part.log_negatives()) - part.positives[:, 0]
        for part in (plain.shifted(float(step)) for step in steps)
    ]
    assert bool((torch.stack(rows).diff(dim=0) > 0).all()), "of each anchor"


@pytest.mark.parametrize("length", [0.3, 1.0, 2.5])
def test_an_anchor_of_another_length_scales_epsilon(length):
    """δ⁺ = −εv/‖v‖ and δ⁻ = +εv/‖v‖ move logits by ε‖v‖/τ, and nothing in the balls moves them further."""
    v = length * F.normalize(vectors(1, 4)[0, 0], dim=0)
    others = F.normalize(vectors(1, 5)[0], dim=1)

    def loss(perturbed):
        logits = perturbed @ v / TAU
        return torch.logsumexp(logits, dim=-1) - logits[..., 0]

    logits = (others @ v / TAU)[None]
    plain = Contrast(positives=logits[:, :1], negatives=logits[:, 1:], temperature=TAU)
    worst = info_nce_of(plain.shifted(EPSILON * length))
    signs = torch.tensor([-1.0, *[1.0] * (N - 1)], dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(others + EPSILON * signs * v / length), worst)
    random = torch.Generator().manual_seed(6)
    drawn = torch.randn(2000, N, D, generator=random, dtype=torch.float64)
    radius = EPSILON * torch.rand(2000, N, 1, generator=random, dtype=torch.float64) ** (1 / D)
    assert float(loss(others + radius * F.normalize(drawn, dim=2)).max()) < float(worst)
    ball = torch.zeros(N, D, dtype=torch.float64)
    for _ in range(50):
        ball.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(others + ball), ball)
        ball = ball.detach() + 100 * gradient
        ball = ball * (EPSILON / ball.norm(dim=1, keepdim=True)).clamp_max(1)
    assert float(loss(others + ball)) == pytest.approx(float(worst), abs=1e-6)


def test_a_batch_that_shares_one_feature_rewards_the_other():
    """Proposition 2.3 of Robinson et al., 2021: f = z^S has log(1 + m), f = z^{S^c} the least loss."""
    temperature, count = 0.5, 8192
    random = torch.Generator().manual_seed(0)
    shared = F.normalize(torch.randn(1, 3, generator=random).double(), dim=1).expand(count, 3)
    other = F.normalize(torch.randn(count, 3, generator=random).double(), dim=1)
    losses = {}
    for name, encoded in (("shared", shared), ("other", other)):
        anchors = encoded[:2000]
        logits = anchors @ encoded.T / temperature  # views of one image are alike: f is aligned
        found = Contrast.of_columns(logits, torch.arange(len(anchors)), temperature)
        losses[name] = float(info_nce_of(found))
    assert losses["shared"] == pytest.approx(math.log(count), abs=1e-12)
    scale = 1 / temperature
    limit = -scale + math.log(math.sinh(scale) / scale)
    # of 8192 images drawn at random; evenly spread ones come nearer
    assert losses["other"] - math.log(count) == pytest.approx(limit, abs=5e-3)
