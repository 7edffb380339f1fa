"""Accuracy that a training measures on its way: when, and that it is the encoder's own."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from viewgen.datasets import load_dataset
from viewgen.diagnostics.features import extract_features
from viewgen.diagnostics.knn import knn_accuracies
from viewgen.diagnostics.probe import linear_probe, probe_config
from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.randomness import addressed_generator
from viewgen_train.curves import read_series
from viewgen_train.diagnostics import KnnSets, accuracies
from viewgen_train.experiment.work import _curves
from viewgen_train.resolve import train_settings
from viewgen_train.training import train
from viewgen_train.worker import train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")

SETTINGS = {
    "generated": "expert",
    "width": 2,
    "projection_dim": 4,
    "batch_size": 8,
    "epochs": 5,
    "learning_rate": 0.05,
    "knn_every": 3,
    "probe_every": 2,
    "seed": 4,
}


def test_neighbours_and_probes_have_epochs_of_their_own(tiny_folder, tiny_root, tmp_path):
    name = f"folder:{tiny_folder}"
    train(name, settings=SETTINGS, data_root=tiny_root, out=str(tmp_path), evaluate=False, quiet=True)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {
        metric: [int(row["step"]) // 2 + 1 for row in rows if row[metric]]
        for metric in ("loss", "knn5_top1", "knn5_heldout", "probe_top1")
    }
    assert measured == {
        "loss": [1, 2, 3, 4, 5],
        "knn5_top1": [3, 5],
        "knn5_heldout": [3, 5],
        "probe_top1": [2, 4],
    }


def test_the_numbers_are_the_encoders(tiny_folder, tiny_root, tmp_path):
    name = f"folder:{tiny_folder}"
    settings = SETTINGS | {"epochs": 2}
    train(name, settings=settings, data_root=tiny_root, out=str(tmp_path), evaluate=False, quiet=True)
    with open(tmp_path / "metrics.csv", newline="") as file:
        *_, row = csv.DictReader(file)
    encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4))
    encoder.load_state_dict(load_file(tmp_path / "last.safetensors"))
    images, test_images = (load_dataset(name, split, data_root=tiny_root) for split in ("train", "test"))
    order = torch.randperm(len(images), generator=addressed_generator(4, "knn")).numpy()
    features, test = extract_features(encoder, images, rows=order), extract_features(encoder, test_images)
    probe = linear_probe(features, test, probe_config(name, num_seeds=1), seed=4)
    assert float(row["probe_top1"]) == pytest.approx(probe.mean, abs=1e-5)
    assert float(row["knn5_top1"]) == pytest.approx(knn_accuracies(features, test)[0, 0], abs=1e-5)


def test_few_images_are_those_of_the_whole_order(tiny_folder, tiny_root):
    name = f"folder:{tiny_folder}"
    images, test_images = (load_dataset(name, split, data_root=tiny_root) for split in ("train", "test"))
    encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4)).eval()
    few = KnnSets(train=images, test=test_images, max_images=7)
    found = accuracies(encoder, few, torch.device("cpu"), 4, knn=True, probe=False)
    order = torch.randperm(len(images), generator=addressed_generator(4, "knn")).numpy()[:7]
    train = extract_features(encoder, images, rows=order)
    test = extract_features(encoder, test_images, rows=np.arange(min(7, len(test_images))))
    assert found["knn5_top1"] == pytest.approx(knn_accuracies(train, test)[0, 0], abs=1e-6)
    more = replace(few, max_images=12)
    assert found != accuracies(encoder, more, torch.device("cpu"), 4, knn=True, probe=False)


def test_each_attribute_has_a_curve_of_its_own(plan_of, tmp_path, monkeypatch):
    """Also in a run that began without these columns."""
    plan, _ = plan_of(
        dataset="overlay:trifeature:16?size=16&images=40",
        out=str(tmp_path / "run"),
        settings={"assimilation": "none", "epochs": 3, "knn_every": 1, "probe_every": 1},
    )
    with monkeypatch.context() as earlier:
        earlier.setattr(
            "viewgen_train.diagnostics._of_attributes", lambda name, top1, _: {name: float(top1.mean())}
        )
        train_worker(plan, "cpu", stop_after=plan.num_steps // 3)
    train_worker(plan, "cpu")
    series = read_series(tmp_path / "run/metrics.csv")
    for metric in ("knn5_top1", "knn5_heldout", "probe_top1"):
        each = [series[f"{metric}[{attribute}]"][1] for attribute in ("digit", "shape", "texture", "color")]
        assert len(series[metric][1]) == 3
        assert [len(one) for one in each] == [2] * 4
        assert len(np.unique(each)) > 1
        np.testing.assert_allclose(np.mean(each, axis=0), series[metric][1][1:], atol=1e-5)
    kept = _curves(tmp_path / "run")
    assert kept["knn5_top1[digit]"] == [
        (epoch, value)
        for epoch, value in zip((2.0, 3.0), series["knn5_top1[digit]"][1].tolist(), strict=True)
    ]
    assert "probe_top1[color]" in kept


def test_a_negative_pause_is_refused():
    with pytest.raises(UsageError, match="probe_every is -1"):
        train_settings("digits", {"probe_every": -1})
