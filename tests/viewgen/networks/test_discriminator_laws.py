"""The discriminator's minibatch statistics against a loop, and its laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig
from viewgen.networks.stylegan2.discriminator import minibatch_stddev


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(**settings) -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = DiscriminatorConfig(image_size=8, channels=(5, 4), num_mapping_layers=2, **settings)
        return Discriminator(config).double().eval().requires_grad_(False)


@settings(deadline=None)
@given(batch_size=st.integers(1, 13), num_channels=st.integers(1, 3), seed=st.integers(0, 100))
def test_minibatch_stddev_equals_a_loop_at_any_batch_size(batch_size, num_channels, seed):
    x = normal(batch_size, num_channels, 2, 2, seed=seed)
    found = minibatch_stddev(x)
    assert torch.equal(found[:, :-1], x)
    num_groups = math.ceil(batch_size / 4)
    for sample in range(batch_size):
        group = [other for other in range(batch_size) if other % num_groups == sample % num_groups]
        assert len(group) <= 4
        total = 0.0
        for feature in x.flatten(1).T:
            values = [feature[member].item() for member in group]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            total += math.sqrt(variance + 1e-8)
        expected = total / (4 * num_channels)
        assert found[sample, -1].flatten().tolist() == pytest.approx([expected] * 4, rel=1e-9)


@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_minibatch_stddev_equals_the_public_networks_at_multiples_of_4(batch_size):
    x = normal(batch_size, 3, 4, 4)
    grouped = x.view(4, -1, 1, 3, 4, 4)
    stddev = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean([2, 3, 4], keepdims=True).squeeze(2)
    expected = torch.cat([x, stddev.repeat(4, 1, 4, 4)], 1)
    torch.testing.assert_close(minibatch_stddev(x), expected)


@pytest.mark.parametrize("architecture", ["residual", "plain"])
def test_one_logit_per_image_and_one_activation_per_block(architecture):
    discriminator = make(architecture=architecture)
    images = normal(3, 3, 8, 8)
    assert discriminator(images).shape == (3, 1)
    assert [tuple(x.shape) for x in discriminator.features(images)] == [(3, 4, 8, 8), (3, 5, 4, 4)]


def test_activations_do_not_depend_on_the_images_beside_but_logits_do():
    discriminator = make()
    images = normal(4, 3, 8, 8)
    for every, alone in zip(discriminator.features(images), discriminator.features(images[1:2]), strict=True):
        torch.testing.assert_close(every[1:2], alone)
    assert not torch.allclose(discriminator(images)[1:2], discriminator(images[1:2]))


def test_a_conditional_logit_is_a_projection_on_the_class():
    discriminator = make(num_classes=3)
    images, labels = normal(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    logit = discriminator(images, labels)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    torch.testing.assert_close(logit, discriminator(images, one_hot))
    assert not torch.allclose(logit, discriminator(images, labels.flip(0)))
    with pytest.raises(ModelError, match="3 classes"):
        discriminator(images)


def test_wrong_images_are_refused_with_the_expected_shape():
    for shape in ((2, 3, 16, 16), (2, 1, 8, 8), (3, 8, 8)):
        with pytest.raises(ModelError, match=r"takes \(B, 3, 8, 8\)"):
            make()(normal(*shape))
    with pytest.raises(ModelError, match="'residual' or 'plain'"):
        make(architecture="skip")
