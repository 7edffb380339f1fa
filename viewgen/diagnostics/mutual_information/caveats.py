"""Caveats of an estimate: what a reader must know before believing it.

References:
    Formal Limitations on the Measurement of Mutual Information, McAllester and Stratos, 2020,
    https://arxiv.org/abs/1811.04251
"""

import math

import torch
from torch import Tensor

from viewgen.diagnostics import ESTIMATORS
from viewgen.diagnostics.mutual_information.bound import Bound
from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimator import Estimator

__all__ = ["below_zero", "blank_images", "caveats", "heavy_tails", "still_rising"]

MIN_EFFECTIVE_PAIRS = 50
# a Gaussian's kurtosis is 3, a Laplace distribution's 6
HEAVY_TAIL_KURTOSIS = 12.0
# a coordinate with fewer values has rare symbols, not tails
MIN_VALUES = 20


def blank_images(x: Tensor, y: Tensor) -> list[str]:
    """Return a caveat for each side with images of one colour, `(N, C, H, W)`."""
    if x.ndim != 4:
        return []
    counts = {
        name: int((side.flatten(2).amax(2) == side.flatten(2).amin(2)).all(dim=1).sum())
        for name, side in (("x", x), ("y", y))
    }
    return [
        f"{count} of {len(x)} held-out images of {name} are of one colour throughout"
        for name, count in counts.items()
        if count
    ]


def heavy_tails(x: Tensor, y: Tensor) -> list[str]:
    """Return a caveat for each side of vectors `(N, D)` with coordinates of heavy tails."""
    if x.ndim != 2:
        return []
    found = []
    for name, side in (("x", x.double()), ("y", y.double())):
        centred = side - side.mean(dim=0)
        variance = centred.square().mean(dim=0)
        kurtosis = centred.pow(4).mean(dim=0) / variance.square()
        heavy = [
            column
            for column in torch.nonzero(kurtosis > HEAVY_TAIL_KURTOSIS).flatten().tolist()
            if len(side[:, column].unique()) >= MIN_VALUES
        ]
        if heavy:
            found.append(
                f"{len(heavy)} of {side.shape[1]} coordinates of {name} have heavy tails (kurtosis up to "
                f"{float(kurtosis[heavy].max()):.0f}; a Gaussian's is 3): few rows carry their variance, and "
                "the estimate may be far too low; logarithms or ranks of the coordinates share as much, and "
                "are read better"
            )
    return found


def below_zero(bounds: dict[str, Bound]) -> list[str]:
    """Return a caveat if held-out values are negative."""
    values = [
        f"{ESTIMATORS.entry(name).title} {bound.below_zero:.2g}"
        for name, bound in bounds.items()
        if bound.below_zero is not None
    ]
    if not values:
        return []
    return [
        f"below 0 nats on the held-out images, where mutual information is at least 0: {', '.join(values)}; "
        "0 is reported: either nothing is shared, or the network found what holds for its own images only "
        "(take more images)"
    ]


def caveats(
    estimator: Estimator, bound: Bound, num_held_out: int, effective: float, config: MIConfig
) -> list[str]:
    """Return the caveats about the trained estimator's value."""
    found = []
    if bound.saturated:
        assert estimator.ceiling is not None
        found.append(
            f"saturated: {estimator.title} cannot exceed ln {config.batch_size} = {estimator.ceiling:.2f} "
            "nats and falls short well before; the mutual information may be any amount larger (take a "
            "larger batch, or mine)"
        )
    if bound.nats > math.log(num_held_out):
        found.append(
            f"beyond ln {num_held_out} = {math.log(num_held_out):.2f} nats, which is as much as "
            f"{num_held_out} held-out images can vouch for (McAllester and Stratos 2020); take more images"
        )
    if estimator.name in ("mine", "nwj") and effective < MIN_EFFECTIVE_PAIRS:
        found.append(
            f"the mean over the marginals rests on about {effective:.0f} pairs, so the interval is too "
            "narrow; take more images, or compare with smile"
        )
    if estimator.name == "smile" and bound.nats > config.clip:
        found.append(f"beyond its clip of {config.clip:g} nats SMILE may be far too high")
    return found


def still_rising(objectives: dict[int, float]) -> list[str]:
    """Return a caveat if the last updates raised the objective, step → objective on validation images."""
    steps = sorted(objectives)
    if len(steps) < 2 or objectives[steps[-1]] < objectives[steps[-2]] + 0.05:
        return []
    return [f"the bound still rose between updates {steps[-2]} and {steps[-1]}; more steps may give more"]
