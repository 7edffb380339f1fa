"""Alignment and uniformity against loops and the extremes that have a closed form."""

import math

import numpy as np
import pytest
import torch

from viewgen.diagnostics.alignment import alignment, measure_alignment, uniformity
from viewgen.diagnostics.mutual_information import ArrayPairs
from viewgen.errors import DataError
from viewgen.networks.encoder import Encoder, EncoderConfig


def unit_rows(num_rows, dimension, seed):
    rows = torch.randn(num_rows, dimension, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def test_both_are_the_double_loop():
    z, other = unit_rows(9, 4, 0), unit_rows(9, 4, 1)
    squared = [
        sum((a - b) ** 2 for a, b in zip(u.tolist(), v.tolist(), strict=True))
        for u, v in zip(z, other, strict=True)
    ]
    assert alignment(z, other) == pytest.approx(sum(squared) / 9, rel=1e-5)
    potentials = [
        math.exp(-2 * sum((a - b) ** 2 for a, b in zip(z[i].tolist(), z[j].tolist(), strict=True)))
        for i in range(9)
        for j in range(i)
    ]
    assert uniformity(z) == pytest.approx(math.log(sum(potentials) / len(potentials)), rel=1e-5)


def test_extremes():
    z = unit_rows(400, 256, 2)
    assert alignment(z, z) == 0
    assert alignment(z, -z) == pytest.approx(4)
    assert uniformity(z[:1].expand(50, -1)) == pytest.approx(0, abs=1e-6)
    # two independent directions of a high-dimensional sphere are √2 apart
    assert uniformity(z) == pytest.approx(-4, abs=0.05)
    poles = torch.eye(2)[:1] * torch.tensor([[1.0], [-1.0]]).repeat(200, 1)
    share = 2 * 200 * 199 / (400 * 399)
    assert uniformity(poles) == pytest.approx(math.log(share + (1 - share) * math.exp(-8)), abs=1e-6)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig(image_size=8, width=2, projection_dim=5)).eval()


def test_measured_on_pairs(encoder):
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), np.uint8)
    same = measure_alignment(encoder, ArrayPairs(images, images))
    assert same.alignment == 0
    assert same.uniformity_x == same.uniformity_y < 0
    assert same.num_images == 30
    others = measure_alignment(encoder, ArrayPairs(images, images[::-1].copy()))
    assert others.alignment > 0
    assert others.uniformity_x == pytest.approx(others.uniformity_y, abs=1e-6)


def test_alignment_is_the_mean_over_draws(encoder):
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 8, 8), np.uint8)
    views = np.random.default_rng(2).integers(0, 256, (20, 3, 8, 8), np.uint8)
    pairs = ArrayPairs(images, views, np.repeat(np.arange(10), 2))
    with torch.no_grad():
        z_x, z_y = (
            encoder(ArrayPairs(images, views).draw(np.arange(20), 0, "s", 0)[side]) for side in (0, 1)
        )
    expected = float((z_x - z_y).square().sum(1).mean())
    assert measure_alignment(encoder, pairs).alignment == pytest.approx(expected, rel=1e-5)


def test_wrong_sizes_are_refused(encoder):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    with pytest.raises(DataError, match="16×16 pixels, the encoder was trained on 8×8"):
        measure_alignment(encoder, ArrayPairs(images, images))
    with pytest.raises(DataError, match="1 image"):
        measure_alignment(encoder, ArrayPairs(images[:1], images[:1]))
