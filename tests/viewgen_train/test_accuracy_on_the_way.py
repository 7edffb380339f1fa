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
from viewgen_train.diagnostics import KnnSets, accuracies
from viewgen_train.resolve import train_settings
from viewgen_train.training import train

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


def test_a_negative_pause_is_refused():
    with pytest.raises(UsageError, match="probe_every is -1"):
        train_settings("digits", {"probe_every": -1})
