"""Passes through an encoder are counted forwards and, each gradient for itself, backwards."""

import torch
from passes import Passes

from viewgen.networks.encoder import Encoder, EncoderConfig


def test_every_image_counts_forwards_and_with_every_gradient_backwards():
    encoder = Encoder(EncoderConfig(image_size=8, width=4, projection_dim=4)).eval().requires_grad_(False)
    images = torch.randn(3, 3, 8, 8, requires_grad=True)
    encoder(images)
    passes = Passes(encoder)
    with passes:
        with torch.no_grad():
            encoder(images[:2])
        z = encoder(images)
        torch.autograd.grad(z[:, 0].sum(), images, retain_graph=True)
        torch.autograd.grad(z[:, 1].sum(), images)
    encoder(images)
    with passes:
        encoder(images[:1])
        encoder.backbone(images)
    assert (passes.forward, passes.backward) == (2 + 3 + 1, 3 + 3)
    assert passes.per_view(2) == {"forward_passes": 3.0, "backward_passes": 3.0, "passes": 6.0}


def test_all_encoders_of_the_process_count_and_nothing_else():
    config = EncoderConfig(image_size=8, width=4, projection_dim=4)
    first, second = (Encoder(config).eval().requires_grad_(False) for _ in range(2))
    images = torch.randn(3, 3, 8, 8, requires_grad=True)
    with Passes() as passes:
        with torch.no_grad():
            first(images)
        torch.autograd.grad(second(images[:2]).sum(), images)
    first(images)
    assert (passes.forward, passes.backward) == (5, 2)
