"""Pictures of an experiment's concentration and bounds, from the plots' numbers that its diagnostics keep."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewgen.diagnostics.bounds.plot import COMPARED_TERMS, SUMMANDS, draw_compared_terms
from viewgen.diagnostics.concentration.plot import draw_compared
from viewgen.documents import read_object
from viewgen.files import write_atomically
from viewgen_train.experiment.results import ResultFolder
from viewgen_train.experiment.summary import RowSummary, Summary

__all__ = ["concentration_documents", "draw_bounds", "draw_concentrations", "main_part_pictures"]

CURVES = "concentration-curves.json"
MAIN_PARTS = "concentration-main-parts.png"
# above it the page is a wall of pictures; they are in their folders all the same
MOST_MAIN_PARTS = 8


def _kept(summary: Summary, results: ResultFolder, name: str) -> Iterator[tuple[str, Path]]:
    """Yield (label, path) of a file that the diagnostics of each row and cache keep, of their first seed."""
    subjects = [("training", row.row.name, row.row.label) for row in summary.rows.values()]
    subjects += [("diagnostics", cache, cache) for cache in summary.caches]
    for kind, subject, label in subjects:
        of_seeds = results.files(kind, subject, 0).parent.glob("seed-*")
        for folder in sorted(of_seeds, key=lambda path: int(path.name.removeprefix("seed-"))):
            if found := sorted(folder.rglob(name)):
                # measured again with other settings: in a folder of its label
                yield from (
                    (": ".join([label, *path.relative_to(folder).parts[:-1]]), path) for path in found
                )
                break


def concentration_documents(summary: Summary, results: ResultFolder) -> dict[str, dict[str, Any]]:
    """Return label → curves of every row and cache whose concentration was measured."""
    return {label: read_object(path) for label, path in _kept(summary, results, CURVES)}


def main_part_pictures(summary: Summary, results: ResultFolder) -> list[tuple[str, str]]:
    """Return (file, description) of the pictures of main parts and outliers, if they are few."""
    found = [*_kept(summary, results, MAIN_PARTS)]
    if len(found) > MOST_MAIN_PARTS:
        return []
    return [
        (
            str(path.relative_to(results.path)),
            f"{label}: images of each class in the main part, left, and outside of it, right",
        )
        for label, path in found
    ]


def draw_concentrations(documents: dict[str, dict[str, Any]], path: Path) -> bool:
    """Draw the curves of all rows and caches; False if none was measured."""
    if not documents:
        return False
    write_atomically(path, draw_compared(documents))
    return True


def draw_bounds(summary: Summary, path: Path) -> bool:
    """Draw the terms of the bounds of all rows, means over trainings; False if none was measured."""
    found = {
        label: values
        for row in summary.rows.values()
        for label, values in _terms(row).items()
        if SUMMANDS.keys() <= values.keys()
    }
    if not found:
        return False
    write_atomically(path, draw_compared_terms(found))
    return True


def _terms(row: RowSummary) -> dict[str, dict[str, float]]:
    """Return label → means of the measures of a bound, of each label under which it was measured."""
    found: dict[str, dict[str, float]] = {}
    for name in row.values:
        measure, _, group = name.partition("[")
        spread = row.spread(name)
        if measure in COMPARED_TERMS and spread is not None:
            label = ": ".join([row.row.label, *filter(None, [group.removesuffix("]")])])
            found.setdefault(label, {})[measure] = spread.mean
    return found
