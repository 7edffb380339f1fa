"""Concentration of a sample: distances, main parts and pairs, class by class in bounded memory.

At most the views and distances of one class are in memory. Views that are drawn are some of A(x), so that d_A
of a sample of them is no less than that of all of A(x), and σ(δ) no more; the curve is therefore also drawn
for fewer views (1, 2, 4, … and all), and for the images themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.concentration.augmented_distance import augmented_distances
from viewgen.diagnostics.concentration.class_views import ClassViews, check_memory
from viewgen.diagnostics.concentration.curve import ClassCurve, Curve, class_curve, delta_of_share

__all__ = [
    "Concentration",
    "MainPart",
    "PooledPairs",
    "concentration_json",
    "measure_concentration",
    "pooled_pairs",
]

# rounding of float32 distances of the same pair in two products
ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class MainPart:
    """Main part of a class at the smallest δ that was found for a share.

    Attributes:
        delta: δ of the class, with the value that certainly does not suffice below it.
        low: δ below which no main part has the share.
        members: rows of the data set in the main part, int64.
        outliers: the other rows of the sample.
    """

    delta: float
    low: float
    members: NDArray[np.int64]
    outliers: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Concentration:
    """Concentration of a sample of images and their views.

    Attributes:
        sample: images and views.
        curves: number of views m → σ(δ), m ascending; 0 for the images themselves.
        main_parts: share → main part of each class, with all views.
        identical: True if every view equals its image.
    """

    sample: ClassViews
    curves: Mapping[int, Curve]
    main_parts: Mapping[float, tuple[MainPart, ...]]
    identical: bool

    @property
    def curve(self) -> Curve:
        """σ(δ) with all views."""
        return self.curves[self.sample.num_views]

    @property
    def delta_max(self) -> float:
        """Largest distance of two images of a class, at which every curve has reached 1."""
        return float(self.curve.delta[-1])

    def delta_of(self, share: float) -> tuple[float, float]:
        """Return an interval that holds δ(σ), the smallest δ at which every class has a part of the share."""
        parts = self.main_parts[share]
        return max(part.low for part in parts), max(part.delta for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledPairs:
    """Augmented distances of images of all classes.

    Attributes:
        distance: d_A of all pairs, float32 `(B, B)`.
        labels: class of each image, int64 `(B,)`.
    """

    distance: Tensor
    labels: Tensor


def measure_concentration(
    sample: ClassViews,
    *,
    num_deltas: int,
    shares: Sequence[float],
    exact_up_to: int,
    include_original: bool = True,
    fewer_views: bool = True,
    device: torch.device | str = "cpu",
    tell: Callable[[int, int], object] = lambda *_: None,
) -> Concentration:
    """Measure the concentration of a sample.

    Args:
        sample: images of each class with their views.
        num_deltas: T, values of δ from 0 to the largest distance of two images of a class.
        shares: shares σ whose δ is searched.
        exact_up_to: images of a class up to which open intervals are closed by branch and bound.
        include_original: whether an image is one of its own views.
        fewer_views: whether there are curves for fewer views too.
        device: device of the matrix products.
        tell: progress callback, called with the number of finished classes, and of all.

    Raises:
        OutOfMemoryError: the views and distances of a class do not fit.
    """
    check_memory(sample)
    num_views = sample.num_views
    counts = [0, num_views]
    if fewer_views:
        counts += [2**power for power in range(num_views.bit_length()) if 2**power < num_views]
    farthest = [
        float(augmented_distances(sample.images(label)[:, None], device=device).max())
        for label in range(sample.num_classes)
    ]
    # of equal images all distances are 0, and any δ would do
    delta_max = (max(farthest) or 1.0) * (1 + ROUNDING)
    delta = np.linspace(0.0, delta_max, num_deltas)
    curves: dict[int, list[ClassCurve]] = {count: [] for count in sorted(counts)}
    parts: dict[float, list[MainPart]] = {share: [] for share in shares}
    identical = True
    for label, name in enumerate(sample.names):
        views = sample.views(label)
        identical = identical and bool((views == views[:, :1]).all())
        for count, found in curves.items():
            first = 0 if include_original or count == 0 else 1
            distance = augmented_distances(views[:, first : count + 1], device=device)
            found.append(class_curve(name, distance, delta, exact_up_to=exact_up_to))
            if count == num_views:
                for share, chosen in parts.items():
                    chosen.append(_main_part(found[-1], distance, delta, share, sample.rows[label]))
        tell(label + 1, sample.num_classes)
    return Concentration(
        sample=sample,
        curves={count: Curve(delta=delta, classes=tuple(found)) for count, found in curves.items()},
        main_parts={share: tuple(chosen) for share, chosen in parts.items()},
        identical=identical,
    )


def _main_part(
    curve: ClassCurve, distance: Tensor, delta: NDArray[np.float64], share: float, rows: NDArray[np.int64]
) -> MainPart:
    low, high, members = delta_of_share(curve, distance, delta, share)
    return MainPart(delta=high, low=low, members=rows[members], outliers=rows[~members])


def pooled_pairs(
    sample: ClassViews,
    num_images: int,
    *,
    include_original: bool = True,
    device: torch.device | str = "cpu",
) -> PooledPairs:
    """Return the augmented distances of at most `num_images` images, as many of each class as there are."""
    each = max(2, num_images // sample.num_classes)
    views = [sample.views(label, each) for label in range(sample.num_classes)]
    labels = [torch.full((len(part),), label) for label, part in enumerate(views)]
    first = 0 if include_original else 1
    distance = augmented_distances(np.concatenate(views)[:, first:], device=device)
    return PooledPairs(distance=distance, labels=torch.cat(labels))


def concentration_json(found: Concentration, seed: int) -> dict[str, Any]:
    """Return data set, views, curves, main parts and areas as JSON values.

    ``"augment"`` is the name of the combination of expert operations, None of other views and settings.
    """
    curve, sample = found.curve, found.sample
    area = curve.area(seed)
    return {
        "dataset": sample.dataset.name,
        "split": sample.dataset.split,
        "views": sample.kind,
        "augment": sample.augment,
        "num_images": sample.num_images,
        "num_views": sample.num_views,
        "delta": curve.delta.tolist(),
        "sigma_low": curve.sigma_low.tolist(),
        "sigma_high": curve.sigma_high.tolist(),
        "area": {"value": area.value, "low": area.low, "high": area.high},
        "by_num_views": {
            str(count): {"sigma_low": one.sigma_low.tolist(), "sigma_high": one.sigma_high.tolist()}
            for count, one in found.curves.items()
        },
        "classes": [
            {
                "name": one.name,
                "num_images": one.num_images,
                "sigma_low": one.sigma_low.tolist(),
                "sigma_high": one.sigma_high.tolist(),
                "main_parts": {
                    f"{share:g}": {
                        "delta": parts[number].delta,
                        "delta_low": parts[number].low,
                        "members": parts[number].members.tolist(),
                        "outliers": parts[number].outliers.tolist(),
                    }
                    for share, parts in found.main_parts.items()
                },
            }
            for number, one in enumerate(curve.classes)
        ],
    }
