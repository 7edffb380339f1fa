"""A verdict accuses views only by whole intervals, and names every reason."""

import re

import pytest

from viewgen.diagnostics.measure import Measure
from viewgen.diagnostics.verdict import VerdictConfig, verdict

GOOD = {
    "reconstruction_beyond_epsilon": (0.02, 0.0, 0.05),
    "kernel_distance[f]": (0.01, 0.0, 0.02),
    "kernel_distance[f] of reconstructions": (0.01, 0.0, 0.02),
    "kernel_distance[f] of shuffled pixels": (5.0, 4.0, 6.0),
    "label_kept": (0.95, 0.93, 0.97),
    "classifier_accuracy": (0.98, 0.97, 0.99),
    "duplicate_views": (0.0, 0.0, 0.0),
}


def measures(**changes):
    return [
        Measure(name=name, value=value, low=low, high=high)
        for name, (value, low, high) in (GOOD | changes).items()
    ]


def test_nothing_speaks_against_good_views_or_views_that_were_not_measured():
    assert verdict(measures()) == []
    assert verdict([]) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"reconstruction_beyond_epsilon": (0.7, 0.6, 0.8)},
            "70% of the reconstructions lie farther than ε₁",
        ),
        (
            {"kernel_distance[f]": (2.0, 1.0, 3.0)},
            "the views are unlike real images.* 0.4 times that of shuffled",
        ),
        ({"kernel_distance[f] of reconstructions": (2.0, 1.0, 3.0)}, "the reconstructions are unlike real"),
        ({"label_kept": (0.8, 0.75, 0.85)}, r"80.0% of the views keep .* \(at least 88.2% should\)"),
        ({"duplicate_views": (0.3, 0.2, 0.4)}, "30% of the views repeat another"),
    ],
)
def test_each_fault_has_its_sentence(changes, reason):
    (found,) = verdict(measures(**changes))
    assert re.search(reason, found), found


@pytest.mark.parametrize(
    "changes",
    [
        # the interval holds the level: a larger sample may tell
        {"reconstruction_beyond_epsilon": (0.7, 0.4, 0.9)},
        {"kernel_distance[f]": (2.0, 0.3, 4.0)},
        {"label_kept": (0.8, 0.7, 0.9)},
        {"duplicate_views": (0.3, 0.05, 0.6)},
        # a classifier that cannot read proves nothing
        {"label_kept": (0.1, 0.1, 0.1), "classifier_accuracy": (0.4, 0.3, 0.5)},
    ],
)
def test_doubt_is_no_verdict(changes):
    assert verdict(measures(**changes)) == []


def test_levels_are_settings_and_classes_are_not_the_whole():
    assert verdict(measures(), VerdictConfig(label_kept=1.0))
    one_class = Measure(name="label_kept", value=0.1, low=0.1, high=0.1, group="cat")
    assert verdict([*measures(), one_class]) == []
