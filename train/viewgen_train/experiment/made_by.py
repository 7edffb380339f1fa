"""What of an experiment was made, by which command, and what is missing."""

import shlex
from collections.abc import Iterable

from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.results import Record, ResultFolder
from viewgen_train.experiment.summary import RowSummary, Summary

__all__ = ["command", "made_on", "missing", "unfinished"]

UNKNOWN = "not recorded"


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


def unfinished(plan: ExperimentPlan, results: ResultFolder) -> dict[str, str]:
    """Return the caches of a plan, and their diagnostics, that have no finished record → why."""
    tasks = [("cache", one.name, 0, f"cache {one.name}") for one in plan.caches]
    if plan.document.measure.caches:
        tasks += [
            ("diagnostics", one.name, seed, f"diagnostics of {one.name}, seed {seed}")
            for one in plan.caches
            for seed in one.seeds
        ]
    found = {}
    for kind, name, seed, words in tasks:
        record = results.read(kind, name, seed)
        if record is None or record.status != "finished":
            found[words] = "not run yet" if record is None else f"{record.status}: {record.reason}"
    return found


def made_on(records: Iterable[Record]) -> list[str]:
    """Return sentences about the processors that trainings ran on, and whether they are of one kind."""
    trainings = [one for one in records if one.kind in ("training", "encoder") and one.about.get("device")]
    if not trainings:
        return []
    devices = sorted({str(one.about["device"]) for one in trainings})
    sets: dict[str, int] = {}
    for one in trainings:
        name = one.about.get("versions", {}).get("instructions", UNKNOWN)
        sets[name] = sets.get(name, 0) + 1
    if any(device.startswith("cuda") for device in devices):
        return [f"Trained on {', '.join(devices)}."]
    known = {name: count for name, count in sets.items() if name != UNKNOWN}
    told = f" ({', '.join(known)})" if known else ""
    lines = [f"Trained on the processor{told}; nothing here ran on a GPU."]
    if len(known) > 1:
        counts = ", ".join(f"{name}: {count}" for name, count in sets.items())
        lines.append(
            f"These trainings ran on processors of different instruction sets ({counts}), where the same "
            "command trains other networks: a difference between their rows is not one of settings alone."
        )
    return lines


def _done(row: RowSummary | None) -> set[int]:
    return set() if row is None else {*row.lost, *(seed for seeds in row.values.values() for seed in seeds)}
