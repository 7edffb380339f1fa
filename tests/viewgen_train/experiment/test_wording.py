"""Sentences on made-up numbers: no difference is claimed where its interval holds 0."""

import numpy as np
import pytest

from viewgen_train.experiment.statistics import Correlation, Paired, paired
from viewgen_train.experiment.wording import (
    answer,
    chance_line,
    correlation_words,
    difference_cell,
    summary_lines,
)


def gap(mean: float, half: float, wins: int = 3, count: int = 5, ties: int = 0) -> Paired:
    return Paired(mean=mean, low=mean - half, high=mean + half, wins=wins, ties=ties, count=count)


def test_a_difference_whose_interval_leaves_out_0():
    told = answer(gap(0.012, 0.004, wins=5), "A2", "A1", "linear probe")
    assert told == (
        "A2 is higher than A1 in linear probe: by 1.20 points (+0.80 to +1.60), higher in 5 of 5 trainings."
    )
    assert "A2 is lower than A1" in answer(gap(-0.012, 0.004, wins=0), "A2", "A1", "linear probe")


@pytest.mark.parametrize("mean", [0.02, -0.02, 0.0])
def test_a_difference_whose_interval_holds_0(mean):
    told = answer(gap(mean, 0.02, wins=4, ties=1), "A2", "A1", "linear probe")
    assert told.startswith("No difference in linear probe is shown between A2 and A1")
    assert "holds 0" in told
    assert "4 of 5 trainings, 1 equal" in told
    assert "not ruled out" in told
    for word in ("higher than", "lower than", "better", "helps", "improves"):
        assert word not in told


def test_random_numbers_are_claimed_to_differ_one_time_in_twenty():
    random = np.random.default_rng(0)
    claims = 0
    for _ in range(1000):
        rows = [dict(enumerate(random.normal(0.9, 0.01, 5))) for _ in "ab"]
        told = answer(paired(*rows), "A2", "A1", "linear probe")
        claims += "is higher than" in told or "is lower than" in told
    # 5 % of 1000, within three standard errors
    assert abs(claims - 50) <= 3 * (1000 * 0.05 * 0.95) ** 0.5


def test_too_few_trainings():
    one = answer(paired({0: 0.6}, {0: 0.5}), "A2", "A1", "linear probe")
    assert one.startswith("Not known: one training of each.")
    assert "+10.00 points" in one
    assert answer(None, "A2", "A1", "linear probe").startswith("Not known: A2 and A1 have no finished")
    assert "2 trainings are few" in answer(gap(0.1, 0.01, count=2), "A2", "A1", "linear probe")
    assert "few" not in answer(gap(0.1, 0.01, count=3), "A2", "A1", "linear probe")


def test_all_rows_together():
    rows = [("up", gap(0.1, 0.05)), ("same", gap(0.0, 0.05)), ("down", gap(-0.1, 0.05)), ("none", None)]
    lines = summary_lines(rows, "SimCLR", "5-NN")
    assert lines == [
        "In 5-NN, 1 of 3 rows is higher than SimCLR: up.",
        "In 5-NN, 1 of 3 rows is lower than SimCLR: down.",
        "In 5-NN, 1 of 3 rows is not shown to differ from SimCLR: same.",
    ]
    assert "of 30 that equal the baseline, 2 would leave out 0" in chance_line(30)
    assert summary_lines([("one", gap(0.1, float("nan"), count=1))], "SimCLR", "5-NN") == []


def test_cells_and_correlations():
    assert difference_cell(gap(-0.0123, 0.02, wins=1)) == "−1.23 (−3.23 to +0.77), 1 of 5"
    assert difference_cell(paired({0: 0.6}, {0: 0.5})) == "+10.00 (one pair)"
    small = gap(0.0123, 0.0006, wins=5)
    assert difference_cell(small, points=False) == "+0.01230 (+0.01170 to +0.01290), 5 of 5"
    assert difference_cell(None) == ""
    none = correlation_words(Correlation(r=0.5, low=-0.1, high=0.8, count=9), "label kept", "probe")
    assert "no correlation is shown" in none
    assert "no correlation" not in correlation_words(
        Correlation(r=0.8, low=0.3, high=0.95, count=9), "label kept", "probe"
    )
    assert "too few" in correlation_words(
        Correlation(r=1.0, low=float("nan"), high=float("nan"), count=3), "label kept", "probe"
    )
