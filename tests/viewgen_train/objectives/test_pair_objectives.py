"""Losses of two views, values and gradients, against double loops, limits and other libraries."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.torchvision_import import import_torchvision
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.barlow_twins import cross_correlation
from viewgen_train.objectives.objective import Outputs
from viewgen_train.objectives.simclr import simclr
from viewgen_train.resolve import train_settings

TAU, LAMBDA, ALPHA = 0.3, 0.7, 0.4
SCALE = 1.5  # t of the uniformity
N, D = 5, 4


def loss_of(name, **settings):
    """Return an objective as a function of vectors of any length, `(2, N, D)`."""
    built = OBJECTIVES.entry(name).build(OBJECTIVES.entry(name).settings(**settings))
    unit = built.head.unit
    return lambda x: built.loss(Outputs(z=F.normalize(x, dim=2) if unit else x))["loss"]


def vectors(num_views=2, count=N, dim=D, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(num_views, count, dim, generator=random, dtype=torch.float64).requires_grad_()


def assert_same(loss, reference, x):
    """Compare values and gradients; the tolerance is float64 rounding over some hundred terms."""
    ours, theirs = loss(x), reference(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    gradients = [torch.autograd.grad(value, x)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert float(gradients[0].abs().max()) > 1e-3


def anchors(x):
    """Yield each of the 2N unit vectors with its positive and its 2N − 2 negatives."""
    z = [row / row.norm() for row in x.flatten(0, 1)]
    for i in range(2 * N):
        pair = (i + N) % (2 * N)
        yield z[i], z[pair], [z[a] for a in range(2 * N) if a not in (i, pair)]


def mean(values):
    return sum(values) / len(values)


def loop_decoupled(x):
    return mean(
        [-v @ p / TAU + torch.log(sum(torch.exp(v @ n / TAU) for n in ns)) for v, p, ns in anchors(x)]
    )


def loop_align_logsumexp(x):
    return mean(
        [
            (v - p).square().sum() + LAMBDA * torch.log(sum(torch.exp(v @ n / TAU) for n in ns))
            for v, p, ns in anchors(x)
        ]
    )


def loop_linear(x):
    return mean([-v @ p + LAMBDA * mean([v @ n for n in ns]) for v, p, ns in anchors(x)])


def loop_align_uniform(x):
    z = x / x.norm(dim=2, keepdim=True)
    aligned = mean([(a - b).square().sum() for a, b in zip(*z, strict=True)])
    uniform = [
        torch.log(
            mean(
                [
                    torch.exp(-SCALE * (view[i] - view[j]).square().sum())
                    for i in range(N)
                    for j in range(N)
                    if i != j
                ]
            )
        )
        for view in z
    ]
    return aligned + LAMBDA * mean(uniform)


def loop_barlow_twins(x):
    total = torch.zeros((), dtype=x.dtype)
    for i in range(D):
        for j in range(D):
            a, b = x[0, :, i], x[1, :, j]
            a, b = a - mean(list(a)), b - mean(list(b))
            c = mean(list(a * b)) / (mean(list(a * a)).sqrt() * mean(list(b * b)).sqrt())
            total = total + ((1 - c) ** 2 if i == j else LAMBDA * c**2)
    return total


def loop_vicreg(x):
    invariance = mean([(a - b) ** 2 for a, b in zip(x[0].flatten(), x[1].flatten(), strict=True)])
    variance, covariance = [], []
    for view in x:
        centred = view - mean(list(view))
        for i in range(D):
            deviation = (sum(centred[:, i] ** 2) / (N - 1) + 1e-4).sqrt()
            variance.append(torch.relu(1 - deviation))
            for j in range(D):
                if j != i:
                    covariance.append((sum(centred[:, i] * centred[:, j]) / (N - 1)) ** 2 / D)
    return 3.0 * invariance + 2.0 * mean(variance) + 0.5 * sum(covariance)


LOOPS = {
    "decoupled": (loop_decoupled, {"temperature": TAU}),
    "align-logsumexp": (loop_align_logsumexp, {"temperature": TAU, "logsumexp_weight": LAMBDA}),
    "linear": (loop_linear, {"negative_weight": LAMBDA}),
    "align-uniform": (loop_align_uniform, {"uniformity_weight": LAMBDA, "uniformity_scale": SCALE}),
    "barlow-twins": (loop_barlow_twins, {"off_diagonal_weight": LAMBDA}),
    "vicreg": (
        loop_vicreg, {"invariance_weight": 3.0, "variance_weight": 2.0, "covariance_weight": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_losses_are_their_printed_equations(name):
    reference, settings = LOOPS[name]
    assert_same(loss_of(name, **settings), reference, vectors())


def test_other_libraries_agree():
    pytest.importorskip("lightly")
    pytest.importorskip("pytorch_metric_learning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries' own imports warn of
        import_torchvision("ops")
        from lightly.loss import BarlowTwinsLoss, DCLLoss, VICRegLoss
        from pytorch_metric_learning.losses import VICRegLoss as PairVICReg
    x = vectors(count=9)
    assert_same(loss_of("decoupled", temperature=TAU), lambda x: DCLLoss(temperature=TAU)(x[0], x[1]), x)
    assert_same(loss_of("vicreg"), lambda x: VICRegLoss()(x[0], x[1]), x)
    assert_same(
        loss_of("vicreg"), lambda x: PairVICReg(invariance_lambda=25, variance_mu=25)(x[0], ref_emb=x[1]), x
    )
    # their normalisation adds 10⁻⁵ to variances, which is little of variances of 10¹²
    large = (1e6 * x).detach().requires_grad_()
    ours, theirs = loss_of("barlow-twins")(large), BarlowTwinsLoss(lambda_param=0.0051)(large[0], large[1])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def whitened(count, dim):
    """Vectors of mean 0 whose dimensions are uncorrelated and have a biased deviation of 1."""
    x = vectors(1, count, dim)[0].detach()
    q, _ = torch.linalg.qr(x - x.mean(dim=0))
    return q * math.sqrt(count)


def test_the_diagonal_of_equal_views_is_one():
    z = whitened(9, D)
    torch.testing.assert_close(cross_correlation(z, z), torch.eye(D, dtype=z.dtype), rtol=0, atol=1e-12)
    loss = loss_of("barlow-twins", off_diagonal_weight=LAMBDA)
    assert float(loss(torch.stack([z, z]))) < 1e-20
    flipped = z.clone()
    flipped[:, 1] *= -1
    assert float(loss(torch.stack([z, flipped]))) == pytest.approx(4)


def test_correlations_do_not_depend_on_scale_and_shift():
    z1, z2 = vectors(count=7).detach()
    expected = cross_correlation(z1, z2)
    torch.testing.assert_close(cross_correlation(z1 * torch.tensor([1.0, 2, 3, 4]) - 5, z2), expected)
    normalised = [F.batch_norm(z, None, None, training=True, eps=1e-12) for z in (z1, z2)]
    torch.testing.assert_close(normalised[0].T @ normalised[1] / 7, expected, rtol=1e-9, atol=1e-9)
    shifted = cross_correlation(z1 + 1, z2, center=False)
    assert float((shifted - cross_correlation(z1, z2, center=False)).abs().max()) > 0.1


def test_a_dimension_without_variance_is_no_nan():
    x = vectors(count=6).detach()
    x[:, :, 2] = 0.25
    x.requires_grad_()
    entry = OBJECTIVES.entry("barlow-twins")
    losses = entry.build(entry.settings(off_diagonal_weight=0.0)).loss(Outputs(z=x))
    loss = losses["loss"]
    assert float(losses["constant_dimensions"]) == 1
    assert float(loss.detach()) >= 1, "its place on the diagonal is 0"
    (gradient,) = torch.autograd.grad(loss, x)
    assert bool(torch.isfinite(gradient).all())
    (gradient,) = torch.autograd.grad(loss_of("vicreg")(x), x)
    assert bool(torch.isfinite(gradient).all())


def test_barlow_twins_splits_and_bounds_the_alignment():
    """L = (1 − λ)·L₁ + λ·‖C − I‖², and 2·Σ(1 − C_ii) ≤ 2·√(D·L₁), with equality for an equal diagonal."""
    x = vectors(count=8).detach()
    c = cross_correlation(x[0], x[1])
    first, second = (1 - c.diagonal()).square().sum(), (c - torch.eye(D)).square().sum()
    expected = (1 - LAMBDA) * first + LAMBDA * second
    torch.testing.assert_close(loss_of("barlow-twins", off_diagonal_weight=LAMBDA)(x), expected)
    assert float(2 * (1 - c.diagonal()).sum()) <= float(2 * (D * first).sqrt())
    z = whitened(8, D)
    equal = cross_correlation(z, -z).diagonal()
    assert float(2 * (1 - equal).sum()) == pytest.approx(2 * math.sqrt(D * float((1 - equal).square().sum())))


def test_collapsed_classes_cannot_reach_a_loss_below_d_minus_k():
    """‖Σ p_k·μ_k·μ_kᵀ − I_d‖² = ‖UᵀU − I_K‖² + d − K with U = [√p_k·μ_k] (Huang et al., theorem 4)."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    centres = vectors(1, 3, D)[0].detach()
    z = centres[labels]
    z = z / z.square().mean(dim=0).sqrt()
    c = cross_correlation(z, z, center=False)
    p = torch.bincount(labels).double() / len(labels)
    u = torch.stack([p[k].sqrt() * z[labels == k][0] for k in range(3)], dim=1)
    torch.testing.assert_close(c, u @ u.T)
    found = (c - torch.eye(D)).square().sum()
    torch.testing.assert_close(found, (u.T @ u - torch.eye(3)).square().sum() + D - 3)
    assert float(found) >= D - 3


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_align_logsumexp_is_the_decoupled_loss(temperature):
    x = vectors()
    decoupled = loss_of("decoupled", temperature=temperature)
    assert_same(
        loss_of("align-logsumexp", temperature=temperature), lambda x: 2 * temperature * decoupled(x) + 2, x
    )
    alone = loss_of("align-logsumexp", temperature=temperature, logsumexp_weight=0.0)(x)
    z = F.normalize(x, dim=2)
    torch.testing.assert_close(alone, (z[0] - z[1]).square().sum(dim=1).mean())


def test_the_linear_loss_is_the_limit_of_simclr_and_centres():
    z = F.normalize(vectors(count=6).detach(), dim=2)
    num_others = 2 * 6 - 1
    linear = loss_of("linear")(z)
    errors = []
    for temperature in (1e2, 1e3, 1e4):
        limit = temperature * (simclr(z[0], z[1], temperature) - math.log(num_others))
        errors.append(float(abs(limit - (num_others - 1) / num_others * linear)))
    assert errors[-1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05), "an error of order 1/τ"
    # the mean over all pairs, an image's own included, is the squared norm of the mean
    flat = z.flatten(0, 1)
    positives = (z[0] * z[1]).sum(dim=1).mean()
    negatives = linear + positives
    whole = (1 + positives + (num_others - 1) * negatives) / (num_others + 1)
    torch.testing.assert_close(whole, flat.mean(dim=0).square().sum())


def test_uniformity_is_that_of_the_diagnostic():
    from viewgen.diagnostics.alignment import uniformity

    z = F.normalize(vectors().detach(), dim=2)
    z = torch.stack([z[0], z[0]])
    assert float(loss_of("align-uniform")(z)) == pytest.approx(uniformity(z[0]))


ATTRACTIONS = {
    "decoupled": lambda z, g: -z @ g / 0.5,
    "align-logsumexp": lambda z, g: (z - g).square().sum(),
    "align-uniform": lambda z, g: (z - g).square().sum(),
    "linear": lambda z, g: -z @ g,
    "vicreg": lambda z, g: 25 * (z - g).square().mean(),
}


@pytest.mark.parametrize("name", ATTRACTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a2_draws_generated_views_as_the_base_draws_pairs(name, weighted):
    built = build_objective(
        train_settings(
            "digits", {"assimilation": "A2", "objective": name, "alpha": ALPHA, "views_per_step": 2}
        )
    )
    z = vectors(4).detach()
    z = F.normalize(z, dim=2) if built.head.unit else z
    random = torch.Generator().manual_seed(1)
    weights = torch.rand(2, N, generator=random, dtype=torch.float64) if weighted else None
    pulls = [
        ATTRACTIONS[name](z[view, image], z[2 + k, image]) * (1 if weights is None else weights[k, image])
        for view in range(2)
        for k in range(2)
        for image in range(N)
    ]
    plain = built.base.loss(Outputs(z=z[:2]))["loss"]
    found = built.loss(Outputs(z=z, weights=weights))["loss"]
    torch.testing.assert_close(found, plain + ALPHA * mean(pulls))


def test_projectors_are_those_of_the_papers():
    def layers(projector):
        encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=6, projector=projector))
        return [
            type(layer).__name__ + ("" if getattr(layer, "bias", None) is None else "+")
            for layer in encoder.projector
        ]

    hidden = ["Linear", "BatchNorm1d+", "ReLU"]
    assert layers("simsiam") == [*hidden, *hidden, "Linear", "BatchNorm1d"]
    assert layers("barlow") == [*hidden, *hidden, "Linear"]


def test_alignment_and_uniformity_are_lightlys():
    pytest.importorskip("lightly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_torchvision("ops")
        from lightly.loss.hypersphere_loss import HypersphereLoss

    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    for weight, scale in ((1.0, 2.0), (0.3, 1.0)):
        reference = HypersphereLoss(t=scale, lam=weight, alpha=2)
        ours = loss_of("align-uniform", uniformity_weight=weight, uniformity_scale=scale)
        assert_same(ours, lambda v, reference=reference: reference(v[0], v[1]), x)
