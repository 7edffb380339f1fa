"""The assimilation losses, values and gradients, against double loops and other libraries."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.networks.torchvision_import import import_torchvision
from viewgen_train.network import Predictor
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.alignment import alignment
from viewgen_train.objectives.assimilation import A1, A2, build_objective
from viewgen_train.objectives.infonce import info_nce
from viewgen_train.objectives.objective import Head, Objective, Outputs, PairObjective
from viewgen_train.objectives.simclr import simclr
from viewgen_train.objectives.simsiam import SimSiam, SimSiamSettings, simsiam
from viewgen_train.objectives.supcon import a2_full
from viewgen_train.resolve import train_settings

TAU, ALPHA = 0.3, 0.7


def objective(**given: object) -> Objective:
    """Return the objective of a training of digits."""
    return build_objective(train_settings("digits", given))


def a2(name: str) -> Callable[[Tensor], Tensor]:
    """Return A2 over an objective as a function of projections `(K, N, D)`."""
    built = objective(assimilation="A2", objective=name, temperature=TAU, alpha=ALPHA)
    return lambda z: built.loss(Outputs(z=z))["loss"]


def a2_simsiam(z: Tensor, p: Tensor) -> Tensor:
    return A2(SimSiam(SimSiamSettings()), len(z) - 2, ALPHA).loss(Outputs(z=z, p=p))["loss"]


def projections(num_views: int, num_images: int = 4, dim: int = 5, seed: int = 0) -> Tensor:
    """Unit vectors `(K, N, D)`, float64, that take gradients."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(num_views, num_images, dim, generator=random, dtype=torch.float64)
    return F.normalize(z, dim=2).requires_grad_()


def assert_same_loss(
    loss: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], z: Tensor
) -> None:
    """Compare values and gradients; the tolerance is float64 rounding over some hundred terms."""
    ours, theirs = loss(z), reference(z)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    (gradient,), (expected,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)
    assert float(gradient.abs().max()) > 1e-3


def loop_simclr(z: Tensor) -> Tensor:
    views = [*z[0], *z[1]]
    N = len(z[0])
    total = torch.zeros((), dtype=z.dtype)
    for i in range(2 * N):
        denominator = sum(torch.exp(views[i] @ views[a] / TAU) for a in range(2 * N) if a != i)
        total = total - torch.log(torch.exp(views[i] @ views[(i + N) % (2 * N)] / TAU) / denominator)
    return total / (2 * N)


def loop_info_nce(z: Tensor) -> Tensor:
    N = len(z[0])
    total = torch.zeros((), dtype=z.dtype)
    for mine, others in ((z[0], z[1]), (z[1], z[0])):
        for i in range(N):
            denominator = sum(torch.exp(mine[i] @ others[a] / TAU) for a in range(N))
            total = total - torch.log(torch.exp(mine[i] @ others[i] / TAU) / denominator)
    return total / (2 * N)


def loop_alignment(z: Tensor) -> Tensor:
    N, generated = len(z[0]), z[2:]
    total = torch.zeros((), dtype=z.dtype)
    for view in (0, 1):
        for i in range(N):
            for p in range(len(generated)):
                total = total + z[view][i] @ generated[p][i] / (len(generated) * TAU)
    return total / (2 * N)


def loop_full(z: Tensor, num_anchor_views: int) -> Tensor:
    K, N, _ = z.shape
    anchors = [(view, image) for view in range(num_anchor_views) for image in range(N)]
    total = torch.zeros((), dtype=z.dtype)
    for view, image in anchors:
        anchor = z[view][image]
        denominator = sum(torch.exp(anchor @ z[v][n] / TAU) for v, n in anchors if (v, n) != (view, image))
        positives = [z[other][image] for other in range(K) if other != view]
        for positive in positives:
            term = torch.log(torch.exp(anchor @ positive / TAU) / denominator)
            total = total - term / len(positives)
    return total / len(anchors)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return x @ y / (x.norm() * y.norm())


def loop_a2_simsiam(z: Tensor, p: Tensor) -> Tensor:
    N, generated = len(z[0]), p[2:]
    total = torch.zeros((), dtype=z.dtype)
    for view in (0, 1):
        for i in range(N):
            total = total - cosine(p[view][i], z[1 - view][i].detach()) / (2 * N)
            for k in range(len(generated)):
                total = total - ALPHA * cosine(generated[k][i], z[view][i].detach()) / (
                    len(generated) * 2 * N
                )
    return total


def test_simclr_and_info_nce_are_equations_1_and_5():
    assert_same_loss(lambda z: simclr(z[0], z[1], TAU), loop_simclr, projections(2))
    assert_same_loss(lambda z: info_nce(z[0], z[1], TAU), loop_info_nce, projections(2))


@pytest.mark.parametrize("num_generated", [1, 3])
def test_a2_is_equation_3_and_a2_simclr_equation_7(num_generated):
    z = projections(2 + num_generated)
    assert_same_loss(
        a2("infonce"),
        lambda z: loop_info_nce(z) - ALPHA * loop_alignment(z),
        z,
    )
    assert_same_loss(
        a2("simclr"),
        lambda z: loop_simclr(z) - ALPHA * loop_alignment(z),
        z,
    )


def test_a2_simclr_has_the_one_logarithm_of_equation_7():
    """Eq. 7's second line: the generated views' products inside the numerator's exponential."""

    def one_logarithm(z: Tensor) -> Tensor:
        N, views = len(z[0]), [*z[0], *z[1]]
        total = torch.zeros((), dtype=z.dtype)
        for i in range(2 * N):
            aligned = sum(views[i] @ z[2 + k][i % N] for k in range(2)) * ALPHA / 2 / TAU
            numerator = torch.exp(views[i] @ views[(i + N) % (2 * N)] / TAU + aligned)
            total = total - torch.log(
                numerator / sum(torch.exp(views[i] @ views[a] / TAU) for a in range(2 * N) if a != i)
            )
        return total / (2 * N)

    assert_same_loss(a2("simclr"), one_logarithm, projections(4))


@pytest.mark.parametrize("num_generated", [1, 2])
def test_a2_full_is_equation_6(num_generated):
    K = 2 + num_generated
    z = projections(K)
    assert_same_loss(lambda z: a2_full(z[0], z[1], z[2:], TAU), lambda z: loop_full(z, K), z)
    assert_same_loss(lambda z: a2_full(z[0], z[1], z[2:], TAU, "expert"), lambda z: loop_full(z, 2), z)


@pytest.mark.parametrize("num_generated", [1, 2])
def test_a2_simsiam_is_equation_8(num_generated):
    p = projections(2 + num_generated, seed=1) * 3
    z = projections(2 + num_generated)
    p = p.detach().requires_grad_()
    assert_same_loss(lambda p: a2_simsiam(z, p), lambda p: loop_a2_simsiam(z, p), p)
    loss = a2_simsiam(z, p)
    assert torch.autograd.grad(loss, z, allow_unused=True) == (None,), "projections are detached"


def test_other_libraries_agree():
    pytest.importorskip("pytorch_metric_learning")
    pytest.importorskip("lightly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries' own imports warn of
        import_torchvision("ops")
        from lightly.loss import NegativeCosineSimilarity, NTXentLoss
        from pytorch_metric_learning.losses import NTXentLoss as PairNTXent
        from pytorch_metric_learning.losses import SupConLoss
    same_image = torch.arange(4)

    def unit(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        # the libraries normalise what they get, which takes part in their gradients
        return lambda x: loss(F.normalize(x, dim=2))

    x = (projections(4) * 2).detach().requires_grad_()
    assert_same_loss(
        unit(lambda z: simclr(z[0], z[1], TAU)), lambda x: NTXentLoss(temperature=TAU)(x[0], x[1]), x
    )
    assert_same_loss(
        unit(lambda z: simclr(z[0], z[1], TAU)),
        lambda x: PairNTXent(temperature=TAU)(x[:2].flatten(0, 1), same_image.repeat(2)),
        x,
    )
    assert_same_loss(
        unit(lambda z: a2_full(z[0], z[1], z[2:], TAU)),
        lambda x: SupConLoss(temperature=TAU)(x.flatten(0, 1), same_image.repeat(4)),
        x,
    )
    distance = NegativeCosineSimilarity()
    target = projections(2, seed=2).detach()
    assert_same_loss(
        lambda p: simsiam(target[0], target[1], p[0], p[1]),
        lambda p: (distance(p[0], target[1]) + distance(p[1], target[0])) / 2,
        (projections(2) * 2).detach().requires_grad_(),
    )


@pytest.mark.parametrize(
    ("assimilation", "views"),
    [("none", 2), ("A1", 4), ("A2", 4), ("A2-simclr", 4), ("A2-full", 4), ("A2-simsiam", 4)],
)
def test_every_assimilation_is_its_loss(assimilation, views):
    z, p = projections(views), projections(views, seed=1)
    expected = {
        "none": lambda: info_nce(z[0], z[1], TAU),
        # with several generated views, the mean over them
        "A1": lambda: sum(info_nce(z[0], z[k], TAU) for k in (1, 2, 3)) / 3,
        "A2": lambda: info_nce(z[0], z[1], TAU) - ALPHA * alignment(z[0], z[1], z[2:], TAU),
        "A2-simclr": lambda: simclr(z[0], z[1], TAU) - ALPHA * alignment(z[0], z[1], z[2:], TAU),
        "A2-full": lambda: a2_full(z[0], z[1], z[2:], TAU),
        "A2-simsiam": lambda: a2_simsiam(z, p),
    }[assimilation]()
    given = {"assimilation": assimilation}
    given |= {"objective": "infonce"} if assimilation in ("none", "A1") else {}
    given |= {"temperature": TAU} if assimilation != "A2-simsiam" else {}
    given |= {"alpha": ALPHA} if assimilation in ("A2", "A2-simclr", "A2-simsiam") else {}
    given |= {} if assimilation == "none" else {"views_per_step": 3 if assimilation == "A1" else 2}
    built = objective(**given)
    assert built.num_expert + built.num_generated == views
    torch.testing.assert_close(built.loss(Outputs(z=z, p=p))["loss"], expected)


@pytest.mark.parametrize("assimilation", ["none", "A1"])
@pytest.mark.parametrize("name", ["simclr", "infonce", "simsiam", "supcon"])
def test_base_losses_are_chosen_by_name(assimilation, name):
    z, p = projections(2), projections(2, seed=1)
    expected = {
        "simclr": simclr(z[0], z[1], TAU),
        "infonce": info_nce(z[0], z[1], TAU),
        "simsiam": simsiam(z[0], z[1], p[0], p[1]),
        "supcon": simclr(z[0], z[1], TAU),  # of two views, each has one positive
    }[name]
    given = {} if name == "simsiam" else {"temperature": TAU}
    built = objective(assimilation=assimilation, objective=name, **given)
    torch.testing.assert_close(built.loss(Outputs(z=z, p=p))["loss"], expected)
    assert built.head == OBJECTIVES.entry(name).build(OBJECTIVES.entry(name).settings()).head
    assert built.head.predictor == (name == "simsiam")


@pytest.mark.parametrize("name", ["infonce", "simclr", "supcon"])
def test_losses_do_not_depend_on_the_order_of_the_images(name):
    z = projections(3)
    built = objective(assimilation="A2", objective=name, temperature=TAU)
    losses = [built.loss(Outputs(z=part))["loss"] for part in (z, z[:, torch.tensor([2, 0, 3, 1])])]
    torch.testing.assert_close(*losses)


def test_a2_without_weight_is_its_base_and_draws_views_together_with_it():
    z = projections(3)
    unweighted = objective(assimilation="A2", temperature=TAU, alpha=0.0).loss(Outputs(z=z))["loss"]
    torch.testing.assert_close(unweighted, info_nce(z[0], z[1], TAU))
    (gradient,) = torch.autograd.grad(a2("infonce")(z), z)
    # a step against the gradient moves the generated view towards the sum of the expert ones
    towards = (-gradient[2] * (z[0] + z[1])).sum(dim=1)
    assert bool((towards > 0).all())


class Free(PairObjective):
    """Projections of any length, and no form of A2 of its own."""

    head = Head(unit=False)

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        return {"loss": (out.z[0] - out.z[1]).square().mean(), "length": out.z.norm(dim=2).mean()}


def test_a2_is_refused_over_projections_of_any_length_and_a1_is_not():
    with pytest.raises(UsageError, match=r"Free has projections of any length.*--assimilation A1"):
        A2(Free(), 1, ALPHA)
    losses = A1(Free(), 2).loss(Outputs(z=2 * projections(3)))
    assert losses.keys() == {"loss", "length"}
    assert losses["length"].item() == pytest.approx(2)


def test_outputs_of_some_views_leave_images_alone():
    z = projections(3)
    out = Outputs(z=z, features=z * 2, images=z[0])
    part = out.of_views(slice(0, 3, 2)).detach()
    assert part.z.equal(z[[0, 2]])
    assert part.features is not None
    assert part.features.equal(2 * z[[0, 2]])
    assert part.images is not None
    assert part.images.equal(z[0])
    assert (part.p, part.target) == (None, None)
    assert not part.z.requires_grad


def test_the_predictor_is_a_bottleneck():
    predictor = Predictor(16)
    assert predictor(torch.randn(6, 16)).shape == (6, 16)
    assert [layer.out_features for layer in predictor.layers if hasattr(layer, "out_features")] == [4, 16]
