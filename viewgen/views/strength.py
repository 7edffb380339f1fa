"""The strength of W-perturb by its effect: the σ whose views lie at a given mean distance from their anchor.

With it, random noise is a control of equal strength for another method: what the control does too, the other
method's choice of directions does not explain.
"""

import math

import numpy as np
import torch
from torch import Tensor

from viewgen.errors import DataError, UsageError
from viewgen.images import to_model
from viewgen.networks.batched import images_at_once
from viewgen.networks.files import Models, load_models
from viewgen.networks.generator import class_labels
from viewgen.optimise.slots import equal_parts
from viewgen.randomness import addressed_generator
from viewgen.status import Status
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources, Situation
from viewgen.views.source import Images

__all__ = ["matching_sigma", "wanted_distance"]

# Distances have a heavy tail: with 128 images and 2 views of each their mean would be uncertain by 9 %.
NUM_IMAGES, NUM_VIEWS = 256, 8
LEAST, MOST = 1e-3, 10.0
TOLERANCE = 1e-3
"""Relative error of the distance that is measured at the σ found."""


def wanted_distance(strength: str) -> float:
    """Return the mean distance that ``distance:D`` or ``match:CACHE`` asks for.

    Raises:
        UsageError: D is no distance between unit vectors.
        DataError: the cache has no distances.
    """
    kind, _, value = strength.partition(":")
    if kind == "match":
        from viewgen.store import CacheReader

        found = CacheReader(value)
        rows = np.flatnonzero(found.status == Status.OK)
        distance = float(np.nanmean(found.distance[rows])) if len(rows) else math.nan
        if not math.isfinite(distance):
            raise DataError(
                f"{value} has no view whose distance was measured; expected the cache of a method that uses "
                "an encoder"
            )
        return distance
    try:
        distance = float(value)
    except ValueError:
        distance = math.nan
    if not 0 < distance < 2:
        raise UsageError(f"strength is {strength!r}; expected distance:D with 0 < D < 2, or match:CACHE")
    return distance


@torch.no_grad()
def matching_sigma(distance: float, truncation: float, situation: Situation) -> float:
    """Return the σ, to three digits, whose views lie at `distance` from their anchor in the mean.

    It is measured on the codes of a random sample of images, refined as those of the cache are.

    Args:
        distance: mean of ‖f(g(c + ψσu)) − f(g(c))‖.
        truncation: ψ.
        situation: data set, networks, inversion and seed.

    Raises:
        UsageError: no σ between 0.001 and 10 has that distance.
        DataError: no image of the sample has an inversion.
    """
    dataset = situation.dataset
    kinds = ("generator", "inverter", "encoder", "discriminator")
    models = load_models({kind: path for kind, path in situation.networks.items() if kind in kinds}, "cpu")
    inverting, encoder = models.inverting(), models.encoder
    assert encoder is not None
    order = torch.randperm(len(dataset), generator=addressed_generator(situation.seed, "strength"))
    rows = order[:NUM_IMAGES].sort().values
    codes, there = _codes(situation, models, rows)
    rows = rows[there]
    draws = ImageDraws(situation.seed, rows)
    noise = inverting.code_scale * draws.normal("strength", NUM_VIEWS, *codes.shape[1:]).flatten(0, 1)
    at_once = images_at_once(dataset.image_size, torch.device("cpu"))

    def projected(codes: Tensor) -> Tensor:
        parts = equal_parts(codes, at_once)
        return torch.cat([encoder(inverting.decode(part).clamp(-1, 1))[:kept] for part, kept in parts])

    anchors = projected(codes).repeat_interleave(NUM_VIEWS, dim=0)
    codes = codes.repeat_interleave(NUM_VIEWS, dim=0)

    def mean_distance(sigma: float) -> float:
        return float((projected(codes + truncation * sigma * noise) - anchors).norm(dim=1).mean())

    least, most = mean_distance(LEAST), mean_distance(MOST)
    if not least <= distance <= most:
        raise UsageError(
            f"no σ between {LEAST} and {MOST:g} gives views at a mean distance of {distance:.3f} from their "
            f"anchor ({least:.3f} to {most:.3f})"
        )
    # regula falsi of both logarithms (Illinois)
    before, there_before = math.log(LEAST), math.log(least / distance)
    last, there_last = math.log(MOST), math.log(most / distance)
    while True:
        middle = last - there_last * (last - before) / (there_last - there_before)
        found = math.log(mean_distance(math.exp(middle)) / distance)
        if abs(found) < TOLERANCE or abs(middle - last) < TOLERANCE:
            return float(f"{math.exp(middle):.3g}")
        if found * there_last < 0:
            before, there_before = last, there_last
        else:
            there_before /= 2
        last, there_last = middle, found


def _codes(situation: Situation, models: Models, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes of images `(n, *code_shape)` and the places of these images among `rows`."""
    pixels = torch.from_numpy(situation.dataset.images(rows.numpy()))
    labels = torch.from_numpy(situation.dataset.labels(rows.numpy()))
    if situation.inversion is None:
        inverting = models.inverting()
        given = class_labels(labels, inverting.num_classes) if inverting.num_classes else None
        return inverting.start(to_model(pixels), given), torch.arange(len(rows))
    method = situation.inversion
    source = method.entry.build(method.settings, Resources(models=models))
    with torch.enable_grad():
        draws = ImageDraws(situation.seed, rows)
        views = source.views(Images(pixels=pixels, source_index=rows, labels=labels, draws=draws), 1)
    assert views.status is not None
    kept = torch.nonzero(views.status != Status.FAILED)[:, 0]
    if not len(kept):
        raise DataError(f"none of {len(rows)} images could be inverted, so that no strength can be measured")
    return views.columns["anchor_w_plus"][kept], kept
