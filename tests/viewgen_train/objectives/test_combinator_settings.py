"""Settings of IFM and hard negatives: which objectives take them, records, flags, warnings."""

import json
import math

import pytest

from viewgen.cli.train import train
from viewgen.errors import UsageError
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.entry import ALL_COMBINATORS
from viewgen_train.plan import TrainOptions, settled
from viewgen_train.records import nested_record, read_record, record
from viewgen_train.resolve import effective_settings, train_settings


@pytest.mark.parametrize("name", OBJECTIVES.built_in)
def test_every_objective_bears_a_combinator_or_says_why_not(name):
    entry = OBJECTIVES.entry(name)
    assert ALL_COMBINATORS - entry.bears <= entry.reasons.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ifm_epsilon": -0.1}, "ifm_epsilon is -0.1; expected greater than or equal to 0"),
        ({"ifm_epsilon": math.inf}, "ifm_epsilon is inf"),
        ({"ifm_epsilon": math.nan}, "ifm_epsilon is nan; expected a finite number"),
        ({"hardness": math.nan}, "hardness is nan; expected a finite number"),
        ({"ifm_epsilon": 0.1, "ifm_alpha": -1.0}, "ifm_alpha is -1.0"),
        ({"hardness": -1.0}, "hardness is -1.0"),
        ({"class_prior": 1.0}, "class_prior is 1.0; expected less than 1"),
        ({"class_prior": -0.1}, "class_prior is -0.1"),
        ({"ifm_only": True}, "ifm_only is given and has no effect, because ifm_epsilon is 0"),
        ({"ifm_alpha": 2.0}, "ifm_alpha is given and has no effect"),
        ({"ifm_epsilon": 0.1, "ifm_only": True, "ifm_alpha": 2.0}, "because ifm_only is true"),
        ({"hardness_annealing": True}, "hardness_annealing is given and has no effect"),
        ({"objective": "simsiam", "ifm_epsilon": 0.1}, "'simsiam' cannot bear IFM: it has no negatives"),
        ({"objective": "barlow-twins", "hardness": 1.0}, "hard negatives: it has no negatives"),
        ({"objective": "vicreg", "class_prior": 0.1}, "hard negatives: it has no negatives.*class_prior"),
        ({"objective": "decoupled", "ifm_epsilon": 0.1}, "cannot bear IFM: its denominator has no positive"),
        (
            {"assimilation": "A2-full", "hardness": 1.0},
            "in A2 its anchors have several positives",
        ),
        ({"assimilation": "A2", "objective": "barlow-twins"}, "cannot bear A2: it compares dimensions"),
        ({"objective": "nnclr", "assimilation": "A2"}, "cannot bear A2: its positives are nearest neigh"),
        ({"objective": "cpc", "assimilation": "none", "hardness": 1.0}, "it compares vectors of any length"),
        ({"objective": "byol", "ifm_epsilon": 0.1}, "'byol' cannot bear IFM: it has no negatives"),
        ({"objective": "simsiam", "ifm_only": True}, "cannot bear IFM"),
        ({"objective": "barlow-twins", "score": "density", "score_weight": 1.0}, "'barlow-twins' would ign"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings, message):
    if "assimilation" not in settings:
        settings = {"assimilation": "A1"} | settings
    with pytest.raises(UsageError, match=message):
        train_settings("digits", settings)


def test_records_of_earlier_versions_are_untouched_and_new_ones_come_back():
    for given in ({"assimilation": "A1"}, {"assimilation": "A2", "objective": "decoupled"}):
        assert "negatives" not in nested_record(train_settings("digits", given))
    settings = train_settings("digits", {"ifm_epsilon": 0.1, "ifm_alpha": 0.5, "class_prior": 0.1})
    found = record(settings)
    assert found["negatives"] == {"ifm_epsilon": 0.1, "ifm_alpha": 0.5, "class_prior": 0.1}
    assert read_record(json.loads(json.dumps(found))) == settings
    tables = effective_settings(settings)
    assert train_settings("digits", tables) == settings
    assert tables["negatives"].keys() == {"ifm_epsilon", "ifm_alpha", "ifm_only", "hardness", "class_prior"}
    assert "negatives" not in effective_settings(train_settings("digits", {"assimilation": "A2-simsiam"}))


def test_the_flags_are_the_settings(monkeypatch):
    found = []
    monkeypatch.setattr(
        "viewgen_train.dry_run.describe", lambda **options: found.append(options) or FakeText()
    )
    arguments = ["--objective", "simclr", "--ifm-epsilon", "0.1", "--hardness", "2"]
    train.main([*arguments, "--set", "class_prior=0.1", "--dry-run"], standalone_mode=False)
    settings = train_settings("digits", found[0]["settings"]).negatives
    assert (settings.ifm_epsilon, settings.hardness, settings.class_prior) == (0.1, 2.0, 0.1)


class FakeText:
    def lines(self):
        return []


@pytest.mark.parametrize(("temperature", "warned"), [(0.05, True), (0.2, False)])
def test_a_large_epsilon_warns(temperature, warned, caplog):
    given = {"assimilation": "none", "objective": "simclr", "temperature": temperature, "ifm_epsilon": 1.0}
    settled("digits", TrainOptions(settings=given), None)
    assert ("2ε/τ = 40" in caplog.text) == warned
