"""Bounds on the error of the nearest-centre classifier as a diagnostic, each with every term beside it.

What is certified is so for a finite world: the drawn images with their drawn views, the image itself among
them, with classes in their true shares; there L is the largest ratio of all pairs, and a bound that holds is
one. Of others the same numbers are estimates, with a direction where there is one: more views can only lower
d_A, raise R_ε and raise L; more images can do either. Both stand beside each number.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    https://arxiv.org/abs/2111.00743
"""

import json
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_over_images
from viewgen.diagnostics.bounds.centres import Divergence, class_centres, divergence
from viewgen.diagnostics.bounds.correlation import cross_correlation, standardised
from viewgen.diagnostics.bounds.embedding import (
    Embedded,
    Space,
    embed,
    embed_sample,
    one_norm,
    output_dim,
)
from viewgen.diagnostics.bounds.infonce import sampled_infonce, sharper_product_bound, theorem3
from viewgen.diagnostics.bounds.plot import draw_terms
from viewgen.diagnostics.bounds.theorem import lemma1, rho_allowed, theorem2
from viewgen.diagnostics.bounds.tightness import (
    alignment_of_views,
    diameters,
    lipschitz,
    loose_share,
    loose_share_bound,
    sharper_loose_share_bound,
)
from viewgen.diagnostics.concentration.class_views import (
    ClassViews,
    ClassViewsConfig,
    check_memory,
    class_views,
    labels_of,
)
from viewgen.diagnostics.concentration.curve import Curve
from viewgen.diagnostics.concentration.measurement import measure_concentration
from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.nearest_centre import nearest_centre
from viewgen.errors import DataError
from viewgen.registry import Entry
from viewgen.settings import setting

__all__ = ["ENTRY", "Bounds", "BoundsConfig"]


class BoundsConfig(ClassViewsConfig):
    """Images, views, outputs, and precision of the search for δ and ε."""

    title = "bounds"

    space: Space = setting("projection", "outputs: projection, or features of the backbone")
    normalise: bool = setting(True, "whether outputs are scaled to norm 1 for all but cross-correlation")
    center: bool = setting(True, "whether outputs are centred for cross-correlation, as by Barlow Twins")
    temperature: float = setting(0.5, "temperature τ of InfoNCE's parts beside those at 1", gt=0)
    num_draws: int = setting(4, "draws of views for InfoNCE's parts", ge=1)
    num_test: int = setting(2000, "held-out images whose error is measured, at most", ge=1)
    num_deltas: int = setting(40, "values of δ that are tried", ge=2, le=1000)
    num_epsilons: int = setting(50, "values of ε that are tried, quantiles of the images' diameters", ge=2)
    exact_up_to: int = setting(
        150, "images of a class up to which main parts are searched by branch and bound", ge=0, le=150
    )


class Bounds:
    """Error of the nearest-centre classifier, with what bounds it.

    Args:
        config: images, views, outputs, and precision.
    """

    needs = frozenset({"encoder", "train"})

    def __init__(self, config: BoundsConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return alignment, divergence, errors, and the theorems with their terms."""
        config = self.config
        sample = class_views(subject, config, seed)
        if sample.num_classes < 2:
            raise DataError(f"{sample.dataset.name} has one class; divergence is one of at least 2 classes")
        encoder = subject.encoder
        width = output_dim(encoder, config.space)
        check_memory(sample, more_bytes=16 * sample.num_images * (sample.num_views + 1) * width)
        raw = embed_sample(
            encoder,
            sample,
            config.space,
            device=subject.device,
            batch_size=subject.batch_size,
            tell=partial(subject.tell, "outputs"),
        )
        unit = raw.with_outputs(self._scaled(raw.z))
        radius = one_norm(unit.z)
        curve = measure_concentration(
            sample,
            num_deltas=config.num_deltas,
            shares=(),
            exact_up_to=config.exact_up_to,
            fewer_views=False,
            device=subject.device,
            tell=partial(subject.tell, "concentration"),
        ).curve
        centres = class_centres(unit)
        apart = divergence(centres, radius)
        wrong = nearest_centre(unit.z[:, 0], centres) != unit.labels
        measures = self._outputs(sample, unit, apart)
        measures += self._errors(subject, sample, unit, centres, wrong, seed)
        found = self._error_bounds(sample, unit, curve, apart, wrong, radius)
        measures += found
        measures += self._infonce(subject, sample, unit, apart, radius, seed)
        measures += self._correlation(subject, sample, raw)
        document = {measure.name: measure.value for measure in measures if not measure.group}
        subject.keep_file("terms.json", lambda: json.dumps(document, allow_nan=False).encode())
        subject.keep_file("terms.png", lambda: draw_terms(document))
        return measures

    def _scaled(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.config.normalise else z

    def _outputs(self, sample: ClassViews, unit: Embedded, apart: Divergence) -> list[Measure]:
        certified, mean = sample.certified(), unit.z.double().mean(dim=1)
        values = {
            "alignment": (alignment_of_views(unit.z, unit.weights), certified),
            "divergence_largest": (apart.largest, certified),
            "divergence_mean": (apart.mean, certified),
            "divergence_of_simplex": (-1 / (sample.num_classes - 1), f"{sample.on}; certified"),
            "delta_mu": (apart.delta_mu, certified),
            "mean_output_norm": (float((unit.weights[:, None] * mean).sum(dim=0).norm()), certified),
        }
        return [Measure(name=name, value=value, on=on) for name, (value, on) in values.items()]

    def _errors(
        self,
        subject: Subject,
        sample: ClassViews,
        unit: Embedded,
        centres: Tensor,
        wrong: Tensor,
        seed: int,
    ) -> list[Measure]:
        """Return the error of G_f on the sample and on held-out images; centres are the sample's."""
        measures = [
            bootstrap_measure(
                "error_train",
                mean_over_images(wrong * unit.weights, unit.weights),
                len(wrong),
                seed=seed,
                on=f"{len(wrong):,} images of the sample; certified, interval estimated",
            )
        ]
        if not subject.has("test"):
            subject.note("the held-out error was not measured: there is no test split")
            return measures
        labels, _ = labels_of(subject.test, self.config.attribute)
        rows = np.flatnonzero(np.isin(labels, sample.numbers))
        rows = rows[spread(len(rows), self.config.num_test)]
        if not len(rows):
            subject.note("the held-out error was not measured: the test split has no image of these classes")
            return measures
        z = embed(
            subject.encoder,
            subject.test.images(rows),
            self.config.space,
            device=subject.device,
            batch_size=subject.batch_size,
        )
        numbers = torch.tensor(sample.numbers)
        missed = numbers[nearest_centre(self._scaled(z), centres)] != torch.from_numpy(labels[rows])
        on = f"{len(rows):,} {subject.test.split} images; estimated"
        statistic = mean_over_images(missed.double())
        return [*measures, bootstrap_measure("error_test", statistic, len(rows), seed=seed, on=on)]

    def _error_bounds(
        self,
        sample: ClassViews,
        unit: Embedded,
        curve: Curve,
        apart: Divergence,
        wrong: Tensor,
        radius: float,
    ) -> list[Measure]:
        diameter = diameters(unit.z)
        levels = torch.linspace(0, 1, self.config.num_epsilons - 1, dtype=torch.float64)
        quantiles = torch.quantile(diameter, levels, interpolation="higher")
        epsilon = torch.cat([torch.zeros(1, dtype=torch.float64), quantiles]).unique()
        loose = loose_share(diameter, unit.weights, epsilon).numpy()
        constant = self._lipschitz(sample, unit)
        best = theorem2(
            curve.delta,
            curve.sigma_low,
            epsilon.numpy(),
            loose,
            largest=apart.largest,
            delta_mu=apart.delta_mu,
            smallest_share=float(unit.shares.min()),
            lipschitz=constant,
            radius=radius,
        )
        aligned = alignment_of_views(unit.z, unit.weights)
        num_views = unit.z.shape[1]
        at_least, at_most = sample.certified("at least"), sample.certified("at most")
        certified, bound = sample.certified(), sample.certified("upper bound")
        none = f"{sample.on}; no bound: the condition fails"
        rows: list[tuple[str, float, str]] = [
            ("lipschitz", constant, at_least),
            ("delta", best.delta, at_most),
            ("epsilon", best.epsilon, f"{sample.on}; chosen"),
            ("sigma", best.sigma, at_least),
            ("loose_share", best.loose_share, at_least),
            ("rho_max", best.rho_max, certified),
            ("rho: 2(1 − σ)", best.terms["concentration"], at_most),
            ("rho: R/min p", best.terms["loose"], at_least),
            ("rho: σLδ/r", best.terms["distance"], certified),
            ("rho: 2σε/r", best.terms["tightness"], certified),
            ("rho_allowed", rho_allowed(apart.largest, apart.delta_mu), certified),
            ("theorem2_threshold", best.threshold, certified),
            ("theorem2_holds", float(best.holds), certified),
            ("theorem2_bound", best.bound, bound if best.holds else none),
        ]
        if best.epsilon > 0:
            rows += [
                ("theorem1_bound", loose_share_bound(aligned, best.epsilon, num_views), bound),
                ("theorem1_sharper", sharper_loose_share_bound(aligned, best.epsilon, num_views), bound),
            ]
        lemma = lemma1(
            curve.delta,
            curve.sigma_low,
            _joined(curve),
            epsilon.numpy(),
            diameter.numpy(),
            wrong.numpy(),
            unit.weights.numpy(),
        )
        if lemma is not None:
            rows += [("lemma1_bound", lemma.bound, bound), ("lemma1_sharper", lemma.sharper, bound)]
        return [Measure(name=name, value=value, on=on) for name, value, on in rows]

    def _lipschitz(self, sample: ClassViews, unit: Embedded) -> float:
        found = [
            lipschitz(sample.views(label), unit.z[unit.labels == label])
            for label in range(sample.num_classes)
        ]
        return max(found)

    def _infonce(
        self,
        subject: Subject,
        sample: ClassViews,
        unit: Embedded,
        apart: Divergence,
        radius: float,
        seed: int,
    ) -> list[Measure]:
        """Return InfoNCE's parts at temperature 1 and at the chosen one, and Theorem 3."""
        unit = unit.with_outputs(unit.z / radius)
        on = f"{sample.on}, {self.config.num_draws} draws; estimated"
        first, second = apart.pair
        measures = []
        for temperature in dict.fromkeys((1.0, self.config.temperature)):
            parts = sampled_infonce(unit, temperature=temperature, num_draws=self.config.num_draws, seed=seed)
            for name, value in zip(("infonce_alignment", "infonce_uniform"), parts, strict=True):
                group = "" if temperature == 1 else f"τ = {temperature:g}"
                measures.append(Measure(name=name, value=value, on=on, group=group))
            if temperature == 1:
                p_k, p_l = (float(unit.shares[place]) for place in (first, second))
                perfect = f"{on}, upper bound in the perfect case"
                bounds = {
                    "theorem3_bound": theorem3(parts[1], p_k, p_l),
                    "theorem3_sharper": sharper_product_bound(parts[1], unit.shares, first, second),
                }
                if bounds["theorem3_sharper"] is None:
                    subject.note(
                        f"the sharper form of Theorem 3 has no solution: InfoNCE's second part, "
                        f"{parts[1]:.4g}, is smaller than in any perfect case"
                    )
                measures += [
                    Measure(name=name, value=value, on=perfect)
                    for name, value in bounds.items()
                    if value is not None
                ]
        return measures

    def _correlation(self, subject: Subject, sample: ClassViews, raw: Embedded) -> list[Measure]:
        """Return the parts of the cross-correlation loss, Lemma 2 and Theorem 4."""
        try:
            found = cross_correlation(standardised(raw, center=self.config.center))
        except DataError as error:
            subject.note(f"Lemma 2 and Theorem 4 were not evaluated: {error}")
            return []
        certified, bound = sample.certified(), sample.certified("upper bound")
        values = {
            "correlation_diagonal": (found.diagonal, certified),
            "correlation_identity": (found.identity, certified),
            "correlation_class_error": (found.class_error, certified),
            "correlation_alignment": (found.alignment, certified),
            "lemma2_bound": (found.lemma2, bound),
            "correlation_divergence": (found.largest, certified),
            "theorem4_bound": (found.theorem4, bound),
            "theorem4_sharper": (found.sharper, bound),
        }
        return [Measure(name=name, value=value, on=on) for name, (value, on) in values.items()]


def _joined(curve: Curve) -> NDArray[np.bool_]:
    """Return the members of all classes' main parts, bool `(T, N)`."""
    return np.concatenate([one.members for one in curve.classes], axis=1)


ENTRY = Entry(
    name="bounds",
    summary="error of the nearest-centre classifier, with alignment, divergence and every term of its bounds",
    settings=BoundsConfig,
    needs=Bounds.needs,
    build=Bounds,
    on_request=True,
)
