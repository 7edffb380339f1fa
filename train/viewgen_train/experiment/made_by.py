"""What of an experiment was made, by which command, and what is missing."""

import shlex

from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.summary import RowSummary, Summary

__all__ = ["command", "missing"]


def command(plan: ExperimentPlan, summary: Summary) -> str:
    """Return the command line that makes what was made: with its rows and seeds, where some are missing."""
    document = plan.document
    words = ["viewgen", "experiment", document.source]
    if document.scale:
        words += ["--scale", document.scale]
    words += ["--dataset", document.experiment.dataset]
    done = {name: _done(summary.rows.get(name)) for name in plan.rows}
    if missing(plan, summary) and any(done.values()):
        if not all(done.values()):
            words += [word for name, seeds in done.items() if seeds for word in ("--only", name)]
        made = sorted(set().union(*done.values()))
        if made != sorted({seed for row in plan.rows.values() for seed in row.seeds}):
            words += ["--seeds", ",".join(map(str, made))]
    return shlex.join(words)


def missing(plan: ExperimentPlan, summary: Summary) -> list[str]:
    """Return the rows and seeds of the experiment that have no record."""
    lines = []
    for name, row in plan.rows.items():
        done = _done(summary.rows.get(name))
        lacking = [str(seed) for seed in row.seeds if seed not in done]
        if lacking:
            lines.append(f"{row.label}: seed{'s' * (len(lacking) > 1)} {', '.join(lacking)}")
    return lines


def _done(row: RowSummary | None) -> set[int]:
    return set() if row is None else {*row.lost, *(seed for seeds in row.values.values() for seed in seeds)}
