"""Sentences about an experiment, made of its numbers: answers, rows against the baseline, plots."""

from viewgen_train.experiment.document import Scatter
from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.plots import row_value, scatter_correlation
from viewgen_train.experiment.summary import Summary, is_share, measure_label
from viewgen_train.experiment.sweep import sweep_words
from viewgen_train.experiment.wording import answer, chance_line, correlation_words, summary_lines

__all__ = ["sentences"]


def sentences(plan: ExperimentPlan, summary: Summary) -> list[str]:
    """Return what the numbers say: answers to the experiment's questions, then each measure over all rows."""
    document, lines = plan.document, []
    for one in document.questions:
        row, other = summary.rows.get(one.row), summary.rows.get(one.against)
        found = None if row is None else row.against(other, one.measure)
        labels = (plan.rows[one.row].label, plan.rows[one.against].label)
        told = answer(found, *labels, measure_label(one.measure), points=is_share(one.measure))
        trained = [each for each in (row, other) if each is not None and each.values]
        if trained and not any(each.values.get(one.measure) for each in trained):
            told = f"Not known: no training of these rows has the measure {one.measure!r}."
        lines.append(f"{one.ask} {told}")
    if summary.baseline is not None:
        compared = 0
        for measure in document.experiment.measures:
            differences = [
                (row.row.label, row.against(summary.baseline, measure))
                for row in summary.rows.values()
                if row is not summary.baseline
            ]
            lines += summary_lines(differences, summary.baseline.row.label, measure_label(measure))
            compared += sum(one is not None and one.count > 1 for _, one in differences)
        if compared > 1:
            lines.append(chance_line(compared))
    finished = [row for row in summary.rows.values() if row.values]
    lines += [
        f"No finished training has the measure {name!r}, which [experiment] lists."
        for name in document.experiment.measures
        if finished and not any(row.values.get(name) for row in finished)
    ]
    for sweep in document.sweeps:
        lines += sweep_words(summary, sweep)
    for number, pair in enumerate(document.scatter, 1):
        lines += _unknown_axes(summary, pair, number)
        found_r = scatter_correlation(summary, pair)
        if found_r is not None:
            names = (measure_label(pair.x), measure_label(pair.y))
            lines.append(correlation_words(found_r, *names, over=pair.over))
    return lines


def _unknown_axes(summary: Summary, pair: Scatter, number: int) -> list[str]:
    """Return sentences about the axes of a plot that no training and no cache has, once there are some."""
    rows = [row for row in summary.rows.values() if row.values]
    return [
        f"No training or cache has the measure {name!r} of [[scatter]] {number}."
        for name in (pair.x, pair.y)
        if rows and all(row_value(summary, row, name) is None for row in rows)
    ]
