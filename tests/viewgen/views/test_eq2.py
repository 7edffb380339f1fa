"""Eq. 2 in the encoder's space: its gradient against autograd, its minimum against closed forms."""

import itertools

import pytest
import torch
from torch import Tensor

from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.wsearch.loss import (
    balanced_distance,
    boundary_uniformity_loss,
    eq2_gradient,
    eq2_target,
    feasible_spread,
    near_boundary,
    spread_goal,
    uniformity_gradient,
)
from viewgen.views.wsearch.settings import WSearchConfig


def offsets(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eq2(offset: Tensor, config: WSearchConfig) -> Tensor:
    return boundary_uniformity_loss(offset.norm(dim=2), mean_pairwise_distance(offset), config)


@pytest.mark.parametrize("boundary", ["squared", "hinge"])
@pytest.mark.parametrize(("num_views", "weight"), [(1, 0.7), (2, 0.7), (5, 0.7), (5, 0.0)])
@pytest.mark.parametrize("length", [0.1, 0.25])
def test_the_gradient_equals_autograd(boundary, num_views, weight, length):
    """Short offsets lie inside ε₁ and push apart; longer ones lie on both sides of ε₁ and of ε₂."""
    config = WSearchConfig(
        boundary=boundary, uniformity_weight=weight, epsilon_boundary=0.5, epsilon_uniformity=0.7
    )
    offset = (length * offsets(6, num_views, 7)).requires_grad_()
    (expected,) = torch.autograd.grad(eq2(offset, config).sum(), offset)
    torch.testing.assert_close(eq2_gradient(offset.detach(), config), expected, rtol=1e-9, atol=1e-12)


def test_only_views_less_than_epsilon_2_apart_push():
    offset = offsets(4, 6, 5)
    assert not uniformity_gradient(offset, 0.1).any()
    assert uniformity_gradient(offset, 100.0).abs().sum() > 0


@pytest.mark.parametrize("boundary", ["squared", "hinge"])
@pytest.mark.parametrize("weight", [0.0, 0.005, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("epsilon_uniformity", [0.2, 0.5])
def test_no_step_in_any_direction_is_better_than_the_target(boundary, weight, epsilon_uniformity):
    config = WSearchConfig(boundary=boundary, uniformity_weight=weight, epsilon_uniformity=epsilon_uniformity)
    offset = 0.25 * torch.nn.functional.normalize(offsets(8, 6, 9), dim=2)
    # enough iterations to come to rest
    target = eq2_target(offset, config, num_steps=400)
    best = eq2(target, config)
    assert bool((best <= eq2(offset, config) + 1e-12).all())
    for seed in range(30):
        nearby = target + 1e-3 * offsets(8, 6, 9, seed=seed)
        # 1e-6: the iterations end a little before the minimum
        assert bool((eq2(nearby, config) >= best - 1e-6).all())


def test_the_target_of_a_simplex_has_the_balanced_distance():
    for num_views, weight in itertools.product((2, 3, 8), (0.0, 0.01, 0.05, 1.0)):
        config = WSearchConfig(uniformity_weight=weight)
        vertices = torch.eye(num_views, dtype=torch.float64) - 1 / num_views
        target = eq2_target(vertices[None], config)
        expected = balanced_distance(config, num_views)
        torch.testing.assert_close(target.norm(dim=2), torch.full_like(target[..., 0], expected))
        spread = mean_pairwise_distance(target)
        assert float(spread.max()) <= max(0.5, feasible_spread(0.3, num_views)) + 1e-9


def test_the_balance_moves_with_the_weight_and_ends_at_epsilon_2():
    found = [balanced_distance(WSearchConfig(uniformity_weight=w), 8) for w in (0, 0.005, 0.01, 0.02, 1.0)]
    # ε₁ + λ/2 · √(16/7), and ε₂ / √(16/7)
    assert found == pytest.approx([0.3, 0.303780, 0.307559, 0.315119, 0.330719], abs=1e-6)
    assert balanced_distance(WSearchConfig(), 1) == 0.3
    hinge = WSearchConfig(boundary="hinge")
    assert balanced_distance(hinge, 8) == pytest.approx(0.330719, abs=1e-6)
    assert balanced_distance(hinge.replace(epsilon_uniformity=0.1), 8) == 0.3


def test_views_between_the_boundary_and_the_balance_are_near_for_newton_alone():
    config = WSearchConfig(uniformity_weight=0.02)
    distance = torch.tensor([[0.269, 0.271, 0.3, 0.331, 0.344, 0.346, 0.3, 0.3]])
    newton = near_boundary(distance, config)[0]
    adam = near_boundary(distance, config.replace(solver="adam"))[0]
    assert newton.tolist() == [False, True, True, True, True, False, True, True]
    assert adam.tolist() == [False, True, True, False, False, False, True, True]
    hinge = near_boundary(distance, config.replace(boundary="hinge"))[0]
    assert hinge.tolist() == [False] + [True] * 7


def test_the_goal_is_epsilon_2_where_that_is_nearer_than_the_share_of_the_bound():
    bound = feasible_spread(0.3, 8)
    assert spread_goal(WSearchConfig(), 8) == pytest.approx(0.85 * bound)
    assert spread_goal(WSearchConfig(epsilon_uniformity=0.2), 8) == 0.2
    assert spread_goal(WSearchConfig(uniformity_weight=0.0), 8) == 0
