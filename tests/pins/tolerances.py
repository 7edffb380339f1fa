"""How far numbers of another processor may lie from the golden ones, and the comparisons.

The golden files were made by kernels for AVX2, in one thread. The bounds are a few times the largest
difference measured between them and kernels for SSE4.1 (``ATEN_CPU_CAPABILITY=default
ONEDNN_MAX_CPU_ISA=SSE41``), which stands beside each. The same kernels on one machine give the same bits:
`bits` compares those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodBounds:
    """Bounds of a method's arrays.

    Attributes:
        level: share of 8-bit values that may be off by one level.
        levels: share that may be off by more.
        distance: largest difference of a distance.
        codes: largest difference of a code's element.
        steps: largest mean difference of the numbers of steps.
        status: images whose status may differ: they converged in the last step, or did not.
    """

    level: float
    levels: float
    distance: float
    codes: float = 0.0
    steps: float = 0.0
    status: int = 0


METHODS = {
    # measured: 0; 0; 3.3e-4; 3.6e-7
    "wperturb": MethodBounds(level=0.002, levels=0.0, distance=0.002, codes=5e-6),
    # measured: 1.5e-4; 0; 2.3e-4
    "expert": MethodBounds(level=0.002, levels=0.0, distance=0.002),
    # measured: 2e-5; 0; no distance; 1.9e-6
    "invert": MethodBounds(level=0.002, levels=0.0, distance=0.0, codes=2e-5),
    # one step; measured: 0.016; 0.0012; 0.013; 0.0051
    "wsearch-short": MethodBounds(level=0.08, levels=0.01, distance=0.04, codes=0.02),
    # twelve steps; measured: 0.046; 0.0032; 0.014; 0.0044; 0.13; 1
    "wsearch-adam": MethodBounds(level=0.2, levels=0.02, distance=0.05, codes=0.02, steps=1.0, status=3),
    # up to 50 steps, after which pixels say little; measured: 0.15; 0.27; 0.024; 2.9; 0
    "wsearch": MethodBounds(level=0.6, levels=0.6, distance=0.07, steps=8.0, status=3),
}
# mean distance of all views of a method; measured: at most 0.001
MEAN_DISTANCE = 0.004
# mean squared error of a reconstruction; measured: 2e-6
INVERSION_ERROR = 1e-5
# name of a training: bounds of its first, second, third and later losses, most of which are about 3. Small
# networks start with nearly equal features for all images, and normalisation enlarges what little differs: a
# rounding error grows from step to step. The first loss says that the views and the forward pass are those of
# 0.1.0, the second and third that gradient and optimiser are.
LOSSES = {
    # measured: 0; 1e-5; 5e-5; 0.13
    "simclr": (1e-4, 1e-4, 5e-4, 0.4),
    # measured: 0; 0; 0; 0.0034
    "A2": (1e-4, 1e-4, 5e-4, 0.02),
    # measured: 0; 0; 0
    "infonce": (1e-4, 1e-4, 5e-4),
    "A2-simclr": (1e-4, 1e-4, 5e-4),
    "A2-full": (1e-4, 1e-4, 5e-4),
    # measured: 0; 0; 5e-5
    "wperturb": (1e-4, 1e-4, 5e-4),
    # measured: 0; 8e-5; 6e-4
    "A1": (1e-4, 5e-4, 3e-3),
    # measured: 2e-6; 3e-5; 0.11, of cosines of nearly equal features
    "simsiam": (1e-5, 2e-4, 0.3),
    "A2-simsiam": (1e-5, 2e-4, 0.3),
    # measured: 0; 1.9e-3; 0.015; the sign of a gradient near 0 decides a view
    "online": (1e-4, 0.01, 0.06),
    # measured: 0; 1.2e-3; 0.019; a second network climbs the same loss
    "viewmaker": (1e-4, 0.006, 0.08),
}
# of a run that goes on from a checkpoint; measured: 0
RESUMED_LOSS = 2e-3
# accuracies of 360 images; measured: 0
ACCURACY = 0.012


def assert_close(
    found: np.ndarray | Sequence[float],
    golden: np.ndarray | Sequence[float],
    bound: float | np.ndarray | Sequence[float],
) -> None:
    """Compare numbers; what is not a number is none in both."""
    a, b = np.asarray(found, float), np.asarray(golden, float)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    off = np.where(np.isnan(a), 0, np.abs(a - b))
    assert (off <= bound).all(), f"off by up to {off.max():.3g}, allowed {bound}:\n{off}"


def assert_views_close(found: np.ndarray, golden: np.ndarray, bounds: MethodBounds) -> None:
    """Compare 8-bit views by the shares of values that are off by one level and by more."""
    off = np.abs(found.astype(int) - golden.astype(int))
    level, levels = (off == 1).mean(), (off > 1).mean()
    assert level <= bounds.level, f"{level:.4f} of the values are off by a level, allowed {bounds.level}"
    assert levels <= bounds.levels, f"{levels:.4f} are off by more, allowed {bounds.levels}"


def assert_method_close(name: str, found: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> None:
    """Compare what a method stored with what it stored in 0.1.0."""
    bounds = METHODS[name]
    assert found.keys() == golden.keys()
    for array in golden:
        assert found[array].dtype == golden[array].dtype
        assert found[array].shape == golden[array].shape
    for array in ("source_index", "label"):
        np.testing.assert_array_equal(found[array], golden[array])
    assert_views_close(found["views"], golden["views"], bounds)
    assert_close(found["distance"], golden["distance"], bounds.distance)
    if name != "invert":
        assert_close(found["distance"].mean(), golden["distance"].mean(), MEAN_DISTANCE)
    assert_close(found["inversion_error"], golden["inversion_error"], INVERSION_ERROR)
    for array in golden.keys() & {"w_plus", "anchor_w_plus"}:
        assert_close(found[array], golden[array], bounds.codes)
    assert_close(np.abs(found["steps"] - golden["steps"]).mean(), 0.0, bounds.steps)
    assert (found["status"] != golden["status"]).sum() <= bounds.status


def assert_losses_close(name: str, found: Sequence[float], golden: Sequence[float]) -> None:
    """Compare the losses of a training step by step."""
    first = LOSSES[name]
    bounds = [*first, *[first[-1]] * len(golden)][: len(golden)]
    assert len(found) == len(golden)
    assert_close(found, golden, bounds)
