"""Diagnostics that are measured again with other settings, and the pictures of concentration and bounds."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from viewgen.diagnostics.bounds.plot import COMPARED_TERMS
from viewgen.diagnostics.measure import Measure
from viewgen.errors import UsageError
from viewgen_train.experiment.diagnostics import diagnose, diagnostic_settings
from viewgen_train.experiment.document import load_document
from viewgen_train.experiment.generalization import (
    concentration_documents,
    draw_bounds,
    draw_concentrations,
    main_part_pictures,
)
from viewgen_train.experiment.grid import Row
from viewgen_train.experiment.plan import make_plan
from viewgen_train.experiment.report import _cache_blocks
from viewgen_train.experiment.results import Record, ResultFolder
from viewgen_train.experiment.summary import CacheSummary, RowSummary, Summary

SETTINGS = {
    "num_views": 3,
    "bounds.num_per_class": 5,
    "bounds:features.space": "features",
    "bounds:features.num_per_class": 7,
    "concentration.attribute": "shape",
}


def test_settings_of_a_label_lie_over_those_of_its_diagnostic():
    assert diagnostic_settings(SETTINGS, ["bounds"]) == {"num_views": 3, "bounds.num_per_class": 5}
    assert diagnostic_settings(SETTINGS, ["bounds:features"]) == {
        "num_views": 3, "bounds.num_per_class": 7, "bounds.space": "features",
    }  # fmt: skip
    # alignment has no num_views: a setting of every diagnostic that has one is none of its
    assert diagnostic_settings({"num_views": 3}, ["alignment"]) == {}


def test_a_diagnostic_is_measured_once_a_label_with_its_files_apart(monkeypatch, tmp_path):
    asked = []

    def measure(subject, *, diagnostics, settings, seeds, plots, **options):
        asked.append((diagnostics, settings, seeds, plots.relative_to(tmp_path).as_posix(), options["limit"]))
        groups = ("", "expert", given)
        found = [SimpleNamespace(measure=Measure(name="area", value=0.5, group=one)) for one in groups]
        return SimpleNamespace(measured=found)

    monkeypatch.setattr("viewgen_train.experiment.diagnostics.measure", measure)
    names, given = ("bounds", "concentration", "bounds:features"), "digit"
    found = diagnose("views.zarr", names, SETTINGS, 4, files=tmp_path, limit=9)
    assert [one[0] for one in asked] == [["bounds", "concentration"], ["bounds"]]
    assert [one[2:] for one in asked] == [((4,), ".", 9), ((4,), "features", 9)]
    assert asked[1][1]["bounds.space"] == "features"
    assert [one.group for one in found] == [
        "",
        "expert",
        "digit",
        "features",
        "features: expert",
        "features: digit",
    ]
    given = "features"
    with pytest.raises(UsageError, match=r"two diagnostics have a measure area\[features\]"):
        diagnose("views.zarr", names, SETTINGS, 4, files=tmp_path, limit=9)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ('trainings = ["bound:features"]', "did you mean 'bounds'"),
        ('trainings = ["bounds:"]', "has no label"),
        ('trainings = ["bounds:a b"]', "may hold letters"),
        ('trainings = ["bounds:eps0.1"]', "may hold letters"),
        ('trainings = ["bounds"]\nsettings = {num_view = 3}', "no diagnostic .* 'num_view'; did you mean"),
        ('trainings = ["bounds"]\nsettings = {"bounds:features.space" = "features"}', "neither of caches"),
        ('trainings = ["bounds:features"]\nsettings = {"bounds:features.spice" = 1}', "spice"),
    ],
)
def test_diagnostics_that_are_none_are_refused(tmp_path, measure, message):
    path = tmp_path / "one.toml"
    row = '[rows.one]\ntrain = {assimilation = "none"}\n'
    path.write_text(f'[experiment]\ndataset = "digits"\n{row}[measure]\n{measure}\n')
    with pytest.raises(UsageError, match=message):
        make_plan(load_document(str(path)), tmp_path, with_data=False)


CURVES = {
    "views": "expert", "num_images": 20, "num_views": 2, "delta": [0.0, 1.0, 2.0],
    "sigma_low": [0.1, 0.5, 1.0], "sigma_high": [0.1, 0.6, 1.0],
    "area": {"value": 0.5, "low": 0.4, "high": 0.6},
}  # fmt: skip


def row(name, values):
    about = Row(name=name, label=name.upper(), group=name, axes={}, train={}, cache=None, seeds=(0, 1))
    return RowSummary(row=about, values=values, lost={}, curves={}, seconds=1.0)


@pytest.fixture
def results(tmp_path):
    """Results of a row measured with seeds 2 and 10, and of a cache measured again as `expert`."""
    results = ResultFolder(tmp_path, {"caches": {}, "rows": {}})
    for seed in (2, 10):
        folder = results.files("training", "a", seed)
        folder.mkdir(parents=True)
        (folder / "concentration-curves.json").write_text(json.dumps({**CURVES, "num_images": seed}))
        (folder / "concentration-main-parts.png").touch()
    for folder in (results.files("diagnostics", "c", 0), results.files("diagnostics", "c", 0) / "expert"):
        folder.mkdir(parents=True)
        (folder / "concentration-curves.json").write_text(json.dumps({**CURVES, "delta": [0.0, 2.0, 4.0]}))
    return results


def summary(values=None):
    caches = {"c": CacheSummary(name="c", values={}, intervals={}, record=None)}
    return Summary(rows={"a": row("a", values or {}), "b": row("b", {})}, caches=caches, baseline=None)


def test_curves_of_rows_and_caches_are_drawn_together(results, tmp_path):
    found = concentration_documents(summary(), results)
    assert [*found] == ["A", "c", "c: expert"]
    assert found["A"]["num_images"] == 2, "the lowest seed, not the first by name"
    assert draw_concentrations(found, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture).std() > 1
    assert not draw_concentrations({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_main_parts_are_on_the_page_where_they_are_few(results, monkeypatch):
    ((file, text),) = main_part_pictures(summary(), results)
    assert file == "measured/training/a/seed-2/concentration-main-parts.png"
    assert text.startswith("A: ")
    monkeypatch.setattr("viewgen_train.experiment.generalization.MOST_MAIN_PARTS", 0)
    assert main_part_pictures(summary(), results) == []


def test_terms_of_all_rows_are_drawn_together(monkeypatch, tmp_path):
    terms = {name: {0: 0.25, 1: 0.75} for name in COMPARED_TERMS}
    again = {f"{name}[features]": {0: 1.0} for name in COMPARED_TERMS}
    drawn = {}
    monkeypatch.setattr(
        "viewgen_train.experiment.generalization.draw_compared_terms",
        lambda found: drawn.update(found) or b"",
    )
    assert draw_bounds(summary(terms | again | {"top1": {0: 0.5}}), tmp_path / "bounds.png")
    assert drawn == {
        "A": dict.fromkeys(COMPARED_TERMS, 0.5),
        "A: features": dict.fromkeys(COMPARED_TERMS, 1.0),
    }
    monkeypatch.undo()
    assert draw_bounds(summary(terms), tmp_path / "drawn.png")
    assert not draw_bounds(summary(), tmp_path / "none.png")


def test_measures_of_caches_stand_in_the_table_that_names_them():
    record = Record(kind="cache", name="c", seed=0)
    values = {("area", "expert"): {0: 0.25, 1: 0.75}, ("area", "wsearch"): {0: 0.5}, ("delta", ""): {0: 3.0}}
    cache = CacheSummary(name="c", values=values, intervals={}, record=record)
    found = Summary(rows={}, caches={"c": cache}, baseline=None)
    table = _cache_blocks(found, ["area"])[-1]
    area = "area under 1 − σ(δ) (at most)"
    assert table.titles == ["cache", f"{area}, expert", f"{area}, wsearch"]
    assert table.rows == [["c", "0.500 (0.250 to 0.750, 2 seeds)", "0.500"]]
    assert len(_cache_blocks(found, ["top1"])) == 1


def test_the_shipped_experiments_ask_what_they_should(tmp_path):
    def plan(name):
        return make_plan(load_document(name), tmp_path, with_data=False)

    found = plan("concentration-augmentations")
    assert {name: row.train["augment"] for name, row in found.rows.items()} == {
        name: name for name in ("a", "ab", "ac", "ad", "ae")
    }
    settings = found.document.measure.settings
    assert settings["attribute"] == "shape"
    assert (settings["concentration.num_per_class"], settings["concentration.num_views"]) == (500, 16)
    control = plan("color-strength-control")
    assert control.document.measure.settings["attribute"] == "color"
    strengths = [one.expert.brightness for one in control.settings.values()]
    assert strengths == pytest.approx([0.8, 0.4, 0.2, 0.1])
    assert {one.expert.jitter_probability for one in control.settings.values()} == {1.0}
    assert len(plan("richer-augmentations").trainings) == 60
    linear = plan("linear-loss")
    assert linear.settings["simclr-tau-1"].objective.settings.temperature == 1
    assert len([name for name in linear.rows if name.startswith("tempered[")]) == 6


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    ("name", "first"),
    [("richer-augmentations", (62.74, 27.95)), ("color-strength", (82.75, 46.67))],
)
def test_at_the_paper_scale_every_row_is_the_authors_training_with_its_number(tmp_path, name, first, dataset):
    found = make_plan(load_document(name, scale="paper", dataset=dataset), tmp_path, with_data=False)
    assert all({"cifar10", "cifar100"} <= row.published.keys() for row in found.rows.values())
    published = next(iter(found.rows.values())).published
    assert (published["cifar10"], published["cifar100"]) == first
    rates = {"simclr": 0.06, "barlow-twins": 1e-3, "moco": 0.08, "simsiam": 0.05}
    for settings in found.settings.values():
        how = settings.optimiser
        assert (how.learning_rate, how.epochs) == (rates[settings.objective.name], 800)
    # the row's operations, not the recipe's
    views = {row: found.settings[row].expert for row in found.rows}
    assert len({view.model_dump_json() for view in views.values()}) == len(views) // 4
