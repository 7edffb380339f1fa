"""Pictures of an experiment: which there are, and what they show."""

from typing import Any

from viewgen_train.experiment.generalization import (
    concentration_documents,
    draw_bounds,
    draw_concentrations,
    main_part_pictures,
)
from viewgen_train.experiment.grid import file_part
from viewgen_train.experiment.plan import ExperimentPlan
from viewgen_train.experiment.plots import draw_bars, draw_curves, draw_heat_map, draw_scatter, heat_maps
from viewgen_train.experiment.results import ResultFolder
from viewgen_train.experiment.summary import Summary, measure_label
from viewgen_train.experiment.sweep import draw_sweep

__all__ = ["draw_pictures", "drawn_before"]


def draw_pictures(plan: ExperimentPlan, summary: Summary, results: ResultFolder) -> list[tuple[str, str]]:
    """Draw the plots, and return (file, description) of the pictures of the page."""
    wanted = _wanted(plan, summary, results)
    drawn = [(file, text) for file, text, draw in wanted if draw(results.path / file)]
    return [*drawn, *main_part_pictures(summary, results)]


def drawn_before(plan: ExperimentPlan, summary: Summary, results: ResultFolder) -> list[tuple[str, str]]:
    """Return (file, description) of the pictures that have been drawn."""
    wanted = _wanted(plan, summary, results)
    there = [(file, text) for file, text, _ in wanted if (results.path / file).is_file()]
    return [*there, *main_part_pictures(summary, results)]


def _wanted(plan: ExperimentPlan, summary: Summary, results: ResultFolder) -> list[tuple[str, str, Any]]:
    """Return (file, description, function of a path that draws it) of all plots."""
    document = plan.document
    measures = document.experiment.measures
    wanted: list[tuple[str, str, Any]] = [
        (
            "bars.png",
            "Mean of each row with its 95 % interval; dots are trainings",
            lambda path: draw_bars(summary, measures, path),
        ),
        (
            "curves.png",
            "Accuracy on the test images during training, mean over trainings",
            lambda path: draw_curves(summary, path),
        ),
    ]
    for number, one in enumerate(document.scatter, 1):
        text = f"{measure_label(one.y)} over {measure_label(one.x)}, one point a {one.over.removesuffix('s')}"
        text += f" of {', '.join(one.rows)}" if one.rows else ""
        wanted.append((f"scatter-{number}.png", text, lambda path, one=one: draw_scatter(summary, one, path)))
    for number, sweep in enumerate(document.sweeps, 1):
        along = ", ".join((sweep.row, *sweep.beside))
        text = f"{measure_label(sweep.y)} over {measure_label(sweep.x)} along the sweep of {along}"
        wanted.append(
            (f"sweep-{number}.png", text, lambda path, sweep=sweep: draw_sweep(summary, sweep, path))
        )
    curves = concentration_documents(summary, results)
    wanted += [
        (
            "concentration.png",
            "1 − σ(δ) of the first seed, with certified intervals, and the areas under it",
            lambda path: draw_concentrations(curves, path),
        ),
        (
            "bounds.png",
            "Summands of ρ_max beside what Theorem 2 allows, and errors beside their bounds (means)",
            lambda path: draw_bounds(summary, path),
        ),
    ]
    for group, axes in heat_maps(summary).items():
        for measure in measures:
            text = f"{measure_label(measure)} of {group}"
            wanted.append(
                (
                    f"grid-{file_part(group)}-{file_part(measure)}.png",
                    text,
                    lambda path, group=group, axes=axes, measure=measure: draw_heat_map(
                        summary, group, axes, measure, path
                    ),
                )
            )
    return wanted
