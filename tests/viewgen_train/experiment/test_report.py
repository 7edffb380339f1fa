"""Tables and plots of made-up results."""

import csv
import html.parser
import json
import tomllib
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
from PIL import Image

from viewgen.diagnostics.measure import Measure
from viewgen_train.experiment.document import Scatter
from viewgen_train.experiment.grid import Row
from viewgen_train.experiment.made_by import made_on
from viewgen_train.experiment.page import (
    Heading,
    Items,
    Paragraph,
    Picture,
    TableBlock,
    html_text,
    markdown_text,
)
from viewgen_train.experiment.plots import (
    draw_bars,
    draw_curves,
    draw_heat_map,
    draw_scatter,
    heat_maps,
    mean_curve,
    scatter_correlation,
    scatter_points,
)
from viewgen_train.experiment.report import _cache_blocks, notes
from viewgen_train.experiment.results import Record, named_values
from viewgen_train.experiment.summary import CacheSummary, RowSummary, Summary, is_share, measure_label


def test_the_table_can_be_computed_from_the_csv(run_toy, made_up, tmp_path):
    made_up.accuracies = {"plain": 0.51, "a2[alpha=0.25]": 0.62, "a2[alpha=0.5]": 0.47}
    run_toy()
    with open(tmp_path / "results/results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "training" and row["measure"] == "top1"]
    assert {row["images_per_second"] for row in rows} == {"80.5"}
    table = (tmp_path / "results/table.md").read_text()
    for label in ("SimCLR", "A2, α 0.25", "A2, α 0.5"):
        values = [100 * float(row["value"]) for row in rows if row["label"] == label]
        assert len(values) == 3
        assert f"| {label} | 3 | {fmean(values):.2f} ± {stdev(values):.2f} |" in table


def test_groups_that_share_an_axis_stand_beside_each_other(run_toy, made_up, toy_text, tmp_path):
    more = """
[rows.full]
label = "A2-SimSiam"
cache = "same"
train = {assimilation = "A2", objective = "simsiam"}

[rows.full.grid]
"train.alpha" = [0.5, 1.0]
"""
    made_up.accuracies = {"a2[alpha=0.25]": 0.6, "a2[alpha=0.5]": 0.4, "full[alpha=0.5]": 0.7}
    run_toy(toy_text + more)
    table = (tmp_path / "results/table.md").read_text()
    _, _, matrix = table.partition("## linear probe, %, by α\n\n")
    assert matrix.splitlines()[:5] == [
        "| α | A2 | A2-SimSiam |",
        "| --- | ---: | ---: |",
        "| 0.25 | 61.00 ± 1.00 | – |",
        "| 0.5 | 41.00 ± 1.00 | 71.00 ± 1.00 |",
        "| 1.0 | – | 31.00 ± 1.00 |",
    ]
    assert "## 5-NN, %, by α" in table
    run_toy(out=str(tmp_path / "without"))  # of one group the first table says as much
    assert "by α" not in (tmp_path / "without/table.md").read_text()


def test_the_baseline_stands_in_the_group_that_it_belongs_to(run_toy, made_up, toy_text, tmp_path):
    text = toy_text.replace(
        'train = {assimilation = "none"}', 'train = {assimilation = "none", temperature = 0.5}'
    )
    more = """
[rows.alone]
train = {assimilation = "none"}

[rows.alone.grid]
"train.temperature" = [0.1, 0.2]

[rows.a1]
cache = "same"
train = {assimilation = "A1"}

[rows.a1.grid]
"train.temperature" = [0.1, 0.5]
"""
    made_up.accuracies = {"plain": 0.9}
    run_toy(text + more)
    _, _, matrix = (tmp_path / "results/table.md").read_text().partition("## linear probe, %, by τ\n\n")
    assert matrix.splitlines()[:5] == [
        "| τ | alone | a1 |",
        "| --- | ---: | ---: |",
        "| 0.1 | 31.00 ± 1.00 | 31.00 ± 1.00 |",
        "| 0.2 | 31.00 ± 1.00 | – |",
        "| 0.5 | 91.00 ± 1.00 | 31.00 ± 1.00 |",
    ]


def test_the_readout_may_learn_from_the_first_images(run_toy, made_up, toy_text, tmp_path, monkeypatch):
    train, limits = made_up.train, set()
    monkeypatch.setattr(
        made_up, "train", lambda task, *rest: limits.add(task.readout_limit) or train(task, *rest)
    )
    run_toy(toy_text.replace("quality = false", "quality = false\nreadout_limit = 7"), seeds=(0,))
    assert limits == {7}
    identity = json.loads((tmp_path / "results/experiment.json").read_text())
    assert identity["measure"]["readout_limit"] == 7


def test_a_measure_that_no_training_has_is_named(run_toy, made_up, toy_text, tmp_path):
    text = toy_text.replace('baseline = "plain"', 'baseline = "plain"\nmeasures = ["top1", "i_nce_training"]')
    run_toy(text)
    table = (tmp_path / "results/table.md").read_text()
    assert "No finished training has the measure 'i_nce_training'" in table
    assert "No finished training has the measure 'top1'" not in table


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({}, ""),
        ({"seeds": [1, 2]}, " --seeds 1,2"),
        ({"only": ["plain"], "seeds": [0]}, " --only plain --seeds 0"),
    ],
)
def test_the_command_is_that_of_what_was_run(run_toy, made_up, tmp_path, part, words):
    run_toy(**part)
    table = (tmp_path / "results/table.md").read_text()
    (line,) = (line for line in table.splitlines() if line.startswith("viewgen experiment "))
    assert line.partition(" --dataset ")[2].partition(" ")[2] == words.strip()
    assert ("Not run yet" in table) == bool(words)


BLOCKS = [
    Heading("A <title>", 1),
    Paragraph("a & b"),
    Paragraph("viewgen experiment x", code=True),
    Items(["one", "two"]),
    TableBlock(["row", "value"], [["a | b", "1"], ["c", "−2"]]),
    Picture("bars.png", 'the "bars"'),
]


def test_a_page_as_markdown_and_as_html():
    assert markdown_text(BLOCKS).split("\n\n") == [
        "# A <title>",
        "a & b",
        "```console\nviewgen experiment x\n```",
        "- one\n- two",
        "| row | value |\n| --- | ---: |\n| a \\| b | 1 |\n| c | −2 |",
        '![the "bars"](bars.png)\n',
    ]
    seen: list[str] = []
    tags: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            if tag == "img":
                assert dict(attrs) == {"src": "bars.png", "alt": 'the "bars"'}

        def handle_data(self, data):
            seen.extend(data.split())

    Reader().feed(html_text(BLOCKS, "x"))
    assert (tags.count("td"), tags.count("th"), tags.count("li")) == (4, 2, 2)
    assert {"<title>", "&", "−2"} <= set(seen)


def row(name, accuracy, *, group="", axes=None, cache=None, curve=()):
    return RowSummary(
        row=Row(
            name=name, label=name, group=group or name, axes=axes or {}, train={}, cache=cache, seeds=(0, 1)
        ),
        values={"top1": {0: accuracy, 1: accuracy + 0.02}},
        lost={},
        curves={"knn5_top1": {0: list(curve), 1: list(curve)}} if curve else {},
        seconds=1.0,
    )


@pytest.fixture
def summary():
    grid = [
        row(f"g{a}{b}", 0.5 + a / 10 + b / 100, group="g", axes={"cache.x": a, "train.y": b}, cache=f"c{a}")
        for a in (0, 1)
        for b in (0, 1, 2)
    ]
    rows = [row("plain", 0.4, curve=[(1, 0.2), (2, 0.3)]), *grid]
    caches = {
        f"c{a}": CacheSummary(
            name=f"c{a}",
            values={("label_kept", ""): {0: 0.8 + a / 10}},
            intervals={},
            record=Record(kind="cache", name=f"c{a}", seed=0),
        )
        for a in (0, 1)
    }
    return Summary(rows={one.row.name: one for one in rows}, caches=caches, baseline=rows[0])


def test_a_measure_of_caches_has_a_column_for_each_group(summary):
    seen = {("survives", "one"): {0: 0.5}, ("survives", "two"): {0: 0.25, 1: 0.75}}
    first, second = summary.caches.values()
    first = replace(first, values={**first.values, **seen}, intervals={("survives", "one"): (0.375, 0.625)})
    second = replace(second, values={**second.values, ("survives", "two"): {0: 1.0}})
    third = replace(
        second, name="c2", values={("label_kept", ""): {0: 0.5}, ("label_kept", "one"): {0: 0.25}}
    )
    caches = {"c0": first, "c1": second, "c2": third}
    *_, kept, table = _cache_blocks(replace(summary, caches=caches), ["label_kept", "survives"])
    assert table.titles == ["cache", "survives, one", "survives, two"]
    assert table.rows == [
        ["c0", "0.500 (0.375 to 0.625)", "0.500 (0.250 to 0.750, 2 seeds)"],
        ["c1", "–", "1.000"],
    ]
    assert kept.rows == [["c2", "0.250"]], "the rest stands in the first table"


def test_estimators_stand_beside_each_other(summary):
    first, second = summary.caches.values()
    values = {
        ("mine_nats", "original, expert"): {0: 2.0, 1: 3.0},
        ("infonce_nats", "original, expert"): {0: 1.5},
    }
    first = replace(first, values={**first.values, **values, ("mine_nats", "expert, view"): {0: 1.0}})
    *_, table = _cache_blocks(replace(summary, caches={"c0": first, "c1": second}), [])
    assert table.titles == ["cache", "pair of views", "infonce, nats", "mine, nats"]
    assert sorted(table.rows) == [
        ["c0", "expert, view", "–", "1.00"],
        ["c0", "original, expert", "1.50", "2.50 (2.00 to 3.00, 2 seeds)"],
    ]


def test_a_heat_map_over_values_that_are_lists(summary, tmp_path):
    rows = {
        name: replace(
            one, row=replace(one.row, axes={axis: [value, 1] for axis, value in one.row.axes.items()})
        )
        for name, one in summary.rows.items()
    }
    found = replace(summary, rows=rows)
    assert heat_maps(found) == {"g": ("cache.x", "train.y")}
    assert draw_heat_map(found, "g", ("cache.x", "train.y"), "top1", tmp_path / "grid.png")


def test_plots(summary, tmp_path):
    assert draw_bars(summary, ["top1", "nothing"], tmp_path / "bars.png")
    assert draw_curves(summary, tmp_path / "curves.png")
    assert draw_scatter(summary, Scatter(x="label_kept", y="top1"), tmp_path / "scatter.png")
    assert heat_maps(summary) == {"g": ("cache.x", "train.y")}
    assert draw_heat_map(summary, "g", ("cache.x", "train.y"), "top1", tmp_path / "grid.png")
    for name in ("bars", "curves", "scatter", "grid"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture).std() > 1
    assert not draw_bars(summary, ["nothing"], tmp_path / "no.png")
    once = {name: replace(one, curves={"knn5_top1": {0: [(2.0, 0.5)]}}) for name, one in summary.rows.items()}
    assert not draw_curves(replace(summary, rows=once), tmp_path / "no.png"), "a point is no curve"
    assert not draw_scatter(summary, Scatter(x="nothing", y="top1"), tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_the_notes_are_those_of_the_rows_at_hand(summary):
    said = " ".join(notes(summary))
    assert "share one cache" in said
    assert "paired by seed" in said
    rows = {name: replace(one, row=replace(one.row, cache=None)) for name, one in summary.rows.items()}
    said = " ".join(notes(replace(summary, rows=rows, baseline=None)))
    assert "cache" not in said
    assert "paired" not in said
    assert "images and their views" in said


def test_processors_of_several_kinds_are_told():
    def trained(instructions, device="cpu"):
        versions = {} if instructions is None else {"instructions": instructions}
        return Record(kind="training", name="a", seed=0, about={"device": device, "versions": versions})

    one = made_on([trained("AVX2"), trained("AVX2"), Record(kind="cache", name="c", seed=0)])
    assert one == ["Trained on the processor (AVX2); nothing here ran on a GPU."]
    assert len(made_on([trained("AVX2"), trained(None)])) == 1, "what is not known is no difference"
    _, mixed = made_on([trained("AVX2"), trained("AVX512"), trained(None), trained("AVX512")])
    assert "(AVX2: 1, AVX512: 2, not recorded: 1)" in mixed
    assert made_on([trained("AVX2", "cuda:0")]) == ["Trained on cuda:0."]
    assert made_on([]) == []


def test_a_plot_of_a_measure_that_nobody_has_is_told(run_toy, made_up, toy_text, tmp_path):
    run_toy(toy_text + '[[scatter]]\nx = "label_keptt"\ny = "top1"\n')
    table = (tmp_path / "results/table.md").read_text()
    assert "No training or cache has the measure 'label_keptt' of [[scatter]] 1." in table
    merged = (tmp_path / "results/experiment.toml").read_text()
    assert "[rows.a2.grid]" in merged
    assert tomllib.loads(merged)["scatter"] == [{"x": "label_keptt", "y": "top1"}]


def test_points_are_rows_or_trainings(summary):
    rows = {
        name: replace(one, values={**one.values, "top1[digit]": {0: place / 10, 1: place / 20}})
        for place, (name, one) in enumerate(summary.rows.items())
    }
    found = replace(summary, rows=rows)
    means = Scatter(x="top1", y="top1[digit]")
    trainings = Scatter(x="top1", y="top1[digit]", over="trainings")
    assert len(scatter_points(found, means)) == 7
    assert len(scatter_points(found, trainings)) == 14
    assert scatter_points(found, trainings)[3] == ("g00", pytest.approx(0.52), 0.05)
    chosen = trainings.replace(rows=("g00", "g01"))
    assert {label for label, _, _ in scatter_points(found, chosen)} == {"g00", "g01"}
    assert len(scatter_points(found, means.replace(rows=("g",)))) == 6
    correlated = scatter_correlation(found, trainings)
    assert correlated.count == 14
    assert correlated.low < correlated.r < correlated.high
    assert measure_label("top1[digit]") == "linear probe, digit"
    assert is_share("top1[digit]")


def test_pairs_of_values_are_no_grid(summary):
    pairs = [row(f"p{a}", 0.5, group="p", axes={"cache.x": a, "cache.y": 2 * a}) for a in (0, 1, 2)]
    found = Summary(rows={one.row.name: one for one in pairs}, caches={}, baseline=None)
    assert heat_maps(found) == {}


def test_a_mean_curve_has_the_epochs_of_all_trainings():
    assert mean_curve({0: [(1, 0.2), (2, 0.4)], 1: [(2, 0.6), (3, 1.0)]}) == [(2, pytest.approx(0.5))]
    assert mean_curve({}) == []


def test_a_measure_that_is_no_number_is_left_out(run_toy, made_up, tmp_path, monkeypatch):
    train = made_up.train

    def with_nan(task, place, tell):
        from dataclasses import replace

        found = train(task, place, tell)
        return replace(found, measures=(*found.measures, Measure(name="loss", value=float("nan"))))

    monkeypatch.setattr(made_up, "train", with_nan)
    run_toy(seeds=(0,))
    with open(tmp_path / "results/results.csv", newline="") as file:
        losses = {row["value"] for row in csv.DictReader(file) if row["measure"] == "loss"}
    assert losses == {""}


def test_the_only_attribute_need_not_be_named():
    values = [("robust_top1", "class", 1), ("top1", "", 2), ("top1", "class", 3), ("gain", "digit", 4)]
    values += [("retained", "class", 5), ("retained", "year", 6)]
    assert named_values(values) == {
        "robust_top1[class]": 1, "robust_top1": 1, "top1": 2, "top1[class]": 3, "gain[digit]": 4,
        "retained[class]": 5, "retained[year]": 6,
    }  # fmt: skip
    measures = tuple(Measure(name=name, group=group, value=value, on="") for name, group, value in values)
    record = Record(kind="training", name="moco", seed=0, measures=measures)
    assert [record.value(name) for name in ("robust_top1", "gain[digit]", "gain")] == [1, 4, None]
