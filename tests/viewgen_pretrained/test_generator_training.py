"""The generator's training: penalties against finite differences, mixing, averaging, batches."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig
from viewgen_pretrained.generator import r1_penalty
from viewgen_train.sampler import batch_rows


def make_discriminator() -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Discriminator(DiscriminatorConfig(image_size=8, channels=(3, 2))).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_r1_equals_finite_differences_of_the_logits():
    discriminator, images, step = make_discriminator(), normal(2, 3, 8, 8), 1e-6
    total = 0.0
    with torch.no_grad():
        for index in range(images.numel()):
            nudge = torch.zeros(images.numel(), dtype=torch.float64)
            nudge[index] = step
            up, down = (discriminator(images + sign * nudge.view_as(images)).sum().item() for sign in (1, -1))
            total += ((up - down) / (2 * step)) ** 2
    assert r1_penalty(discriminator, images).item() == pytest.approx(0.5 * total / 2, rel=1e-6)


def test_r1s_gradient_reaches_the_weights():
    discriminator, images, step = make_discriminator(), normal(2, 3, 8, 8), 1e-6
    weight = discriminator.convs[1].conv1[0].weight
    r1_penalty(discriminator, images).backward()
    for place in ((0, 0, 1, 1), (1, 0, 2, 0)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
            values.append(r1_penalty(discriminator, images).item())
            with torch.no_grad():
                weight[place] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        assert weight.grad[place].item() == pytest.approx(expected, rel=1e-4)


def test_lazy_penalties_come_at_their_intervals_and_are_finite(make_trainer):
    trainer = make_trainer("generator")  # r1 every 3 steps, path length every 2
    for step in range(6):
        torch.manual_seed(step)
        metrics = trainer.step(step)
        assert ("r1" in metrics) == (step % 3 == 0)
        assert ("path_length" in metrics) == (step % 2 == 0)
        assert all(math.isfinite(value) for value in metrics.values())
        if "path_length" in metrics:
            assert metrics["path_length"] > 0
    without = make_trainer("generator", r1_weight=0.0, path_weight=0.0)
    assert without.step(0).keys() == {"d_loss", "real_sign", "g_loss"}


def test_p_follows_the_sign_of_real_logits(make_trainer):
    """ADA's heuristic by hand: 4 images a step, p moves every 2 steps by 8 images of 40."""
    trainer = make_trainer("generator", ada_target=0.6, ada_images=40, ada_interval=2)
    assert trainer.ada.probability == 0
    found = []
    for step, sign in enumerate([1.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.7, 0.5, 1.0] + [1.0] * 20):
        found.append(trainer.ada.update(sign, step))
    # means 0.75, 1, 0, 0.6: up, up, down, unmoved
    assert found[:8] == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.2, 0.2, 0.2])
    assert found[-1] == 1
    assert trainer.ada.update(-1.0, 29) == pytest.approx(0.8)
    for step in range(30, 60):
        last = trainer.ada.update(-1.0, step)
    assert last == 0


def test_p_is_shown_and_belongs_to_the_runs_identity_and_state(make_trainer):
    trainer = make_trainer("generator", ada_target=0.6, ada_images=8, ada_interval=1)
    trainer.ada.target = -2.0  # always exceeded
    shown = [trainer.step(step)["ada_p"] for step in range(2)]
    assert shown == [0.5, 1.0]
    assert trainer.identity["ada_target"] == 0.6
    other = make_trainer("generator", ada_target=0.6, ada_images=8, ada_interval=1)
    other.restore(trainer.state())
    assert other.ada.probability == 1.0
    without = make_trainer("generator")
    assert "ada" not in without.state()
    assert not [name for name in without.identity if name.startswith("ada")]
    assert "ada_p" not in without.step(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ada_target": 1.0}, "ada_target is 1.0"),
        ({"ada_target": -0.1}, "ada_target is -0.1"),
        ({"ada_interval": 0}, "ada_interval is 0"),
        ({"ada_images": 0}, "ada_images is 0"),
        ({"ada_target": 0.6, "augment": []}, "augment is empty"),
    ],
)
def test_settings_of_ada_that_cannot_be(make_trainer, settings, message):
    with pytest.raises(UsageError, match=message):
        make_trainer("generator", **settings)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_style_mixing_joins_two_codes_at_one_layer(make_trainer, probability):
    trainer = make_trainer("generator", style_mixing=probability)
    codes = trainer._codes(200).detach()
    assert codes.shape == (200, 4, 512)
    changes = (codes[:, 1:] != codes[:, :-1]).any(dim=2)
    assert changes.sum(dim=1).tolist() == [int(probability)] * 200
    if probability:
        assert set(changes.long().argmax(dim=1).tolist()) == {0, 1, 2}


def test_the_average_follows_with_its_half_life(make_trainer):
    trainer = make_trainer("generator", ema_half_life=8.0)
    for step in range(60):
        if step % 20 == 0:
            before = [parameter.clone() for parameter in trainer.average.parameters()]
            trainer.step(step)
            # 4 images a step: the half-life in images, shortened while the run is young
            decay = 0.5 ** (4 / min(8.0, 0.05 * (step + 1) * 4))
            for old, average, current in zip(
                before, trainer.average.parameters(), trainer.generator.parameters(), strict=True
            ):
                expected = decay * old + (1 - decay) * current
                torch.testing.assert_close(average, expected)
    assert not any(parameter.requires_grad for parameter in trainer.average.parameters())


def test_the_finished_generator_knows_its_mean_latent(make_trainer):
    trainer = make_trainer("generator")
    trainer.step(0)
    generator = trainer.finish()
    assert generator is trainer.average
    torch.testing.assert_close(generator.latent_avg, generator.mean_latent())


def test_discriminator_and_generator_each_train_on_their_own_loss(make_trainer):
    trainer = make_trainer("generator", path_weight=0.0, r1_weight=0.0)
    metrics = [trainer.step(step) for step in range(4)]
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())
    # softplus losses of logits near 0
    assert metrics[0]["g_loss"] == pytest.approx(math.log(2), abs=0.3)
    assert metrics[0]["d_loss"] == pytest.approx(2 * math.log(2), abs=0.6)


def test_the_inverter_lowers_its_error(make_trainer):
    trainer = make_trainer("inverter", num_steps=60, learning_rate=3e-3, r1_interval=16)
    pixels = []
    for step in range(60):
        torch.manual_seed(step)
        pixels.append(trainer.step(step)["pixel"])
    assert np.mean(pixels[-10:]) < 0.9 * np.mean(pixels[:5])
    assert trainer.optimiser.param_groups[0]["lr"] < 3e-5  # the cosine of the last half


@given(
    num_images=st.integers(1, 30),
    batch_size=st.integers(1, 40),
    num_steps=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_batches_walk_through_one_permutation_after_another(num_images, batch_size, num_steps, seed):
    batches = [batch_rows(num_images, batch_size, step, seed) for step in range(num_steps)]
    assert {(batch.dtype, batch.shape) for batch in batches} == {(np.dtype(np.int64), (batch_size,))}
    walk = np.concatenate(batches)
    for start in range(0, len(walk), num_images):
        epoch = walk[start : start + num_images]
        assert len(set(epoch.tolist())) == len(epoch)
        assert set(epoch.tolist()) <= set(range(num_images))
    counts = Counter(walk.tolist())
    assert max(counts.values()) - min(counts.get(row, 0) for row in range(num_images)) <= 1
    assert np.array_equal(batches[-1], batch_rows(num_images, batch_size, num_steps - 1, seed))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(batch_rows(20, 20, step, seed)) for step in range(3) for seed in range(3)}
    assert len(orders) == 9
