"""Sweeps: the quadratic against known curves, the sentences, the picture; shipped sweeps."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from viewgen.errors import UsageError
from viewgen_train.experiment.cost import COPIES, measure_cost
from viewgen_train.experiment.document import Sweep, load_document
from viewgen_train.experiment.grid import Row
from viewgen_train.experiment.plan import make_plan
from viewgen_train.experiment.summary import RowSummary, Summary, is_share, measure_label
from viewgen_train.experiment.sweep import draw_sweep, fit_quadratic, sweep_rows, sweep_words
from viewgen_train.experiment.work import _measured
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective

SWEEP = Sweep(y="top1", row="crop")
ON_FASHION = ("sweep-crop", "sweep-jitter", "sweep-frequency", "sweep-generated")


def test_a_quadratic_is_found_with_its_top():
    x = np.linspace(1, 4, 30)
    found = fit_quadratic(x.tolist(), (0.5 + 0.4 * x - 0.1 * x**2).tolist())
    assert found.coefficients == pytest.approx((0.5, 0.4, -0.1))
    assert (found.peak, found.low, found.high) == pytest.approx((2.0, 1.0, 4.0))
    assert found.is_reverse_u
    assert fit_quadratic([1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]) is None
    assert fit_quadratic([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    x = np.linspace(0, 3, 12)
    bends, tops, share = 0, 0, 400
    for _ in range(share):
        found = fit_quadratic(x.tolist(), (1 + 2 * x - 0.7 * x**2 + random.normal(0, 0.2, 12)).tolist())
        bends += found.curvature_low <= -0.7 <= found.curvature_high
        tops += found.peak_low <= 2 / 1.4 <= found.peak_high
    assert bends / share == pytest.approx(0.95, abs=0.03)
    assert tops / share == pytest.approx(0.95, abs=0.04)  # linearised


def summary(y_of, values=(0.5, 1.0, 2.0, 3.0, 4.0), noise=0.0):
    """Return a sweep of rows whose accuracy is a function of their I_NCE, with three trainings each."""
    random = np.random.default_rng(1)
    rows = {}
    for number, value in enumerate(values):
        name = f"crop[{number}]"
        row = Row(
            name=name, label=f"c {number}", group="crop", axes={}, train={}, cache=None, seeds=(0, 1, 2)
        )
        accuracies = {seed: y_of(value) + noise * float(random.normal()) for seed in range(3)}
        shared = {seed: value + 0.01 * seed for seed in range(3)}
        rows[name] = RowSummary(
            row=row, values={"i_nce": shared, "top1": accuracies}, lost={}, curves={}, seconds=0
        )
    return Summary(rows=rows, caches={}, baseline=None)


def test_a_reverse_u_is_told_with_its_sweet_spot(tmp_path):
    found = summary(lambda x: 0.6 - 0.05 * (x - 2.2) ** 2, noise=0.002)
    first, second = sweep_words(found, SWEEP)
    assert "linear probe is highest for c 2" in first
    assert "at I_NCE, nats 2.01, between the ends of the range 0.51 to 4.01" in first
    assert second.startswith("A reverse U of linear probe over I_NCE, nats is shown")
    assert second.endswith("15 trainings, taken as independent.")
    assert draw_sweep(found, SWEEP, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000


def test_grids_share_one_curve_and_keep_their_own_lines(tmp_path):
    found = summary(lambda x: 0.6 - 0.05 * (x - 2.2) ** 2, noise=0.002)
    other = summary(lambda x: 0.6 - 0.05 * (x - 2.2) ** 2, values=(1.5, 2.5), noise=0.002)
    for name, one in other.rows.items():
        found.rows[name.replace("crop", "noise")] = replace(one, row=replace(one.row, group="noise"))
    both = Sweep(y="top1", row="noise", beside=("crop",))
    assert [row.row.group for row in sweep_rows(found, both)] == ["noise"] * 2 + ["crop"] * 5
    first, second = sweep_words(found, both)
    assert first.startswith("Sweep of noise, crop: ")
    assert second.endswith("21 trainings, taken as independent.")
    assert draw_sweep(found, both, tmp_path / "sweep.png")


@pytest.mark.parametrize(
    ("y_of", "noise", "told"),
    [
        (lambda x: 0.3 + 0.05 * x, 0.001, "No reverse U"),
        (lambda x: 0.6 - 0.01 * (x - 8) ** 2, 0.0001, "its top at 8.0"),
        (lambda x: 0.5, 0.05, "No reverse U"),
    ],
)
def test_other_shapes_are_not_called_one(y_of, noise, told):
    assert told in sweep_words(summary(y_of, noise=noise), SWEEP)[1]


def test_saturated_rows_are_named_and_hollow(tmp_path, monkeypatch):
    found = summary(lambda x: 0.3 + 0.05 * x, noise=0.001)
    for number, row in enumerate(found.rows.values()):
        row.values["i_nce_saturated"] = {0: 0.0, 1: float(number == 3), 2: float(number == 4)}
    words = sweep_words(found, SWEEP)
    assert words[1].startswith("Within 1 nat of the ceiling of I_NCE, nats")
    assert ": c 3, c 4. Their order" in words[1]
    figures = []
    monkeypatch.setattr(
        "viewgen_train.experiment.sweep.save_figure", lambda figure, path: figures.append(figure)
    )
    assert draw_sweep(found, SWEEP, tmp_path / "sweep.png")
    dots = [line for line in figures[0].axes[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in dots] == ["C0", "C0", "C0", "w", "w"]


def test_few_rows_are_no_sweep(tmp_path):
    found = summary(lambda x: x, values=(1.0, 2.0))
    assert len(sweep_rows(found, SWEEP)) == 2
    assert sweep_words(found, SWEEP) == []
    assert not draw_sweep(found, SWEEP, tmp_path / "none.png")


def test_measures_of_one_attribute():
    assert measure_label("top1[digit]") == "linear probe, digit"
    assert is_share("top1[digit]")
    assert not is_share("distance")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sweep-crop", 7),
        ("sweep-jitter", 7),
        ("sweep-frequency", 9),
        ("sweep-generated", 13),
        ("sweep-color", 6),
        ("sweep-patches", 6),
        ("shared-factors", 7),
    ],
)
def test_shipped_sweeps_have_their_grids(name, count, tmp_path):
    dataset = "fashion-mnist" if name in ON_FASHION else None
    found = make_plan(load_document(name, dataset=dataset), tmp_path, with_data=False)
    assert len(found.rows) == count
    assert len(found.trainings) == 3 * count


def test_settings_that_change_together_are_told_by_the_first(tmp_path):
    found = make_plan(load_document("sweep-jitter", dataset="fashion-mnist"), tmp_path, with_data=False)
    assert [row.label for row in found.rows.values()][:2] == [
        "jitter, brightness 0.1 …",
        "jitter, brightness 0.2 …",
    ]
    assert next(iter(found.rows)).startswith("jitter[expert.brightness=0.1,expert.contrast=0.1,")
    found = make_plan(load_document("views-per-image", dataset="digits"), tmp_path, with_data=False)
    assert "A2, V 8, m 2" in [row.label for row in found.rows.values()]


@pytest.mark.parametrize("dataset", ["cifar100", "tinyimagenet"])
@pytest.mark.parametrize("name", ON_FASHION)
def test_the_scale_of_the_loss_fits_the_temperature(name, dataset, tmp_path):
    """The learning rates of these recipes presume a loss times τ / 0.07."""
    found = make_plan(load_document(name, scale="paper", dataset=dataset), tmp_path, with_data=False)
    for settings in found.settings.values():
        assert settings.objective.settings.temperature == 0.1
        assert settings.optimiser.loss_scale == pytest.approx(0.1 / 0.07)


def test_the_cost_of_views_of_roles_is_that_of_two_encoders(tmp_path, monkeypatch):
    plan = make_plan(load_document("sweep-color"), tmp_path, with_data=False)
    (name, *_) = plan.rows
    asked = []

    def estimate(settings, *, splitting, **_):
        asked.append(splitting)
        return SimpleNamespace(images_per_second=8.0, without="")

    monkeypatch.setattr("viewgen_train.experiment.cost.estimate", estimate)
    (task,) = measure_cost(plan, {("training", name): 1}, workers=1).tasks
    assert asked[0].name == "color"
    roles = asked[0].entry.roles
    network = build_network(
        plan.settings[name], build_objective(plan.settings[name]).head, 32, torch.device("cpu"), roles=roles
    )
    assert task.num_bytes == COPIES * sum(one.numel() * one.element_size() for one in network.parameters())


def test_a_readout_of_another_size_than_the_views_is_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        '[experiment]\ndataset = "digits"\n[rows.patches]\n'
        'train = {assimilation = "none", generated = "patches", objective = "infonce"}\n'
    )
    with pytest.raises(UsageError, match=r"\[rows.patches\]: its views have \d+ px.*readout in \[measure\]"):
        make_plan(load_document(str(path)), tmp_path)
    path.write_text(
        '[experiment]\ndataset = "digits"\n[caches.p]\nmethod = "patches"\n[rows.patches]\ncache = "p"\n'
        'train = {assimilation = "none", generated = "cache", objective = "infonce"}\n'
    )
    with pytest.raises(UsageError, match=r"\[rows.patches\]: its views have \d+ px"):
        make_plan(load_document(str(path)), tmp_path)


def test_measures_of_i_nce(monkeypatch):
    held_out = {"nats": 1.5, "low": 1.4, "high": 1.6, "ceiling": 2.0, "saturated": True, "candidates": 8,
                "images": 16, "training": 1.7}  # fmt: skip
    found = {"dataset": {"test": 20}, "loss": None, "i_nce": held_out}
    found |= {"i_nce_training": 1.7, "i_nce_training_ceiling": 2.5}
    monkeypatch.setattr("viewgen_train.experiment.work.evaluate", lambda *_, **__: found)
    task = SimpleNamespace(
        kind="training", out="", probe={}, readout=None, readout_limit=None, data_root=None, diagnostics=()
    )
    values = {one.name: one.value for one in _measured(task, SimpleNamespace(device="cpu"))}
    in_training = {"i_nce_training": 1.7, "i_nce_training_ceiling": 2.5, "i_nce_training_saturated": 1.0}
    assert values == {"i_nce": 1.5, "i_nce_ceiling": 2.0, "i_nce_saturated": 1.0} | in_training
    del found["i_nce"]
    assert [one.name for one in _measured(task, SimpleNamespace(device="cpu"))] == [*in_training]


def test_a_sweep_of_no_row_is_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('extends = "sweep-crop"\n[[sweeps]]\nrow = "corp"\n')
    with pytest.raises(UsageError, match=r"row is 'corp'; did you mean 'crop'|row is 'corp'"):
        make_plan(load_document(str(path), dataset="digits"), tmp_path, with_data=False)
    path.write_text('extends = "sweep-crop"\n[[sweeps]]\nrow = "crop"\nbeside = ["corp"]\n')
    with pytest.raises(UsageError, match="beside is 'corp'"):
        make_plan(load_document(str(path), dataset="digits"), tmp_path, with_data=False)
    path.write_text('extends = "sweep-crop"\n[[sweeps]]\nrow = "crop"\nbeside = ["crop"]\n')
    with pytest.raises(UsageError, match="row and beside name a grid twice"):
        make_plan(load_document(str(path), dataset="digits"), tmp_path, with_data=False)
