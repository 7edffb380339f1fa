"""The start on the boundary: found without gradients, for every view on its own."""

import pytest
import torch
from torch import Tensor, nn

from viewgen.views.boundary_start import boundary_scales

NUM_IMAGES, NUM_VIEWS, NUM_LAYERS, DIM = 3, 4, 2, 5


class Pictures(nn.Module):
    """A stand-in for g: the codes themselves, small enough never to be clamped."""

    def decode(self, w: Tensor) -> Tensor:
        return w / 100


class Bent(nn.Module):
    """A stand-in for f whose distance along a direction grows like tanh: neither linear nor unbounded."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) * 30)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 1.0])
def test_scales_equal_a_bisection(epsilon):
    anchors, directions = (
        torch.zeros(NUM_IMAGES, NUM_LAYERS, DIM),
        draw(NUM_IMAGES, NUM_VIEWS, NUM_LAYERS, DIM),
    )
    f, g = Bent(), Pictures()
    features = f(g.decode(anchors))
    found, _ = boundary_scales(
        g, f, anchors, features, directions, epsilon, tolerance=0, max_passes=40, batch_size=4
    )  # fmt: skip
    for image in range(NUM_IMAGES):
        for view in range(NUM_VIEWS):
            low, high = 0.0, 1e3
            for _ in range(60):
                middle = (low + high) / 2
                z = f(g.decode((middle * directions[image, view])[None]))
                low, high = (middle, high) if float((z - features[image]).norm()) < epsilon else (low, middle)
            assert float(found[image, view]) == pytest.approx(low, rel=1e-3)  # float32 distances


def test_each_view_is_found_on_its_own():
    anchors, directions = draw(NUM_IMAGES, NUM_LAYERS, DIM), draw(NUM_IMAGES, NUM_VIEWS, NUM_LAYERS, DIM)
    f, g = Bent(), Pictures()
    features = f(g.decode(anchors))
    together, passes = boundary_scales(
        g, f, anchors, features, directions, 0.3, tolerance=0.01, max_passes=5, batch_size=8
    )
    alone, alone_passes = boundary_scales(
        g,
        f,
        anchors[1:2],
        features[1:2],
        directions[1:2, 2:3],
        0.3,
        tolerance=0.01,
        max_passes=5,
        batch_size=8,
    )
    assert torch.equal(alone[0, 0], together[1, 2])
    assert alone_passes[0, 0] == passes[1, 2]
    assert passes.min() >= 1
    assert passes.max() <= 5
    assert len(passes.unique()) > 1


def test_more_passes_come_closer():
    anchors, directions = torch.zeros(8, NUM_LAYERS, DIM), draw(8, NUM_VIEWS, NUM_LAYERS, DIM)
    f, g = Bent(), Pictures()
    features = f(g.decode(anchors))
    gaps = []
    for num_passes in (1, 3, 5, 9):
        scale, _ = boundary_scales(
            g, f, anchors, features, directions, 0.3, tolerance=0, max_passes=num_passes, batch_size=16
        )
        z = f(g.decode((scale[..., None, None] * directions).flatten(0, 1))).unflatten(0, (8, NUM_VIEWS))
        gaps.append(float(((z - features[:, None]).norm(dim=2) - 0.3).abs().max()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3
