"""The supervised objective: cross-entropies of the chosen attributes, and trainings that learn them."""

import csv

import pytest
import torch
import torch.nn.functional as F

from viewgen.errors import UsageError
from viewgen_train.objectives.objective import Outputs, Widths
from viewgen_train.objectives.supervised import Supervised, SupervisedSettings
from viewgen_train.resolve import train_settings
from viewgen_train.worker import train_worker

WIDTHS = Widths(features=4, projections=2, classes={"digit": 3, "background": 2})


def test_the_loss_is_the_sum_of_the_attributes_cross_entropies():
    features = torch.randn(1, 6, 4)
    labels = torch.stack([torch.arange(6) % 3, torch.arange(6) % 2], dim=1)
    out = Outputs(z=torch.rand(1, 6, 2), features=features, labels=labels)
    both, one = Supervised(SupervisedSettings()), Supervised(SupervisedSettings(attribute="background"))
    for objective in (both, one):
        objective.allocate(WIDTHS)
    expected = sum(
        F.cross_entropy(classifier(features[0]), labels[:, column])
        for column, classifier in enumerate(both.classifiers)
    )
    torch.testing.assert_close(both.loss(out)["loss"], expected)
    assert len(one.classifiers) == 1
    torch.testing.assert_close(
        one.loss(out)["loss"], F.cross_entropy(one.classifiers[0](features[0]), labels[:, 1])
    )


def test_bad_input():
    with pytest.raises(UsageError, match="attribute is 'digits'; did you mean 'digit'"):
        Supervised(SupervisedSettings(attribute="digits")).allocate(WIDTHS)
    with pytest.raises(UsageError, match="no classes"):
        Supervised(SupervisedSettings()).allocate(Widths(features=4, projections=2))
    with pytest.raises(UsageError, match="cannot bear A2: it learns classes from one view"):
        train_settings("digits", {"assimilation": "A2", "objective": "supervised"})


@pytest.mark.usefixtures("_no_pictures")
def test_a_training_learns_the_classes(make_tiny_plan, tmp_path):
    given = {"assimilation": "none", "objective": "supervised", "epochs": 12, "warm_up_epochs": 0.0}
    train_worker(make_tiny_plan(**given), "cpu", checkpoint_seconds=1e9)
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < 0.5 < float(rows[0]["loss"])
