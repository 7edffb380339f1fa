"""Subjects make their parts once and when asked; registries; one renderer of measures."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from viewgen.diagnostics import DIAGNOSTICS, ESTIMATORS
from viewgen.diagnostics.measure import PARTS, Measure, Subject
from viewgen.diagnostics.mutual_information import ArrayPairs, MIConfig, estimate_mutual_information
from viewgen.diagnostics.mutual_information.entry import EstimatorEntry
from viewgen.diagnostics.mutual_information.estimator import PartitionEstimator
from viewgen.diagnostics.report import (
    Measured,
    csv_text,
    measure_table,
    over_seeds,
    to_json,
    write_tensorboard,
)
from viewgen.errors import MissingFileError, UsageError
from viewgen.settings import Settings, setting


def test_parts_are_made_once_and_only_if_they_are_asked_for():
    made = []

    def make(name):
        made.append(name)
        return name.upper()

    def lost():
        raise MissingFileError("train it first")

    subject = Subject(
        {"encoder": lambda: make("encoder"), "train": lambda: make("train"), "test": lost}, name="x"
    )
    assert made == []
    assert subject.encoder == subject.part("encoder") == "ENCODER"
    assert made == ["encoder"]
    assert subject.missing({"encoder", "test", "pairs"}) == {
        "pairs": "x has no 'pairs' (pairs of views of the same images)",
        "test": "train it first",
    }
    assert subject.derived("length", lambda: len(make("train"))) == subject.derived("length", int) == 5
    with pytest.raises(UsageError, match="no part that is known"):
        subject.part("moon")


@pytest.mark.parametrize("name", DIAGNOSTICS.built_in)
def test_every_diagnostic_says_what_it_needs_and_is_built_of_its_settings(name):
    entry = DIAGNOSTICS.entry(name)
    assert entry.name == name
    assert entry.needs <= PARTS.keys()
    assert entry.settings.title
    built = DIAGNOSTICS.resolve(name, "digits", {}).build()
    assert built.needs == entry.needs
    assert all(field.description for field in entry.settings.model_fields.values())


@pytest.mark.parametrize("name", ESTIMATORS.built_in)
def test_every_estimator_takes_its_settings_from_those_of_the_estimate(name):
    assert ESTIMATORS.entry(name).title == MIConfig(estimator=name).build(name).title
    config = MIConfig(clip=2.0, ema_rate=0.5, warm_up_share=0.5, num_steps=10, batch_size=16)
    built = config.build(name)
    expected = {"mine": {"ema_rate": 0.5, "num_warm_up": 5}, "smile": {"clip": 2.0}}
    expected |= {"infonce": {"batch_size": 16}, "nwj": {}}
    assert {key: getattr(built, key) for key in expected[name]} == expected[name]


class ScaledConfig(Settings):
    title = "scaled"
    factor: float = setting(1.0, "factor of the estimate", gt=0)


class Scaled(PartitionEstimator):
    name, title = "scaled", "Scaled"

    def __init__(self, factor):
        self.factor = factor

    def value(self, joint, log_partition):
        return self.factor * (joint - log_partition)


@pytest.fixture
def scaled_estimator(monkeypatch):
    monkeypatch.setattr(ESTIMATORS, "_registered", {})
    return ESTIMATORS.register(
        EstimatorEntry(
            name="scaled",
            title="Scaled",
            summary="",
            settings=ScaledConfig,
            build=lambda settings, *, batch_size, num_steps: Scaled(settings.factor),
        )
    )


def test_an_estimator_of_a_plugin_is_trained_and_read_beside_the_built_in_ones(scaled_estimator):
    normal = torch.Generator().manual_seed(0)
    x = torch.randn(120, 1, generator=normal)
    pairs = ArrayPairs(x, x + torch.randn(120, 1, generator=normal))
    small = {"batch_size": 16, "num_steps": 3, "num_resamplings": 40}
    config = MIConfig(estimator="scaled", estimator_settings={"factor": 2.0}, **small)
    found = estimate_mutual_information(pairs, config)
    assert set(found.bounds) == {"scaled", *ESTIMATORS.built_in}
    assert found.nats == found.bounds["scaled"].nats
    assert "estimator_settings" not in MIConfig(**small).record(), "results on file keep their address"
    assert config.record()["estimator_settings"] == {"factor": 2.0}
    with pytest.raises(UsageError, match="scaled: factor is 0"):
        MIConfig(estimator="scaled", estimator_settings={"factor": 0})
    with pytest.raises(UsageError, match="did you mean 'factor'"):
        MIConfig(estimator="scaled", estimator_settings={"facto": 1.0})


MEASURED = [
    Measured(diagnostic="knn", seed=0, measure=Measure(name="top1", value=0.5, on="9 test", group="colour")),
    Measured(
        diagnostic="mi", seed=0, measure=Measure(name="nats", value=1.5, low=1.25, high=1.75, group="x, y")
    ),
    Measured(
        diagnostic="mi", seed=1, measure=Measure(name="nats", value=2.5, low=2.0, high=3.0, group="x, y")
    ),
    Measured(diagnostic="knn", seed=0, measure=Measure(name="lost", value=float("nan"))),
]


def test_one_list_of_measures_becomes_json_and_csv():
    document = json.loads(json.dumps(to_json(MEASURED), allow_nan=False))
    assert document[1] == {
        "diagnostic": "mi", "seed": 0, "name": "nats", "value": 1.5, "low": 1.25, "high": 1.75, "on": "",
        "group": "x, y",
    }  # fmt: skip
    assert document[3]["value"] is None
    rows = list(csv.DictReader(io.StringIO(csv_text(MEASURED))))
    assert [row["value"] for row in rows] == ["0.5", "1.5", "2.5", ""]
    assert rows[0]["group"] == "colour"


def test_the_table_has_intervals_where_there_are_any_and_one_row_for_all_seeds():
    from rich.console import Console

    def text(measures):
        stream = io.StringIO()
        Console(file=stream, width=120, markup=False).print(measure_table(measures))
        return stream.getvalue()

    merged = over_seeds(MEASURED)
    assert [row.measure.value for row in merged][:2] == [0.5, 2.0]
    second = merged[1].measure
    assert (second.low, second.high, second.on) == (1.5, 2.5, "2 seeds")
    assert "1.5 … 2.5" in text(merged)
    assert "…" not in text([MEASURED[0]])


def test_the_table_says_once_what_was_measured_on_what_and_breaks_no_name():
    from rich.console import Console

    long = "correlation_class_error_of_every_view"
    rows = [
        Measured(diagnostic="bounds", seed=0, measure=Measure(name=name, value=value, on=on))
        for name, value, on in [
            (long, -0.00123456, "10 classes × 100 images; at least"),
            ("error", 0.25, "360 test images"),
            ("sigma", 1.0, "10 classes × 100 images"),
        ]
    ]
    stream = io.StringIO()
    Console(file=stream, width=60, markup=False).print(measure_table(rows))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines == [
        "bounds  10 classes × 100 images",
        f"  {long}  -0.001235  at least",
        f"  {'sigma':{len(long)}}  1",
        "bounds  360 test images",
        f"  {'error':{len(long)}}  0.25",
    ]
    merged = over_seeds([*rows, *(replace(row, seed=1) for row in rows)])
    assert merged[0].measure.on == "10 classes × 100 images, 2 seeds; at least"


def test_tensorboard_gets_a_scalar_of_each_with_the_seed_as_step(tmp_path):
    write_tensorboard(MEASURED[:3], tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("mi/x, y/nats")] == [(0, 1.5), (1, 2.5)]
    assert np.isclose(events.Scalars("knn/colour/top1")[0].value, 0.5)
