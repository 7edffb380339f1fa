"""Summary of an experiment's records: per row and measure, the trainings, their spread and differences."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from viewgen_train.experiment.grid import Row
from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.results import Record, ResultFolder, named_values
from viewgen_train.experiment.statistics import Paired, Spread, paired, spread

__all__ = ["CacheSummary", "RowSummary", "Summary", "is_share", "mean_cell", "measure_label", "summarise"]

LABELS = {
    "top1": "linear probe",
    "knn5_top1": "5-NN",
    "weighted_knn_top1": "weighted 200-NN",
    "centre_top1": "nearest centre",
    "probe_top1": "linear probe on the way",
    "label_kept": "label kept",
    "images_with_foreign_view": "images with a view of another class",
    "distinct_views": "distinct views",
    "reconstruction_to_view": "distance from the anchor",
    "image_to_view": "distance from the image",
    "pixel_diversity": "pixel diversity",
    "spread": "spread",
    "converged_share": "converged",
    "loss": "loss",
    "distance": "mean error of the position, px",
    "i_nce": "I_NCE, nats",
    "i_nce_training": "I_NCE in training, nats",
    "i_nce_ceiling": "ceiling of I_NCE, nats",
    "i_nce_saturated": "I_NCE saturated",
    "i_nce_training_ceiling": "ceiling of I_NCE in training, nats",
    "i_nce_training_saturated": "I_NCE in training saturated",
    # at most, at least: more views of the same images move the number that way alone
    "area": "area under 1 − σ(δ) (at most)",
    "within_pair_area": "area of pairs within classes (at most)",
    "between_pair_area": "area of pairs between classes (at most)",
    "pair_area_ratio": "area of pairs within classes over between (estimated)",
    "error_test": "error of the nearest centre",
    "divergence_largest": "largest product of two centres",
    "lipschitz": "L (at least)",
    "sigma": "σ (at least)",
    "loose_share": "R_ε (at least)",
    "lemma1_bound": "bound of it by Lemma 1 as printed (certified for the sample)",
    "lemma1_sharper": "bound of it by Lemma 1 (certified for the sample)",
    "rho_max": "ρ_max (certified for the sample)",
    "theorem2_holds": "condition of Theorem 2 holds (for the sample)",
    "mean_output_norm": "norm of the mean output",
    "finetuned_top1": "fine-tuned",
    "clean_top1": "learned from images",
    "robust_top1": "learned from robust sets",
    "nonrobust_top1": "learned from non-robust sets",
    "median_steps": "steps to another class, median",
    "unreached_share": "images that reached none",
}
# measures in [0, 1] that are told in percent
SHARES = {
    *("top1", "knn5_top1", "label_kept", "images_with_foreign_view", "converged_share", "views_near_epsilon"),
    *("images_without_step", "classifier_accuracy", "reconstruction_misread", "duplicate_views"),
    *("probe_top1", "probe_heldout", "knn5_heldout", "weighted_knn_top1", "centre_top1"),
    *(
        "i_nce_saturated",
        "i_nce_training_saturated",
        "error_test",
        "error_train",
        "lemma1_sharper",
        "theorem2_holds",
    ),
    *("attribute_top1", "untrained_top1", "supervised_top1", "retained", "gain"),
    *("finetuned_top1", "from_scratch_top1", "pckh", "outcome_top1", "outcome_one_off"),
    *("clean_top1", "robust_top1", "nonrobust_top1", "unreached_share", "rounding_kept_share"),
}


def measure_label(name: str) -> str:
    """Return the name of a measure in tables and plots; of an attribute's, ``top1[digit]``, with its name."""
    name, _, group = name.partition("[")
    label = LABELS.get(name, name.replace("_", " "))
    return f"{label}, {group.removesuffix(']')}" if group else label


def is_share(name: str) -> bool:
    """Return whether a measure is a share, told in percent."""
    return name.partition("[")[0] in SHARES


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSummary:
    """A row's trainings.

    Attributes:
        row: the row.
        values: measure → seed → value; of an attribute ``MEASURE[ATTRIBUTE]``.
        lost: seed → status and reason of the trainings without numbers.
        curves: measure → seed → (epoch, value) pairs.
        seconds: time of all trainings.
    """

    row: Row
    values: Mapping[str, Mapping[int, float]]
    lost: Mapping[int, str]
    curves: Mapping[str, Mapping[int, list[tuple[float, float]]]]
    seconds: float

    def spread(self, measure: str) -> Spread | None:
        """Return mean and deviation over the trainings, or None without one."""
        values = list(self.values.get(measure, {}).values())
        return spread(values) if values else None

    def against(self, other: "RowSummary | None", measure: str) -> Paired | None:
        """Return the paired differences to another row."""
        if other is None or other is self:
            return None
        return paired(self.values.get(measure, {}), other.values.get(measure, {}))


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSummary:
    """A cache's measures.

    Attributes:
        name: name of the cache.
        values: (measure, group) → seed → value.
        intervals: (measure, group) → its interval over images, of the last seed that has one.
        record: the record of the cache, or None if it is not made.
    """

    name: str
    values: Mapping[tuple[str, str], Mapping[int, float]]
    intervals: Mapping[tuple[str, str], tuple[float, float]]
    record: Record | None

    def mean(self, measure: str) -> float | None:
        """Return the mean over seeds of a measure without a group, or None."""
        values = list(self.values.get((measure, ""), {}).values())
        return sum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Everything that tables and plots show.

    Attributes:
        rows: rows with at least one record, in the experiment's order.
        caches: caches with a record, by name.
        baseline: the row that others are compared with, or None.
    """

    rows: Mapping[str, RowSummary]
    caches: Mapping[str, CacheSummary]
    baseline: RowSummary | None


def summarise(plan: ExperimentPlan, results: ResultFolder) -> Summary:
    """Return the summary of all records that belong to the experiment."""
    trainings: dict[str, list[Record]] = {}
    for record in results.records("training"):
        trainings.setdefault(record.name, []).append(record)
    rows = {name: _row(row, trainings[name]) for name, row in plan.rows.items() if name in trainings}
    caches: dict[str, CacheSummary] = {}
    made = {record.name: record for record in results.records("cache")}
    diagnosed: dict[str, list[Record]] = {}
    for record in results.records("diagnostics"):
        diagnosed.setdefault(record.name, []).append(record)
    for name in results.identity["caches"]:
        records = [made[name], *diagnosed.get(name, [])] if name in made else []
        if records:
            caches[name] = CacheSummary(
                name=name,
                values=_values(records),
                intervals=_intervals(records),
                record=made.get(name),
            )
    return Summary(rows=rows, caches=caches, baseline=rows.get(plan.document.experiment.baseline))


def _values(records: Iterable[Record]) -> dict[tuple[str, str], dict[int, float]]:
    found: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        for measure in record.measures:
            if math.isfinite(measure.value):
                found.setdefault((measure.name, measure.group), {})[record.seed] = measure.value
    return found


def _intervals(records: Iterable[Record]) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (measure.name, measure.group): (measure.low, measure.high)
        for record in records
        for measure in record.measures
        if measure.low is not None and measure.high is not None
    }


def _row(row: Row, records: Iterable[Record]) -> RowSummary:
    records = [*records]
    curves: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for record in records:
        for name, points in record.curves.items():
            curves.setdefault(name, {})[record.seed] = points
    finished = [record for record in records if record.status == "finished"]
    return RowSummary(
        row=row,
        values=named_values((name, group, seeds) for (name, group), seeds in _values(finished).items()),
        lost={one.seed: f"{one.status}: {one.reason}" for one in records if one.status != "finished"},
        curves=curves,
        seconds=sum(record.seconds for record in records),
    )


def mean_cell(row: RowSummary, measure: str) -> str:
    """Return mean ± deviation of a measure over the trainings of a row as text, or an empty one."""
    found = row.spread(measure)
    if found is None:
        return ""
    scale, digits = (100, 2) if is_share(measure) else (1, 4 if abs(found.mean) < 10 else 2)
    mean = f"{scale * found.mean:.{digits}f}".replace("-", "−")
    return mean if math.isnan(found.deviation) else f"{mean} ± {scale * found.deviation:.{digits}f}"
