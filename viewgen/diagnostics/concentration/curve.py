"""σ(δ): the share of a class whose images lie within δ of each other in augmented distance.

A collection of augmented data is (σ, δ)-augmented if each class has a main part with a share of at least σ
whose images have pairwise d_A ≤ δ. So σ(δ) is the smallest ω_k(δ) / n_k over the classes, ω_k the size of the
largest clique of the graph d_A ≤ δ. Cliques come as intervals (`viewgen.diagnostics.concentration.clique`),
hence σ too: `sigma_low` is reached by main parts that are at hand, `sigma_high` is exceeded by none. A clique
at δ is one at any larger δ, so bounds from below are carried upwards and bounds from above downwards.

The area under 1 − σ(δ), in shares of the largest δ, sums the curve up: 0 if all images of a class share a
view, 1 if no two are near. Between two values of δ only monotony is known; the interval of the area counts
that in.

Shape legend: K classes, N images of a class, T values of δ, R resamples.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    definition 1, https://arxiv.org/abs/2111.00743
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.bootstrap import LEVELS, resampled_counts
from viewgen.diagnostics.concentration.clique import (
    CliqueBounds,
    clique_bounds,
    extended_clique,
    greedy_clique,
)
from viewgen.randomness import addressed_seed

__all__ = ["Area", "ClassCurve", "Curve", "class_curve", "delta_of_share"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCurve:
    """Main parts of one class at every δ.

    Attributes:
        name: name of the class.
        members: images of the main part that was found, bool `(T, N)`; their number never falls.
        high: size that no main part exceeds, int64 `(T,)`.
    """

    name: str
    members: NDArray[np.bool_]
    high: NDArray[np.int64]

    @property
    def num_images(self) -> int:
        """N."""
        return int(self.members.shape[1])

    @property
    def low(self) -> NDArray[np.int64]:
        """Size of the main part that was found, `(T,)`."""
        return np.asarray(self.members.sum(axis=1))

    @property
    def sigma_low(self) -> Floats:
        """Share of the main part that was found, `(T,)`."""
        return np.asarray(self.low / self.num_images)

    @property
    def sigma_high(self) -> Floats:
        """Share that no main part exceeds, `(T,)`."""
        return np.asarray(self.high / self.num_images)


@dataclass(frozen=True, slots=True)
class Area:
    """Area under 1 − σ(δ), in shares of the largest δ.

    Attributes:
        value: area by the main parts that were found.
        low: lower end: of the certified interval, widened by the spread of resamples.
        high: upper end of the same.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """σ(δ) of all classes.

    Attributes:
        delta: values of δ, ascending, pixels in [0, 1], `(T,)`.
        classes: main parts of each class.
    """

    delta: Floats
    classes: tuple[ClassCurve, ...]

    @property
    def sigma_low(self) -> Floats:
        """σ(δ) by the main parts that were found, `(T,)`."""
        return np.asarray(np.min([one.sigma_low for one in self.classes], axis=0))

    @property
    def sigma_high(self) -> Floats:
        """Value that σ(δ) does not exceed, `(T,)`."""
        return np.asarray(np.min([one.sigma_high for one in self.classes], axis=0))

    def area(self, seed: int) -> Area:
        """Return the area under 1 − σ(δ) with its interval.

        Resamples are drawn within classes. They keep the main parts that were found, whose share is then that
        of the resampled images in them: the first-order change of the largest clique.
        """
        value = float(_area(self.delta, self.sigma_low))
        step = np.diff(self.delta) / self.delta[-1]
        least = float(step @ (1 - self.sigma_high[1:]))
        most = float(step @ (1 - self.sigma_low[:-1]))
        resampled = []
        for number, one in enumerate(self.classes):
            counts = resampled_counts(one.num_images, addressed_seed(seed, "concentration", number))
            resampled.append(torch.from_numpy(one.members).double() @ counts.T / one.num_images)
        sigma = torch.stack(resampled).amin(dim=0).numpy()
        areas = _area(self.delta, sigma.T)
        low, high = np.quantile(areas, LEVELS)
        below, above = min(0.0, float(low) - value), max(0.0, float(high) - value)
        return Area(value, max(0.0, least + below), min(1.0, most + above))


def _area(delta: Floats, sigma: Floats) -> Floats:
    return np.asarray(np.trapezoid(1 - sigma, delta) / delta[-1])


def class_curve(name: str, distance: Tensor, delta: Floats, *, exact_up_to: int) -> ClassCurve:
    """Return the main parts of a class.

    Args:
        name: name of the class.
        distance: d_A of its images, float32 `(N, N)`.
        delta: values of δ, ascending, `(T,)`.
        exact_up_to: N up to which open intervals are closed by branch and bound.
    """
    d = distance.numpy()
    members = np.zeros((len(delta), len(d)), np.bool_)
    high = np.zeros(len(delta), np.int64)
    found: CliqueBounds | None = None
    for place, limit in enumerate(delta.tolist()):
        if found is None or found.low < len(d):
            start = None if found is None else found.members
            found = clique_bounds(_apart(d, limit), exact_up_to=exact_up_to, start=start)
        members[place], high[place] = found.members, found.high
    return ClassCurve(name=name, members=members, high=np.minimum.accumulate(high[::-1])[::-1])


def _apart(distance: NDArray[np.float32], limit: float) -> NDArray[np.bool_]:
    return np.asarray(distance > _rounded(limit))


def _rounded(limit: float) -> np.float32:
    """Return the largest float32 that is not above a limit; comparisons then need no float64 copies."""
    rounded = np.float32(limit)
    # a Python float beside a float32 would be rounded itself
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > limit else rounded


def delta_of_share(
    curve: ClassCurve, distance: Tensor, delta: Floats, share: float
) -> tuple[float, float, NDArray[np.bool_]]:
    """Return an interval that holds the smallest δ at which a class has a main part of a share.

    Bisects over the distances between those values of δ of the curve that lie on either side.

    Args:
        curve: main parts of the class.
        distance: d_A of its images, float32 `(N, N)`.
        delta: values of δ of the curve, `(T,)`.
        share: share of the class, above 0 and at most 1.

    Returns:
        lower end, upper end, and the members of a main part at the upper end, bool `(N,)`.
    """
    # 0.9 of 10 images are 9, whatever the rounding of 0.9 · 10
    needed = max(1, int(np.ceil(share * curve.num_images - 1e-9)))
    if curve.low[0] >= needed:
        return 0.0, 0.0, curve.members[0]
    d = distance.numpy()
    values = _sorted_pairs(d)
    enough = np.flatnonzero(curve.low >= needed)
    first = int(enough[0]) if len(enough) else len(delta)
    start = curve.members[first - 1]

    def found(limit: float) -> NDArray[np.bool_]:
        apart = _apart(d, limit)
        cliques = (extended_clique(one, apart) for one in (greedy_clique(apart), start))
        return max(cliques, key=np.count_nonzero)

    def reached(limit: float) -> bool:
        return int(found(limit).sum()) >= needed

    def possible(limit: float) -> bool:
        return clique_bounds(_apart(d, limit)).high >= needed

    last = float(delta[first]) if first < len(delta) else np.inf
    high = _smallest(values, float(delta[first - 1]), last, reached)
    members = found(high)
    if members.sum() < needed:
        # at that δ the curve has its main part from a search that this one does not repeat
        members = curve.members[first]
    impossible = np.flatnonzero(curve.high < needed)
    low = _smallest(values, float(delta[impossible[-1]]) if len(impossible) else -1.0, high, possible)
    return low, high, members


def _sorted_pairs(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distances of all pairs, ascending, `(N(N − 1)/2,)`, without arrays of indices."""
    size = len(distance)
    values = np.empty(size * (size - 1) // 2, np.float32)
    end = 0
    for row in range(1, size):
        values[end : end + row] = distance[row, :row]
        end += row
    values.sort()
    return values


def _smallest(
    values: NDArray[np.float32], below: float, last: float, holds: Callable[[float], bool]
) -> float:
    """Return a value above `below` at which `holds` and not at a smaller one, if it holds at `last`.

    Args:
        values: distances, ascending; the same one may be there several times.
        below: distance at which it does not hold.
        last: distance at which it does.
        holds: predicate that stays true at larger distances.
    """
    left = int(np.searchsorted(values, _rounded(below), side="right"))
    right = max(left, int(np.searchsorted(values, _rounded(last), side="right")) - 1)
    right = min(right, len(values) - 1)
    while left < right:
        middle = (left + right) // 2
        if holds(float(values[middle])):
            right = middle
        else:
            left = middle + 1
    return float(values[right])
