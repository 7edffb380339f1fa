"""Tables of an experiment's rows: means, differences to the baseline, published numbers."""

from collections.abc import Sequence

from viewgen_train.experiment.page import TableBlock
from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.summary import RowSummary, Summary, is_share, mean_cell, measure_label
from viewgen_train.experiment.wording import difference_cell

__all__ = ["accuracy_table", "difference_table", "trained_measures"]

# measures up to which differences stand beside them
MOST_BESIDE = 3


def accuracy_table(plan: ExperimentPlan, summary: Summary) -> TableBlock:
    """Return the table of rows: mean ± deviation, difference to the baseline, published numbers.

    Of many measures the differences are left to `difference_table`.
    """
    measures = trained_measures(summary, plan.document.experiment.measures)
    baseline = None if len(measures) > MOST_BESIDE else summary.baseline
    published = _published_of(plan, summary)
    titles = ["row", "trainings"]
    for measure in measures:
        titles.append(_title(measure))
        if baseline is not None:
            titles.append("less the baseline (95 % interval), higher in")
    titles += [f"published, {name}" for name in published]
    rows = []
    for row in summary.rows.values():
        count = max((len(seeds) for seeds in row.values.values()), default=0)
        cells = [row.row.label, str(count) + (f" + {len(row.lost)} lost" if row.lost else "")]
        for measure in measures:
            cells.append(mean_cell(row, measure))
            if baseline is not None:
                cells.append(_gap_cell(row, baseline, measure))
        cells += [f"{row.row.published[name]:.2f}" if name in row.row.published else "" for name in published]
        rows.append(cells)
    return TableBlock(titles, rows)


def difference_table(plan: ExperimentPlan, summary: Summary) -> TableBlock | None:
    """Return the paired differences to the baseline; None where the other table has them."""
    baseline = summary.baseline
    measures = trained_measures(summary, plan.document.experiment.measures)
    if baseline is None or len(measures) <= MOST_BESIDE:
        return None
    others = [row for row in summary.rows.values() if row is not baseline]
    rows = [[row.row.label, *(_gap_cell(row, baseline, one) for one in measures)] for row in others]
    return TableBlock(["row", *map(_title, measures)], rows)


def _title(measure: str) -> str:
    return measure_label(measure) + (", %" if is_share(measure) else "")


def _gap_cell(row: RowSummary, baseline: RowSummary, measure: str) -> str:
    if row is baseline:
        return "baseline"
    return difference_cell(row.against(baseline, measure), points=is_share(measure))


def trained_measures(summary: Summary, measures: Sequence[str]) -> list[str]:
    """Return the measures that some training has."""
    return [one for one in measures if any(row.values.get(one) for row in summary.rows.values())]


def _published_of(plan: ExperimentPlan, summary: Summary) -> list[str]:
    """Return the data sets whose published numbers are shown: that of the experiment, or else all."""
    known = dict.fromkeys(name for row in summary.rows.values() for name in row.row.published)
    own = plan.document.experiment.dataset
    return [own] if own in known else [*known]
