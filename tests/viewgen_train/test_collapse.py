"""Collapse during a training: columns of metrics.csv, and a warning of a constructed one."""

import csv

import pytest
import torch

from viewgen.diagnostics.collapse import constant_warning
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.settings import Settings
from viewgen_train.diagnostics import CollapseWatch
from viewgen_train.loader import ImageMemory
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Outputs, PairObjective
from viewgen_train.training import train

pytestmark = pytest.mark.usefixtures("_no_pictures")

SETTINGS = {
    "generated": "expert",
    "assimilation": "none",
    "width": 2,
    "projection_dim": 4,
    "batch_size": 8,
    "learning_rate": 0.5,
    "warm_up_epochs": 0.0,
}
COLUMNS = (
    *("rankme", "effective_rank", "feature_sd"),
    *("projection_sd", "projection_rankme", "alignment", "uniformity"),
)


class Gather(PairObjective):
    """Draws all views of a batch to one point."""

    def __init__(self, settings):
        pass

    def loss(self, out):
        z = out.z.flatten(0, 1)
        return {"loss": -(z @ z.T).mean()}


class GatherSettings(Settings):
    title = "gather"


@pytest.fixture
def _gather(monkeypatch):
    entry = ObjectiveEntry(name="gather", summary="collapse", settings=GatherSettings, build=Gather)
    monkeypatch.setitem(OBJECTIVES._registered, "gather", entry)


def trained(objective, epochs, root, folder, out):
    settings = SETTINGS | {"objective": objective, "epochs": epochs, "knn_every": epochs // 2}
    train(f"folder:{folder}", settings=settings, data_root=root, out=str(out), evaluate=False, quiet=True)
    with open(out / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rankme"]]
    assert [int(row["step"]) for row in rows] == [epochs - 1, 2 * epochs - 1], "as the nearest neighbours"
    return [{column: float(row[column]) for column in COLUMNS} for row in rows]


@pytest.mark.usefixtures("_gather")
def test_a_collapsed_training_warns(tiny_folder, tiny_root, tmp_path, caplog):
    *_, last = trained("gather", 6, tiny_root, tiny_folder, tmp_path)
    (warning,) = [record.message for record in caplog.records if "has collapsed" in record.message]
    assert "projections of all images are nearly the same" in warning
    assert last["projection_sd"] < 0.05
    assert last["uniformity"] > -0.1


def test_a_healthy_training_does_not(tiny_folder, tiny_root, tmp_path, caplog):
    *_, last = trained("simclr", 2, tiny_root, tiny_folder, tmp_path)
    assert "collapsed" not in "".join(record.message for record in caplog.records[1:])
    assert last["projection_sd"] > 0.1
    assert last["projection_rankme"] > 1.5


def watch_of(tiny):
    encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4))
    return CollapseWatch(encoder, ImageMemory(tiny, 21, torch.device("cpu"), 1 << 30), seed=0)


def test_an_objective_of_one_view_is_watched_too(tiny, caplog):
    """CPC has the projections of one view."""
    watch, random = watch_of(tiny), torch.Generator().manual_seed(0)
    found = watch.measure(Outputs(z=torch.randn(1, 8, 4, generator=random)))
    assert found["projection_rankme"] > 2
    assert "alignment" not in found
    assert not caplog.records
    point = torch.ones(1, 8, 4) + 1e-4 * torch.randn(1, 8, 4, generator=random)
    assert watch.measure(Outputs(z=point))["projection_sd"] < 0.05
    assert "the encoder has collapsed" in caplog.text


def test_constant_dimensions_are_told_once(tiny, caplog):
    watch, random = watch_of(tiny), torch.Generator().manual_seed(0)
    z = torch.randn(2, 8, 4, generator=random)
    z[:, :, 1] = 7.0
    for _ in range(2):
        watch.measure(Outputs(z=z))
    (record,) = caplog.records
    assert "1 of 4 dimensions of the projections are the same for all images" in record.message
    assert constant_warning(torch.randn(8, 4, generator=random)) is None
    assert constant_warning(torch.ones(1, 4)) is None  # of one image nothing is known
