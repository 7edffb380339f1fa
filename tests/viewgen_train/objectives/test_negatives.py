"""IFM and hard negatives against their equations, their authors' code and their limits."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy.special import gammaln, ive

from viewgen.errors import UsageError
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.assimilation import A2, build_objective
from viewgen_train.objectives.contrast import Contrast, info_nce_of
from viewgen_train.objectives.hard_negatives import HardNegatives, annealed
from viewgen_train.objectives.ifm import IFM
from viewgen_train.objectives.infonce import InfoNCE, InfoNCESettings
from viewgen_train.objectives.objective import Allocated, Outputs, Widths
from viewgen_train.objectives.simclr import SimCLR, SimCLRSettings
from viewgen_train.objectives.simsiam import SimSiam, SimSiamSettings
from viewgen_train.objectives.supcon import SupCon, SupConSettings
from viewgen_train.resolve import train_settings

TAU, EPSILON, N, D = 0.3, 0.1, 5, 4
BASES = {
    "simclr": SimCLR(SimCLRSettings(temperature=TAU)),
    "infonce": InfoNCE(InfoNCESettings(temperature=TAU)),
}
SETTINGS = {SimCLR: SimCLRSettings, InfoNCE: InfoNCESettings}
HARD = [name for name in OBJECTIVES.built_in if "hard negatives" in OBJECTIVES.entry(name).bears]


def vectors(num_views=2, count=N, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(num_views, count, D, generator=random, dtype=torch.float64).requires_grad_()


def value(objective, x, **more):
    return objective.loss(Outputs(z=F.normalize(x, dim=2), **more))["loss"]


def assert_same(loss, reference, x):
    """Compare values and gradients; the tolerance is float64 rounding over some hundred terms."""
    ours, theirs = loss(x), reference(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad(v, x)[0] for v in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert float(gradients[0].abs().max()) > 1e-3


def contrast(count=40, num_negatives=7, temperature=TAU):
    """Random contrast, whose positives take gradients."""
    random = torch.Generator().manual_seed(2)
    drawn = 2 * torch.rand(count, 1 + num_negatives, generator=random, dtype=torch.float64) - 1
    logits = (drawn / temperature).requires_grad_()
    return Contrast(positives=logits[:, :1], negatives=logits[:, 1:], temperature=temperature), logits


def anchors(name, x):
    """Yield each anchor with its positive and its negatives, as the papers' index sets have them."""
    z = [[row / row.norm() for row in view] for view in x]
    for view in (0, 1):
        for i in range(N):
            others = [z[1 - view][a] for a in range(N) if a != i]
            if name == "simclr":
                others += [z[view][a] for a in range(N) if a != i]
            yield z[view][i], z[1 - view][i], others


def loop_ifm(name, x, epsilon):
    total = 0
    for v, p, ns in anchors(name, x):
        top = torch.exp((v @ p - epsilon) / TAU)
        total = total - torch.log(top / (top + sum(torch.exp((v @ n + epsilon) / TAU) for n in ns)))
    return total / (2 * N)


def loop_hard(name, x, beta, prior, epsilon=0.0):
    """The estimator "hard" of github.com/joshr17/HCL, image/main.py."""
    total = 0
    for v, p, ns in anchors(name, x):
        pos = torch.exp((v @ p - epsilon) / TAU)
        neg = torch.stack([torch.exp((v @ n + epsilon) / TAU) for n in ns])
        importance = neg**beta
        reweighted = (importance * neg).sum() / importance.mean()
        count = len(ns)
        ng = (-prior * count * pos + reweighted) / (1 - prior)
        ng = torch.clamp(ng, min=count * math.exp(-1 / TAU))
        total = total - torch.log(pos / (pos + ng))
    return total / (2 * N)


@pytest.mark.parametrize("name", BASES)
def test_ifm_is_equation_2(name):
    base, x = BASES[name], vectors()
    assert_same(lambda x: value(IFM(base, EPSILON, only=True), x), lambda x: loop_ifm(name, x, EPSILON), x)
    assert_same(
        lambda x: value(IFM(base, EPSILON, 0.5), x),
        lambda x: (loop_ifm(name, x, 0) + 0.5 * loop_ifm(name, x, EPSILON)) / 1.5,
        x,
    )
    losses = IFM(base, EPSILON).loss(Outputs(z=F.normalize(x, dim=2)))
    assert torch.equal(losses["unperturbed_loss"], value(base, x))


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(("beta", "prior"), [(0.0, 0.1), (1.0, 0.0), (1.5, 0.1), (0.5, 0.6)])
def test_hard_negatives_are_those_of_the_authors(name, beta, prior):
    base, x = BASES[name], vectors()
    hard = HardNegatives(base, beta, prior)
    assert_same(lambda x: value(hard, x), lambda x: loop_hard(name, x, beta, prior), x)
    # over them, IFM first shifts the logits
    assert_same(
        lambda x: value(IFM(hard, EPSILON, only=True), x),
        lambda x: loop_hard(name, x, beta, prior, EPSILON),
        x,
    )


@pytest.mark.parametrize("name", BASES)
def test_what_is_off_changes_nothing(name):
    base, x = BASES[name], vectors()
    plain = value(base, x)
    assert torch.equal(value(IFM(base, EPSILON, 0.0), x), plain)
    for objective in (IFM(base, EPSILON, 0.0), IFM(base, 0.0), HardNegatives(base, 0.0)):
        assert_same(partial(value, objective), partial(value, base), x)
    for objective in (IFM(base, 0.0, only=True), HardNegatives(base, 0.0), HardNegatives(base, 1e-12)):
        torch.testing.assert_close(value(objective, x), plain)
    torch.testing.assert_close(value(IFM(base, EPSILON, 1e12), x), value(IFM(base, EPSILON, only=True), x))


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 1.0])
def test_ifm_is_a_function_of_the_loss(epsilon):
    """ℓ_ε = log(1 + e^{2ε/τ}·(e^ℓ − 1)), between ℓ and ℓ + 2ε/τ, with the gradient of ℓ times a factor."""
    plain, logits = contrast()
    losses = [
        torch.stack([info_nce_of(_row(part, i)) for i in range(len(plain.positives))])
        for part in (plain, plain.shifted(epsilon))
    ]
    strength = math.exp(2 * epsilon / TAU)
    torch.testing.assert_close(losses[1], torch.log1p(strength * torch.expm1(losses[0])))
    assert bool((losses[1] >= losses[0]).all())
    assert bool((losses[1] - losses[0] <= 2 * epsilon / TAU + 1e-12).all())
    gradients = [torch.autograd.grad(part.sum(), logits, retain_graph=True)[0] for part in losses]
    factor = strength * losses[0].exp() / (1 + strength * torch.expm1(losses[0]))
    torch.testing.assert_close(gradients[1], factor.detach()[:, None] * gradients[0])
    assert bool(((factor >= 1) & (factor <= strength)).all())


def _row(part, i):
    return Contrast(positives=part.positives[i : i + 1], negatives=part.negatives[i : i + 1], temperature=TAU)


def test_no_perturbation_of_size_epsilon_is_worse():
    x = vectors(1, 8)[0].detach()
    v, others = F.normalize(x[0], dim=0), F.normalize(x[1:], dim=1)

    def loss(perturbed):
        logits = perturbed @ v / TAU
        return torch.logsumexp(logits, dim=-1) - logits[..., 0]

    signs = torch.tensor([-1.0, *[1.0] * 6], dtype=torch.float64)[:, None]
    worst = loss(others + EPSILON * signs * v)
    logits = (others @ v / TAU)[None]
    plain = Contrast(positives=logits[:, :1], negatives=logits[:, 1:], temperature=TAU)
    torch.testing.assert_close(info_nce_of(plain.shifted(EPSILON)), worst)
    random = torch.Generator().manual_seed(3)
    drawn = torch.randn(2000, 7, D, generator=random, dtype=torch.float64)
    radius = EPSILON * torch.rand(2000, 7, 1, generator=random, dtype=torch.float64) ** (1 / D)
    assert float(loss(others + radius * F.normalize(drawn, dim=2)).max()) < float(worst)
    ball = torch.zeros(7, D, dtype=torch.float64)
    for _ in range(50):
        ball.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(others + ball), ball)
        ball = ball.detach() + 10 * gradient
        ball = ball * (EPSILON / ball.norm(dim=1, keepdim=True)).clamp_max(1)
    assert float(loss(others + ball)) == pytest.approx(float(worst), abs=1e-6)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_small_temperatures_and_large_hardness_are_finite(base):
    """The published form has e^{7·20} = 10⁶⁰ in float32."""
    sharp = type(base)(SETTINGS[type(base)](temperature=0.05))
    x = vectors(count=8).detach().bfloat16().requires_grad_()
    for prior in (0.0, 0.1):
        loss = value(IFM(HardNegatives(sharp, 6.0, prior), 0.1), x)
        (gradient,) = torch.autograd.grad(loss, x)
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(gradient).all())
        exact = value(IFM(HardNegatives(sharp, 6.0, prior), 0.1), x.detach().double())
        assert float(loss.detach()) == pytest.approx(float(exact), rel=0.05)  # bfloat16 has 8 bits


def test_hardness_has_the_limits_of_its_paper():
    plain = contrast()[0]
    plain = replace(plain, positives=plain.positives.detach(), negatives=plain.negatives.detach())
    count = plain.negatives.shape[1]
    hardest = _weighted(plain, 500.0)
    expected = math.log(count) + plain.negatives.max(dim=1).values
    torch.testing.assert_close(hardest.log_negatives(), expected, rtol=1e-6, atol=0.02)
    torch.testing.assert_close(
        hardest.mean_negative(), plain.negatives.max(dim=1).values, rtol=1e-6, atol=0.02
    )
    torch.testing.assert_close(_weighted(plain, 0.0).mean_negative(), plain.negatives.mean(dim=1))
    # a prior that explains more than all negatives leaves the least possible sum
    least = _weighted(plain, 0.0, 0.99).log_negatives()
    assert float(least.min()) == pytest.approx(math.log(count) - 1 / TAU)


def _weighted(plain, hardness, class_prior=0.0):
    return replace(plain, hardness=hardness, class_prior=class_prior)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_hard_negatives_of_gaussian_similarities(beta):
    """Weights e^{βs/τ} move a Gaussian of mean μ and deviation σ by βσ²/τ."""
    mean, deviation, temperature = 0.1, 0.15, 0.4
    quantiles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    similarity = mean + deviation * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)
    negatives = (similarity / temperature)[None]
    found = Contrast(positives=negatives[:, :1], negatives=negatives, temperature=temperature, hardness=beta)
    expected = mean / temperature + (1 + 2 * beta) * deviation**2 / (2 * temperature**2)
    assert float(found.log_negatives()) - math.log(200_000) == pytest.approx(expected, abs=1e-3)
    moved = (mean + beta * deviation**2 / temperature) / temperature
    assert float(found.mean_negative()) == pytest.approx(moved, abs=1e-3)


def _fibonacci(count):
    """Evenly spread points of the unit sphere in three dimensions, `(count, 3)`."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height, angle = 1 - 2 * index / count, math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=1)


@pytest.mark.parametrize(("temperature", "limit"), [(0.1, -2.9957), (0.2, -2.3026), (0.5, -1.4048)])
def test_aligned_and_uniform_features_have_the_loss_of_the_sphere(temperature, limit):
    """ℓ − log M → −1/τ + log(τ·sinh(1/τ)) in three dimensions; in d of them, with Bessel's I_{d/2−1}(1/τ)."""
    scale = 1 / temperature
    assert -scale + math.log(temperature * math.sinh(scale)) == pytest.approx(limit, abs=1e-4)
    order = 0.5  # d/2 − 1
    bessel = float(gammaln(1.5) + order * math.log(2 * temperature) + math.log(ive(order, scale)))
    assert bessel == pytest.approx(limit, abs=1e-4)
    count = 20_000
    negatives = F.normalize(vectors(1, 3)[0, :, :3].detach(), dim=1) @ _fibonacci(count).T / temperature
    found = Contrast(
        positives=torch.full((3, 1), scale, dtype=torch.float64), negatives=negatives, temperature=temperature
    )
    assert float(info_nce_of(found)) - math.log(count) == pytest.approx(limit, abs=1e-3)


def test_the_loss_does_not_tell_which_of_two_features_is_encoded():
    """Proposition 2.2 of Robinson et al., 2021: either is a minimiser, and suppresses the other."""
    both = F.normalize(torch.randn(2, 4096, 3, generator=torch.Generator().manual_seed(0)).double(), dim=2)
    objective = SimCLR(SimCLRSettings(temperature=0.5))
    losses, read = [], []
    for encoded in both:
        losses.append(float(value(objective, encoded[None].repeat(2, 1, 1))) - math.log(2 * 4096))
        # the hemisphere in which the second feature lies, by least squares on one half, read on the other
        label = both[1][:, :1].sign()
        weights = torch.linalg.lstsq(encoded[:2048], label[:2048]).solution
        read.append(float((encoded[2048:] @ weights).sign().eq(label[2048:]).double().mean()))
    assert losses == pytest.approx([-1.4048] * 2, abs=5e-3), "the minimum, of aligned and uniform features"
    assert read[0] == pytest.approx(0.5, abs=0.04)
    assert read[1] > 0.98


def test_ifm_of_several_positives_moves_all_of_them():
    z = F.normalize(vectors(4), dim=2)
    for kind in ("all", "expert"):
        base = SupCon(SupConSettings(temperature=TAU, anchors=kind))
        found = A2(IFM(base, EPSILON, only=True), 2, 1.0).loss(Outputs(z=z))["loss"]
        count = 4 if kind == "all" else 2
        total = 0
        for view in range(count):
            for i in range(N):
                logits = {
                    (k, n): z[view, i] @ z[k, n] + (-EPSILON if n == i else EPSILON)
                    for k in range(4)
                    for n in range(N)
                    if (k, n) != (view, i)
                }
                below = sum(torch.exp(s / TAU) for (k, _), s in logits.items() if k < count)
                positives = [torch.log(torch.exp(logits[k, i] / TAU) / below) for k in range(4) if k != view]
                total = total - sum(positives) / 3
        torch.testing.assert_close(found, total / (count * N))


@pytest.mark.parametrize("kind", ["A1", "A2"])
def test_assimilation_over_ifm_leaves_the_attraction_alone(kind):
    given = {"assimilation": kind, "objective": "simclr", "temperature": TAU, "ifm_epsilon": EPSILON,
             "hardness": 1.0, "ifm_only": True, "views_per_step": 2}  # fmt: skip
    z = F.normalize(vectors(2 + (kind == "A2") + 1), dim=2)
    found = build_objective(train_settings("digits", given)).loss(Outputs(z=z))["loss"]
    if kind == "A2":
        pull = -((z[0] + z[1]) * z[2:].mean(dim=0)).sum(dim=1).mean() / (2 * TAU)
        expected = loop_hard("simclr", z[:2], 1.0, 0.0, EPSILON) + 0.5 * pull
    else:
        expected = sum(loop_hard("simclr", z[[0, k]], 1.0, 0.0, EPSILON) for k in (1, 2)) / 2
    torch.testing.assert_close(found, expected)


def built(name, **settings):
    """Return an objective with its queue, if it has one, filled with unit vectors."""
    entry = OBJECTIVES.entry(name)
    objective = entry.build(entry.settings(**settings))
    if isinstance(objective, Allocated):
        objective.allocate(Widths(features=D, projections=D))
        objective.double()
    return objective


def step(count=6, **more):
    """Return outputs of two views with everything that an objective with negatives uses."""
    z, p, target = (F.normalize(vectors(count=count, seed=seed), dim=2) for seed in (0, 5, 6))
    return Outputs(z=z, p=p, target=target.detach(), **more)


@pytest.mark.parametrize("name", HARD)
def test_a_small_temperature_and_large_hardness_are_finite_for_every_objective(name):
    settings = OBJECTIVES.entry(name).settings
    sharp = built(name, **({"temperature": 0.05} if "temperature" in settings.model_fields else {}))
    if isinstance(sharp, torch.nn.Module):
        sharp.bfloat16()
    out = step()
    leaf = out.z.detach().bfloat16().requires_grad_()
    p = out.p.detach().bfloat16().requires_grad_()  # of NNCLR's, z only chooses neighbours
    low = replace(out, z=leaf, p=p, target=out.target.bfloat16())
    loss = HardNegatives(sharp, 6.0).loss(low)["loss"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    gradients = [one.grad for one in (leaf, p) if one.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("name", HARD)
def test_every_objective_with_negatives_weights_them(name):
    """More hardness, more loss: hard negatives are the similar ones."""
    plain, random = built(name), torch.Generator().manual_seed(4)
    losses = [float(HardNegatives(plain, beta).loss(step())["loss"].detach()) for beta in (0.0, 1.0, 2.0)]
    assert losses[0] == pytest.approx(float(plain.loss(step())["loss"].detach()))
    assert losses[0] < losses[1] < losses[2]
    assert float(HardNegatives(plain, 0.0, 0.1).loss(step())["loss"].detach()) != pytest.approx(losses[0])
    weights = torch.rand(2, 6, generator=random, dtype=torch.float64)
    weighted = [each.loss(step(weights=weights))["loss"] for each in (HardNegatives(plain, 0.0), plain)]
    torch.testing.assert_close(*weighted)
    assert float(weighted[0].detach()) != pytest.approx(losses[0])


@pytest.mark.parametrize("symmetric", [False, True])
def test_ifm_and_hard_negatives_over_mocos_queue(symmetric):
    """The positive logit − ε and the queue's logits + ε, before the division by τ."""
    moco = built("moco", temperature=TAU, queue_size=9, symmetric=symmetric)
    out, queue = step(), moco.queue.keys
    total, views = 0, (0, 1) if symmetric else (0,)
    for view in views:
        for q, k in zip(out.z[view], out.target[1 - view], strict=True):
            positive, negatives = torch.exp((q @ k - EPSILON) / TAU), torch.exp((queue @ q + EPSILON) / TAU)
            hard = (negatives**1.5 * negatives).sum() / (negatives**1.5).mean()
            total = total - torch.log(positive / (positive + hard))
    over = IFM(HardNegatives(moco, 1.5), EPSILON, only=True)
    torch.testing.assert_close(over.loss(out)["loss"], total / (len(views) * 6))
    before = moco.queue.keys.clone()
    over.after_step(out.detach())
    assert not torch.equal(moco.queue.keys, before)
    assert {"base.base.queue.keys"} <= over.state_dict().keys()


def test_hardness_is_annealed_in_nine_steps():
    steps = [annealed(2.0, progress) for progress in (0.0, 0.11, 0.12, 0.5, 0.88, 0.89, 0.999)]
    assert steps == pytest.approx([2, 2, 1.75, 1, 0.5, 0, 0], abs=0.26)
    assert steps[-1] == 0
    base, x = BASES["simclr"], vectors()
    falling = HardNegatives(base, 2.0, annealing=True)
    torch.testing.assert_close(value(falling, x, progress=0.5), value(HardNegatives(base, 1.0), x))
    torch.testing.assert_close(value(falling, x, progress=0.95), value(base, x))


def test_an_objective_without_negatives_is_refused():
    for combinator in (lambda base: IFM(base, 0.1), lambda base: HardNegatives(base, 1.0)):
        with pytest.raises(UsageError, match=r"SimSiam has no negatives; choose another --objective"):
            combinator(SimSiam(SimSiamSettings()))
