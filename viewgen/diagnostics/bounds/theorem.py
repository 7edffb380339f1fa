"""Lemma 1 and Theorem 2: error of the nearest-centre classifier by concentration, alignment and divergence.

Lemma 1: a classifier that is right on every image that is in a main part and in S_ε has an error of at most
(1 − σ) + R_ε. Theorem 2: G_f is such a classifier if the inner product of any two centres is below
r²(1 − ρ_max − √(2ρ_max) − Δ_μ/2), where ρ_max = 2(1 − σ) + R_ε / min p + σ(Lδ + 2ε)/r. Any δ and ε may be
chosen; taken are those of the smallest bound that holds. Where none does, taken are those of the smallest
ρ_max among the δ whose concentration alone the condition would allow, so that the summands tell what is in
the way.

An image counts among its own views, because nothing follows for f(x) otherwise.

Shape legend: T values of δ, E values of ε, N images.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    Lemma 1 and Theorem 2, https://arxiv.org/abs/2111.00743
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lemma1", "RhoTerms", "Theorem2", "lemma1", "rho_allowed", "rho_terms", "theorem2", "threshold"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RhoTerms:
    """The summands of ρ_max, arrays of one shape.

    Attributes:
        concentration: 2(1 − σ).
        loose: R_ε / min p.
        distance: σLδ/r.
        tightness: 2σε/r.
    """

    concentration: Floats
    loose: Floats
    distance: Floats
    tightness: Floats

    @property
    def total(self) -> Floats:
        """ρ_max."""
        return np.asarray(self.concentration + self.loose + self.distance + self.tightness)


def rho_terms(
    sigma: Floats,
    delta: Floats,
    epsilon: Floats,
    loose_share: Floats,
    *,
    smallest_share: Floats | float,
    lipschitz: Floats | float,
    radius: Floats | float = 1.0,
) -> RhoTerms:
    """Return the summands of ρ_max.

    Args:
        sigma: σ(δ).
        delta: δ.
        epsilon: ε.
        loose_share: R_ε.
        smallest_share: min p_k.
        lipschitz: L.
        radius: r.
    """
    shape = np.broadcast_shapes(*(np.shape(one) for one in (sigma, delta, epsilon, loose_share)))

    def whole(values: Floats) -> Floats:
        return np.asarray(np.broadcast_to(values, shape))

    return RhoTerms(
        concentration=whole(2 * (1 - sigma)),
        loose=whole(loose_share / smallest_share),
        distance=whole(sigma * lipschitz * delta / radius),
        tightness=whole(2 * sigma * epsilon / radius),
    )


def threshold(rho_max: Floats, delta_mu: Floats | float) -> Floats:
    """Return the value below which all products μ_ℓ·μ_k / r² must lie."""
    return np.asarray(1 - rho_max - np.sqrt(2 * rho_max) - delta_mu / 2)


def rho_allowed(largest: float, delta_mu: float) -> float:
    """Return the ρ_max below which the condition holds, 0 if it never does.

    Args:
        largest: largest product μ_ℓ·μ_k / r².
        delta_mu: Δ_μ.
    """
    room = 1 - largest - delta_mu / 2
    return float((np.sqrt(1 + 2 * room) - 1) ** 2 / 2) if room > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Theorem2:
    """The theorem at the chosen δ and ε.

    Attributes:
        delta: δ.
        epsilon: ε.
        sigma: σ(δ).
        loose_share: R_ε.
        terms: summands of ρ_max.
        threshold: value below which the products must lie, in units of r².
        holds: True if the condition is met, so that the bound is one.
    """

    delta: float
    epsilon: float
    sigma: float
    loose_share: float
    terms: dict[str, float]
    threshold: float
    holds: bool

    @property
    def rho_max(self) -> float:
        """ρ_max."""
        return sum(self.terms.values())

    @property
    def bound(self) -> float:
        """(1 − σ) + R_ε."""
        return 1 - self.sigma + self.loose_share


def theorem2(
    delta: Floats,
    sigma: Floats,
    epsilon: Floats,
    loose_share: Floats,
    *,
    largest: float,
    delta_mu: float,
    smallest_share: float,
    lipschitz: float,
    radius: float = 1.0,
) -> Theorem2:
    """Return the theorem at the best δ and ε of a grid.

    Args:
        delta: values of δ, `(T,)`.
        sigma: σ(δ), `(T,)`.
        epsilon: values of ε, `(E,)`.
        loose_share: R_ε, `(E,)`.
        largest: largest product μ_ℓ·μ_k / r².
        delta_mu: Δ_μ.
        smallest_share: min p_k.
        lipschitz: L.
        radius: r.
    """
    terms = rho_terms(
        sigma[:, None],
        delta[:, None],
        epsilon[None],
        loose_share[None],
        smallest_share=smallest_share,
        lipschitz=lipschitz,
        radius=radius,
    )
    limit = threshold(terms.total, delta_mu)
    holds = limit > largest
    bound = 1 - sigma[:, None] + loose_share[None]
    if holds.any():
        best = np.where(holds, bound, np.inf).argmin()
    else:
        allowed = terms.concentration < rho_allowed(largest, delta_mu)
        if not allowed.any():
            allowed = terms.concentration == terms.concentration.min()
        best = np.where(allowed, terms.total, np.inf).argmin()
    t, e = np.unravel_index(int(best), limit.shape)
    return Theorem2(
        delta=float(delta[t]),
        epsilon=float(epsilon[e]),
        sigma=float(sigma[t]),
        loose_share=float(loose_share[e]),
        terms={
            name: float(getattr(terms, name)[t, e])
            for name in ("concentration", "loose", "distance", "tightness")
        },
        threshold=float(limit[t, e]),
        holds=bool(holds[t, e]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Lemma1:
    """The lemma at the δ and ε of its smallest bound.

    Attributes:
        delta: δ.
        epsilon: ε.
        bound: (1 − σ) + R_ε.
        sharper: Σ p_k (1 − σ_k) + R_ε, with the main part of each class, at the same δ and ε.
    """

    delta: float
    epsilon: float
    bound: float
    sharper: float


def lemma1(
    delta: Floats,
    sigma: Floats,
    members: NDArray[np.bool_],
    epsilon: Floats,
    diameter: Floats,
    wrong: NDArray[np.bool_],
    weights: Floats,
) -> Lemma1 | None:
    """Return the smallest bound among the δ and ε at which the lemma's premise holds; None if it never does.

    Args:
        delta: values of δ, `(T,)`.
        sigma: σ(δ), `(T,)`.
        members: images in a main part, bool `(T, N)`.
        epsilon: values of ε, `(E,)`.
        diameter: largest distance between two views of each image, `(N,)`.
        wrong: images that the classifier puts into another class, bool `(N,)`.
        weights: weight of each image, `(N,)`, with sum 1.
    """
    loose = diameter > epsilon[:, None]
    # number of images that are misread although they are in a main part and in S_ε, (T, E)
    misread = (members & wrong).astype(np.float64) @ (~loose).T.astype(np.float64)
    loose_share = loose @ weights
    bound = np.where(misread == 0, 1 - sigma[:, None] + loose_share[None], np.inf)
    t, e = np.unravel_index(int(bound.argmin()), bound.shape)
    if not np.isfinite(bound[t, e]):
        return None
    return Lemma1(
        delta=float(delta[t]),
        epsilon=float(epsilon[e]),
        bound=float(bound[t, e]),
        sharper=float(~members[t] @ weights + loose_share[e]),
    )
