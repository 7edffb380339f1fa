"""InfoNCE with one negative in its two parts, and the divergence that the second part bounds (Theorem 3).

For unit outputs and temperature τ, L = L₁ + L₂ with L₁ = (L_align/2 − 1)/τ and
L₂ = E log(exp(f₁·f₂/τ) + exp(f₁·f⁻/τ)). Theorem 3, at τ = 1: μ_k·μ_ℓ ≤ log(exp((L₂ + τ_c)/(p_k p_ℓ)) −
e^{1−ε}) with a τ_c ≥ 0 of unprinted form that vanishes in the perfect case (σ 1, δ, ε and R_ε 0). It never
binds: L₂ ≥ log(e + e⁻¹) and p_k p_ℓ ≤ 1/4, so its right side is at least 4.47, and no product exceeds 1.

Sharper, in the perfect case with ‖μ_k‖ = 1: with D = Σp_k², w = 2p_kp_ℓ and R = 1 − D − w, the product is at
most the largest x in [−1, 1] with

    D log 2e + w log(e + eˣ) + R log(e + exp(−(D + wx)/R)) ≤ L₂,

because log(e + eˣ) is convex and ‖Σ p_k μ_k‖² ≥ 0. Equality holds at a simplex of two classes.

Shape legend: N images, d output width.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    Theorem 3, https://arxiv.org/abs/2111.00743
"""

import math

import torch
from torch import Tensor

from viewgen.diagnostics.bounds.embedding import Embedded
from viewgen.randomness import addressed_generator

__all__ = ["infonce_parts", "sampled_infonce", "sharper_product_bound", "theorem3"]

STEPS = 100
ROUNDING = 1e-12


def infonce_parts(
    first: Tensor, second: Tensor, negative: Tensor, weights: Tensor, temperature: float = 1.0
) -> tuple[float, float]:
    """Return L₁ and L₂ for one draw of views; every image's negative is an expectation over all images.

    Args:
        first: unit outputs of a view of each image, `(N, d)`.
        second: those of another, drawn independently.
        negative: those of a third.
        weights: weight of each image, `(N,)`, with sum 1.
        temperature: τ.
    """
    first, second, negative = (one.double() / temperature**0.5 for one in (first, second, negative))
    positive = (first * second).sum(dim=1)
    both = torch.logaddexp(positive[:, None], first @ negative.T)
    return float(-(weights @ positive)), float(weights @ both @ weights)


def sampled_infonce(
    sample: Embedded, *, temperature: float, num_draws: int, seed: int
) -> tuple[float, float]:
    """Return L₁ and L₂, means over draws of the views of each image.

    Args:
        sample: unit outputs.
        temperature: τ.
        num_draws: number of draws.
        seed: seed of the draws.
    """
    num_images, num_views = sample.z.shape[:2]
    rows, found = torch.arange(num_images), []
    for draw in range(num_draws):
        random = addressed_generator(seed, "infonce", draw)
        picks = torch.randint(num_views, (3, num_images), generator=random)
        first, second, negative = (sample.z[rows, pick] for pick in picks)
        found.append(infonce_parts(first, second, negative, sample.weights, temperature))
    return tuple(torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist())


def theorem3(
    uniform_part: float, first_share: float, second_share: float, epsilon: float = 0.0
) -> float | None:
    """Return Theorem 3's bound of μ_k·μ_ℓ as printed, with τ_c = 0.

    None where L₂ is so small that the logarithm has no argument: views of an image are then opposite, and τ_c
    is far from 0.

    Args:
        uniform_part: L₂ at temperature 1.
        first_share: p_k.
        second_share: p_ℓ.
        epsilon: ε.
    """
    exponent = uniform_part / (first_share * second_share)
    if exponent <= 1 - epsilon:
        return None
    # log(e^a − e^b) without e^a
    return exponent + math.log1p(-math.exp(1 - epsilon - exponent))


def sharper_product_bound(uniform_part: float, shares: Tensor, first: int, second: int) -> float | None:
    """Return the sharper bound of μ_k·μ_ℓ, or None where L₂ is less than the perfect case allows.

    Args:
        uniform_part: L₂ at temperature 1.
        shares: p, `(K,)`, with sum 1.
        first: k.
        second: ℓ.
    """
    same = float(shares.square().sum())
    pair = 2 * float(shares[first] * shares[second])
    rest = 1 - same - pair if len(shares) > 2 else 0.0

    def least(x: float) -> float:
        value = same * math.log(2 * math.e) + pair * math.log(math.e + math.exp(x))
        if rest > 0:
            value += rest * math.log(math.e + math.exp(-(same + pair * x) / rest))
        return value

    if least(1.0) <= uniform_part:
        return 1.0
    # convex in x: the largest x lies above the minimum, where the left side rises again
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        third = (high - low) / 3
        low, high = (low, high - third) if least(low + third) <= least(high - third) else (low + third, high)
    low, high = (low + high) / 2, 1.0
    if least(low) > uniform_part + ROUNDING:
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if least(middle) <= uniform_part else (low, middle)
    return high
