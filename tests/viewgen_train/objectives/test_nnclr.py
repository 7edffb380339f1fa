"""NNCLR against a double loop over its equations."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from viewgen.errors import UsageError
from viewgen.networks.torchvision_import import import_torchvision
from viewgen_train.objectives.nnclr import NNCLR, NNCLRSettings
from viewgen_train.objectives.objective import Outputs, Widths
from viewgen_train.resolve import train_settings

N, K, D, TAU = 4, 6, 5, 0.3


def vectors(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, D, generator=random, dtype=torch.float64)


def built(size=K):
    objective = NNCLR(NNCLRSettings(temperature=TAU, queue_size=size))
    objective.allocate(Widths(features=3, projections=D))
    objective.queue.keys = F.normalize(vectors(size, seed=9), dim=1)
    return objective


def loop(z, p, queue):
    """The loss of one direction, image by image."""
    total = torch.zeros((), dtype=torch.float64)
    predictions = [vector / vector.norm() for vector in p]
    for i, vector in enumerate(z):
        similarities = [float((vector @ key / vector.norm()).detach()) for key in queue]
        neighbour = queue[similarities.index(max(similarities))]
        exponentials = [torch.exp(neighbour @ prediction / TAU) for prediction in predictions]
        total = total - torch.log(exponentials[i] / sum(exponentials))
    return total / len(z)


def test_the_loss_is_the_mean_of_both_directions_and_has_no_gradient_through_neighbours():
    objective = built()
    out = Outputs(z=vectors(2, N, seed=1).requires_grad_(), p=vectors(2, N).requires_grad_())
    queue = objective.queue.keys
    expected = (loop(out.z[0], out.p[1], queue) + loop(out.z[1], out.p[0], queue)) / 2
    loss = objective.loss(out)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    gradient, through = torch.autograd.grad(loss, (out.p, out.z), allow_unused=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, out.p)[0], rtol=1e-10, atol=1e-13)
    assert float(gradient.abs().max()) > 1e-3
    assert through is None or float(through.abs().max()) == 0


def test_projections_of_the_first_view_join_the_queue():
    objective = built()
    out = Outputs(z=vectors(2, N, seed=1), p=vectors(2, N))
    objective.after_step(out)
    torch.testing.assert_close(objective.queue.keys[:N], F.normalize(out.z[0], dim=1))
    assert int(objective.queue.next) == N


def test_lightly_finds_the_same_neighbours():
    pytest.importorskip("lightly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_torchvision("ops")
        from lightly.models.modules import NNMemoryBankModule
    from viewgen_train.objectives.nnclr import nearest

    bank = NNMemoryBankModule(size=(K, D))
    z = F.normalize(vectors(N, seed=1), dim=1).float()
    torch.testing.assert_close(nearest(z, bank.bank), bank(z))


def test_what_does_not_fit_is_refused():
    given = {"objective": "nnclr", "queue_size": 16}
    with pytest.raises(UsageError, match="queue_size is 16, shorter than a batch"):
        train_settings("digits", {"assimilation": "none", **given})
    with pytest.raises(UsageError, match="cannot bear A2: its positives are nearest neighbours"):
        train_settings("digits", {"assimilation": "A2", "objective": "nnclr"})
