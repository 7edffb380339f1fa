"""One step of MoCo and BYOL, on fixed weights, against plain transcriptions of the published updates."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from viewgen_train.distributed import World
from viewgen_train.network import group_shuffle
from viewgen_train.worker import build_trainer

pytestmark = pytest.mark.usefixtures("_no_pictures")
RATE, MOMENTUM, DECAY, TAU, M = 0.05, 0.9, 1e-3, 0.3, 0.9


@pytest.fixture
def make_trainer(make_tiny_plan):
    def make(objective, **settings):
        common = {
            "assimilation": "none",
            "objective": objective,
            "batchnorm": "separate",
            "epochs": 10,
            "learning_rate": RATE,
            "momentum": MOMENTUM,
            "weight_decay": DECAY,
            "schedule": "constant",
            "warm_up_epochs": 0.0,
            "knn_every": 0,
        }
        plan = make_tiny_plan(**common, **settings)
        return build_trainer(plan, World(), torch.device("cpu"))

    return make


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def move(slow, fast, decay):
    for s, f in zip(slow.parameters(), fast.parameters(), strict=True):
        s.data = s.data * decay + f.data * (1 - decay)


def assert_same(found, expected, before):
    """Compare weights after a step; rounding is that of float32 sums in other groupings."""
    changes = []
    for mine, theirs, old in zip(found.parameters(), expected.parameters(), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        changes.append(float((mine - old).detach().abs().max()))
    assert max(changes) > 1e-3, "the step is much larger than the tolerance"


def other_target(network):
    """Weights of the target, moved away from those of the encoder; a copy of them."""
    random = torch.Generator().manual_seed(4)
    for parameter in network.target.parameters():
        parameter.data *= 1 + 0.2 * torch.rand(parameter.shape, generator=random)
    return copies(network.target)


def copies(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


class PlainMoCo:
    """One process of the authors' code: `moco/builder.py`, and the notebook for the symmetric loss.

    Theirs moves the key encoder at the beginning of a step, which is the end of the step before.
    """

    def __init__(self, encoder, target, queue, *, symmetric, shuffled, groups):
        self.query, self.key = copy.deepcopy(encoder), copy.deepcopy(target)
        self.queue, self.next = queue.clone(), 0
        self.symmetric, self.shuffled, self.groups = symmetric, shuffled, groups
        self.optimiser = sgd(self.query.parameters())

    def of_groups(self, encoder, images, order):
        """The projections of an encoder whose batch statistics are those of parts of the batch."""
        whole = torch.empty(len(images), 8)
        for part in range(self.groups):
            rows = order[part :: self.groups]
            whole[rows] = F.normalize(encoder(images[rows]), dim=1)
        return whole

    def contrast(self, query_images, key_images, order):
        plain = torch.arange(len(query_images))
        q = (
            self.of_groups(self.query.project, query_images, plain)
            if self.shuffled
            else F.normalize(self.query.project(query_images), dim=1)
        )
        with torch.no_grad():
            k = self.of_groups(self.key.project, key_images, order)
        positive = torch.einsum("nc,nc->n", q, k).unsqueeze(-1)
        logits = torch.cat([positive, torch.einsum("nc,kc->nk", q, self.queue)], dim=1) / TAU
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long)), k

    def step(self, views, order):
        loss, keys = self.contrast(views[0], views[1], order)
        if self.symmetric:
            other, first = self.contrast(views[1], views[0], order)
            loss, keys = (loss + other) / 2, torch.cat([first, keys])
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        for key in keys:  # the queue's length is no multiple of the batch
            self.queue[self.next] = key
            self.next = (self.next + 1) % len(self.queue)
        move(self.key, self.query, M)
        return loss


@pytest.mark.parametrize(
    ("symmetric", "key_batchnorm"),
    [(False, "shuffled"), (True, "shuffled"), (False, "split"), (True, "whole")],
)
def test_moco_is_its_published_update(make_trainer, symmetric, key_batchnorm):
    groups = {} if key_batchnorm == "whole" else {"key_groups": 2}
    trainer = make_trainer(
        "moco",
        **{
            "objective.temperature": TAU,
            "queue_size": 19,
            "target_momentum": M,
            "symmetric": symmetric,
            "key_batchnorm": key_batchnorm,
        },
        **groups,
    )
    network = trainer.network.train()
    key_before, query_before = other_target(network), copies(network.encoder)
    plain = PlainMoCo(
        network.encoder,
        network.target,
        trainer.objective.queue.keys,
        symmetric=symmetric,
        shuffled=key_batchnorm == "shuffled",
        groups=groups.get("key_groups", 1),
    )
    images = trainer.batch(0)
    order = torch.arange(len(images.pixels))
    if key_batchnorm == "shuffled":
        order = group_shuffle(images.draws.uniform("shuffle", 1)[:, 0], 2)
    expected = plain.step(trainer.views(images), order)
    torch.testing.assert_close(trainer.step(0)["loss"], expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainer.objective.queue.keys, plain.queue, rtol=1e-4, atol=1e-5)
    assert int(trainer.objective.queue.next) == plain.next == (16 if symmetric else 8)
    assert_same(network.encoder, plain.query, query_before)
    assert_same(network.target, plain.key, key_before)


def test_byol_is_its_published_update(make_trainer):
    trainer = make_trainer("byol", target_momentum=M, loss_scale=2.0, predictor_hidden=6)
    network = trainer.network.train()
    target_before, before = other_target(network), copies(network.encoder)
    online, predictor = copy.deepcopy(network.encoder), copy.deepcopy(network.predictor)
    predictor_before, target = copies(predictor), copy.deepcopy(network.target)
    optimiser = sgd([*online.parameters(), *predictor.parameters()])
    step = 7  # of 20, where the decay is between its ends
    views = trainer.views(trainer.batch(step))
    loss = torch.zeros(())
    for one, other in ((0, 1), (1, 0)):
        prediction = F.normalize(predictor(online.project(views[one])), dim=1)
        with torch.no_grad():
            projection = F.normalize(target.project(views[other]), dim=1)
        # equation 2: the squared distance of unit vectors; the sum of both directions is minimised
        loss = loss + (prediction - projection).square().sum(dim=1).mean()
    loss.backward()
    optimiser.step()
    move(target, online, 1 - (1 - M) * (math.cos(math.pi * step / 20) + 1) / 2)
    torch.testing.assert_close(trainer.step(step)["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    assert_same(network.encoder, online, before)
    assert_same(network.predictor, predictor, predictor_before)
    assert_same(network.target, target, target_before)
