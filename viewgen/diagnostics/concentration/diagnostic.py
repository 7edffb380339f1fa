"""Concentration as a diagnostic: area under 1 − σ(δ), δ for a share, pairs within and between classes.

Beside each number stand its direction and what is certified. Drawn views are some of A(x): of the same images
with more views d_A, δ and areas can only fall and σ rise. Of other images all are estimates.

The better augmented data are concentrated within classes, the sooner 1 − σ(δ) falls. Compared are numbers of
the same images, of as many views each: the largest clique of a sample depends on both.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    https://arxiv.org/abs/2111.00743
"""

import json
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator

from viewgen.diagnostics.concentration.class_views import CERTIFIED, ClassViews, ClassViewsConfig, class_views
from viewgen.diagnostics.concentration.measurement import (
    Concentration,
    concentration_json,
    measure_concentration,
    pooled_pairs,
)
from viewgen.diagnostics.concentration.pairs import pair_measures, pair_shares
from viewgen.diagnostics.concentration.plot import draw_curves, draw_main_parts
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.registry import Entry
from viewgen.settings import setting

__all__ = ["ENTRY", "ConcentrationConfig", "ConcentrationOfViews"]

# shares of the largest δ at which σ is reported
REPORTED = (0.25, 0.5, 0.75)


class ConcentrationConfig(ClassViewsConfig):
    """Images, views, and precision of the curve."""

    title = "concentration"

    include_original: bool = setting(True, "whether an image is one of its own views")
    fewer_views: bool = setting(True, "whether there is an area for 1, 2, 4 … views too")
    num_deltas: int = setting(40, "values of δ on the curve", ge=2, le=1000)
    shares: tuple[float, ...] = setting((0.5, 0.9), "shares σ of a class whose δ is searched")
    num_pooled: int = setting(500, "images of all classes whose pairs are compared; 0 for none", ge=0)
    exact_up_to: int = setting(
        150, "images of a class up to which open intervals are closed by branch and bound", ge=0, le=150
    )
    per_class: bool = setting(False, "whether each class has an area too")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        wrong = [share for share in self.shares if not 0 < share <= 1]
        if wrong:
            raise ValueError(f"shares has {wrong[0]:g}; expected shares of a class, above 0 and at most 1")
        return self


class ConcentrationOfViews:
    """Concentration of the views of a cache, or of expert views.

    Args:
        config: images, views, and precision of the curve.
    """

    needs = frozenset({"train"})

    def __init__(self, config: ConcentrationConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return areas, δ and σ of the sample, and the areas of pairs."""
        config = self.config
        sample = class_views(subject, config, seed)
        found = measure_concentration(
            sample,
            num_deltas=config.num_deltas,
            shares=config.shares,
            exact_up_to=config.exact_up_to,
            include_original=config.include_original,
            fewer_views=config.fewer_views,
            device=subject.device,
            tell=partial(subject.tell, "concentration"),
        )
        if found.identical:
            subject.note(
                f"every {sample.kind} view equals its image: A(x) holds x alone, and the concentration is "
                "that of the images"
            )
        document = concentration_json(found, seed)
        if config.shares and config.views != "expert" and subject.has("cache"):
            subject.keep_column("main_part", *_membership(found))
        measures = [*self._areas(found, seed), *self._deltas(found), *_sigmas(found)]
        if config.num_pooled:
            pooled = pooled_pairs(
                sample,
                config.num_pooled,
                include_original=config.include_original,
                device=subject.device,
            )
            on = f"pairs of {len(pooled.labels):,} images × {sample.num_views} views"
            areas = pair_measures(pooled.distance, pooled.labels, found.delta_max, seed=seed, on=on)
            measures += areas
            document["pair_areas"] = {
                area.name: {"value": area.value, "low": area.low, "high": area.high} for area in areas
            }
            delta = torch.from_numpy(found.curve.delta)
            within, between = pair_shares(pooled.distance, pooled.labels, delta)
            shares = {"within": within, "between": between}
            # of one class there are no pairs between classes
            document["pairs"] = {
                name: share.tolist() for name, share in shares.items() if bool(share.isfinite().all())
            }
        subject.keep_file("curves.json", lambda: json.dumps(document, allow_nan=False).encode())
        subject.keep_file("curves.png", lambda: draw_curves(document))
        subject.keep_file("main-parts.png", lambda: draw_main_parts(found))
        return measures

    def _areas(self, found: Concentration, seed: int) -> list[Measure]:
        sample = found.sample
        measures = []
        for count in sorted(found.curves, reverse=True):
            group = {sample.num_views: _of(sample), 0: "images alone"}.get(
                count, f"{_of(sample)}, {count} of {sample.num_views} views"
            )
            area = found.curves[count].area(seed)
            on = f"{sample.on}; {'at most; ' if count else ''}interval {CERTIFIED}"
            measures.append(
                Measure(name="area", value=area.value, low=area.low, high=area.high, on=on, group=group)
            )
        if self.config.per_class:
            for one in found.curve.classes:
                area = type(found.curve)(delta=found.curve.delta, classes=(one,)).area(seed)
                on = f"{one.num_images:,} images × {sample.num_views} views; at most; interval {CERTIFIED}"
                measures.append(
                    Measure(
                        name="area", value=area.value, low=area.low, high=area.high, on=on, group=one.name
                    )
                )
        return measures

    def _deltas(self, found: Concentration) -> list[Measure]:
        sample = found.sample
        scale = (sample.dataset.channels * sample.dataset.image_size**2) ** 0.5
        on = sample.certified("at most")
        largest = f"images alone; at least, {CERTIFIED}"
        measures = [Measure(name="delta_max", value=found.delta_max, on=largest, group=_of(sample))]
        for share in found.main_parts:
            low, high = found.delta_of(share)
            for name, unit in (("delta", 1.0), ("delta_rms", scale)):
                measures.append(
                    Measure(
                        name=f"{name}[σ = {share:g}]",
                        value=high / unit,
                        low=low / unit,
                        high=high / unit,
                        on=on,
                        group=_of(sample),
                    )
                )
        return measures


def _of(sample: ClassViews) -> str:
    """Return the name of the views in measures: one for all methods of caches, which a table compares."""
    return "expert" if sample.kind == "expert" else "cached views"


def _membership(found: Concentration) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the images of the sample, and 1 for those in the largest share's main part of their class."""
    parts = found.main_parts[max(found.main_parts)]
    rows = np.concatenate(found.sample.rows)
    inside = np.isin(rows, np.concatenate([part.members for part in parts]))
    return rows, inside.astype(np.float32)


def _sigmas(found: Concentration) -> list[Measure]:
    curve, sample = found.curve, found.sample
    measures = []
    for part in REPORTED:
        place = round(part * (len(curve.delta) - 1))
        low, high = float(curve.sigma_low[place]), float(curve.sigma_high[place])
        name = f"sigma[δ = {part:g} δ_max]"
        on = sample.certified("at least")
        measures.append(Measure(name=name, value=low, low=low, high=high, on=on, group=_of(sample)))
    return measures


ENTRY = Entry(
    name="concentration",
    summary="concentration of the views of each class: area under 1 − σ(δ), within and between classes",
    settings=ConcentrationConfig,
    needs=ConcentrationOfViews.needs,
    build=ConcentrationOfViews,
    on_request=True,
)
