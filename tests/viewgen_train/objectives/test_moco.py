"""MoCo v2 against double loops over its equation, and its queue."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from viewgen.errors import UsageError
from viewgen.networks.torchvision_import import import_torchvision
from viewgen_train.objectives.assimilation import A1, A2
from viewgen_train.objectives.infonce import info_nce
from viewgen_train.objectives.moco import MoCo, MoCoSettings, moco
from viewgen_train.objectives.objective import Outputs, Widths
from viewgen_train.objectives.queue import Queue
from viewgen_train.resolve import train_settings

N, K, D, TAU, ALPHA = 4, 6, 5, 0.3, 0.7


def unit(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, D, generator=random, dtype=torch.float64), dim=-1)


def loop(queries, keys, queue):
    """The equation, image by image and key by key."""
    total = torch.zeros((), dtype=torch.float64)
    for q, k in zip(queries, keys, strict=True):
        positive = torch.exp(sum(a * b for a, b in zip(q, k, strict=True)) / TAU)
        negatives = [torch.exp(sum(a * b for a, b in zip(q, old, strict=True)) / TAU) for old in queue]
        total = total - torch.log(positive / (positive + sum(negatives)))
    return total / len(queries)


def built(views=2, **settings):
    """An objective with a queue of K unit vectors, and outputs of queries that take gradients."""
    objective = MoCo(MoCoSettings(temperature=TAU, queue_size=K, **settings))
    objective.allocate(Widths(features=3, projections=D))
    objective.queue.keys = unit(K, seed=9)
    z, target = unit(views, N).requires_grad_(), unit(views, N, seed=1)
    return objective, Outputs(z=z, target=target)


def same(loss, expected, z):
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    (gradient,), (other,) = (torch.autograd.grad(value, z, retain_graph=True) for value in (loss, expected))
    torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-13)
    assert float(gradient[0].abs().max()) > 1e-3


def test_the_loss_is_the_equation():
    objective, out = built()
    same(objective.loss(out)["loss"], loop(out.z[0], out.target[1], unit(K, seed=9)), out.z)


def test_the_symmetric_loss_is_the_mean_of_both_directions():
    objective, out = built(symmetric=True)
    queue = unit(K, seed=9)
    expected = (loop(out.z[0], out.target[1], queue) + loop(out.z[1], out.target[0], queue)) / 2
    same(objective.loss(out)["loss"], expected, out.z)


def test_with_the_batch_as_its_queue_it_is_one_direction_of_infonce():
    z1, z2 = unit(2, N)
    others = [torch.cat([z2[:i], z2[i + 1 :]]) for i in range(N)]
    rows = [moco(z1[i : i + 1], z2[i : i + 1], others[i], TAU) for i in range(N)]
    logits = z1 @ z2.T / TAU
    torch.testing.assert_close(torch.stack(rows).mean(), F.cross_entropy(logits, torch.arange(N)))
    both = [
        moco(a[i : i + 1], b[i : i + 1], torch.cat([b[:i], b[i + 1 :]]), TAU)
        for a, b in ((z1, z2), (z2, z1))
        for i in range(N)
    ]
    torch.testing.assert_close(torch.stack(both).mean(), info_nce(z1, z2, TAU))


@pytest.mark.parametrize(("symmetric", "views"), [(False, 3), (True, 3)])
def test_a1_takes_generated_views_as_keys(symmetric, views):
    objective, out = built(views, symmetric=symmetric)
    pairs = [Outputs(z=out.z[[0, k]], target=out.target[[0, k]]) for k in (1, 2)]
    expected = torch.stack([objective.loss(pair)["loss"] for pair in pairs]).mean()
    same(A1(objective, 2).loss(out)["loss"], expected, out.z)
    if not symmetric:
        assert float(torch.autograd.grad(expected, out.z)[0][1:].abs().max()) == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_a2_draws_queries_towards_generated_keys(symmetric):
    objective, out = built(4, symmetric=symmetric)
    aligned = 0.0
    for view in (0, 1) if symmetric else (0,):
        for key in out.target[2:]:
            aligned = aligned + (out.z[view] * key).sum() / TAU / N / 2 / (1 + symmetric)
    base = objective.loss(Outputs(z=out.z[:2], target=out.target[:2]))["loss"]
    same(A2(objective, 2, ALPHA).loss(out)["loss"], base - ALPHA * aligned, out.z)


def test_a_one_sided_loss_needs_neither_the_second_query_nor_the_first_key():
    objective, out = built(4)
    z, target = out.z.detach().clone(), out.target.clone()
    z[1:], target[0] = math.nan, math.nan
    for combined in (objective, A1(objective, 3), A2(objective, 2, ALPHA)):
        views = slice(2) if combined is objective else slice(4)
        found = combined.loss(Outputs(z=z[views], target=target[views]))["loss"]
        torch.testing.assert_close(
            found, combined.loss(Outputs(z=out.z[views], target=out.target[views]))["loss"]
        )


@pytest.mark.parametrize(("size", "batch"), [(7, 3), (6, 3), (5, 5), (3, 4), (8, 1)])
def test_the_queue_is_first_in_first_out_for_any_length(size, batch):
    queue = Queue(size)
    queue.allocate(2)
    expected = list(queue.keys.clone())
    for step in range(7):
        keys = torch.arange(2.0 * batch).view(batch, 2) + 100 * step
        queue.push(keys)
        expected = [*expected, *keys][-size:]
        oldest_first = queue.keys.roll(-int(queue.next), 0)
        assert torch.equal(oldest_first, torch.stack(expected))


@pytest.mark.parametrize("symmetric", [False, True])
def test_keys_of_a_step_join_after_it(symmetric):
    objective, out = built(symmetric=symmetric)
    objective.after_step(out.detach())
    joined = torch.cat([out.target[0], out.target[1]]) if symmetric else out.target[1]
    oldest_first = objective.queue.keys.roll(-int(objective.queue.next), 0)
    # a queue of 6: of the 8 keys of both views the last 6 stay
    assert torch.equal(oldest_first[-min(K, len(joined)) :], joined[-K:])


def test_lightly_agrees():
    pytest.importorskip("lightly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library's own imports warn of
        import_torchvision("ops")
        from lightly.loss import NTXentLoss
    theirs = NTXentLoss(temperature=TAU, memory_bank_size=(8, D))
    objective = MoCo(MoCoSettings(temperature=TAU, queue_size=8))
    objective.allocate(Widths(features=3, projections=D))
    objective.queue.keys.copy_(theirs.memory_bank.bank)
    for step in range(4):
        z = unit(2, N, seed=step).float().requires_grad_()
        target = unit(2, N, seed=100 + step).float()
        loss, expected = objective.loss(Outputs(z=z, target=target))["loss"], theirs(z[0], target[1])
        torch.testing.assert_close(loss, expected)
        (gradient,), (other,) = torch.autograd.grad(loss, z), torch.autograd.grad(expected, z)
        # theirs normalises once more, which projects the gradient to the tangent
        mine = gradient[0] - (gradient[0] * z[0]).sum(dim=1, keepdim=True) * z[0]
        torch.testing.assert_close(mine, other[0], atol=1e-6, rtol=1e-4)
        objective.after_step(Outputs(z=z, target=target).detach())
        torch.testing.assert_close(objective.queue.keys, theirs.memory_bank.bank)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue_size": 100}, "queue_size is 100, shorter than a batch of 128"),
        ({"target_momentum": 1.0}, r"target_momentum is 1.0; expected less than 1"),
        ({"target_momentum": -0.1}, "target_momentum is -0.1"),
        ({"final_target_momentum": 1.1}, "final_target_momentum is 1.1"),
        ({"key_groups": 7}, "batch_size is 128, which does not divide into 7 groups"),
        ({"key_groups": 128}, "does not divide into 128 groups of two or more"),
        ({"key_groups": 4, "key_batchnorm": "whole"}, "key_groups is given and has no effect"),
        ({"key_batchnorm": "mixed"}, "key_batchnorm is 'mixed'"),
        ({"predictor_hidden": 8}, "objective 'moco' has no predictor"),
        ({"predictor_schedule": "constant"}, "objective 'moco' has no predictor"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", {"assimilation": "none", "objective": "moco", **settings})


def test_its_temperature_is_its_own_and_not_that_of_format_1():
    settings = train_settings("unheard-of", {"assimilation": "none", "objective": "moco"})
    assert settings.objective.settings == MoCoSettings()
    assert settings.objective.settings.temperature == 0.2
