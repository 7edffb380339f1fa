"""Calibration of ε₁: laws, and the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from viewgen.cli import main
from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.calibration import calibrate
from viewgen.errors import DataError, UsageError
from viewgen.views.entry import Resources
from viewgen.views.expert import ExpertConfig, ExpertSource
from viewgen.views.offline import offline_step

IDENTITY = ExpertConfig(
    crop_scale=(1, 1),
    crop_ratio=(1, 1),
    flip_probability=0,
    jitter_probability=0,
    grayscale_probability=0,
)


def make_dataset(count: int, size: int = 8) -> ImageDataset:
    random = np.random.default_rng(0)
    return ImageDataset(
        name="noise",
        split="train",
        image_size=size,
        num_classes=1,
        class_names=("noise",),
        pixels=MemoryImages(random.integers(0, 256, (count, 3, size, size), np.uint8)),
        targets=np.zeros(count, np.int64),
    )


def test_the_same_seed_gives_the_same_numbers(small_models):
    data = make_dataset(60)
    first = calibrate(small_models.encoder, data, ExpertConfig(), num_images=40)
    assert first == calibrate(small_models.encoder, data, ExpertConfig(), num_images=40)
    other = calibrate(small_models.encoder, data, ExpertConfig(), num_images=40, seed=1)
    assert other.epsilon_boundary != first.epsilon_boundary
    assert other.epsilon_boundary == pytest.approx(first.epsilon_boundary, rel=0.2)


def test_views_equal_to_their_images_lie_at_distance_0(small_models):
    measured = calibrate(small_models.encoder, make_dataset(20), IDENTITY)
    assert measured.epsilon_boundary < 1e-4  # float32 crop coordinates
    assert max(measured.quantiles) < 1e-3
    assert measured.different_images > 0.1
    stronger = [
        calibrate(
            small_models.encoder,
            make_dataset(20),
            ExpertConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip_probability=0, brightness=strength),
        ).epsilon_boundary
        for strength in (0.1, 0.9)
    ]
    assert 0 < stronger[0] < stronger[1]


def test_the_numbers_are_those_of_the_expert_method(small_models):
    data = make_dataset(30)
    measured = calibrate(small_models.encoder, data, ExpertConfig(), num_images=100, num_views=3, seed=4)
    resources = Resources(models=small_models)
    step = offline_step(ExpertSource(ExpertConfig()), resources, seed=4, num_views=3)
    distance = step(data.batch(np.arange(30)))["distance"]
    # the method measures views rounded to 8 bits
    assert measured.epsilon_boundary == pytest.approx(distance.mean(), rel=1e-2)
    assert measured.standard_deviation == pytest.approx(distance.std(ddof=1), rel=1e-2)
    assert measured.quantiles == pytest.approx(np.quantile(distance, [0.05, 0.25, 0.5, 0.75, 0.95]), rel=0.03)
    assert (measured.num_images, measured.num_views) == (30, 3)


def test_different_images_are_compared_pair_by_pair(small_models, monkeypatch):
    data = make_dataset(7)
    with torch.no_grad():
        z = small_models.encoder(torch.from_numpy(data.images(range(7))).float() / 127.5 - 1)
    pairs = [(z[i] - z[j]).norm().item() for i in range(7) for j in range(i)]
    measured = calibrate(small_models.encoder, data, IDENTITY)
    assert measured.different_images == pytest.approx(np.mean(pairs), rel=1e-4)
    monkeypatch.setattr("viewgen.diagnostics.calibration.MAX_COMPARED", 3)
    some = [(z[i] - z[j]).norm().item() for i in (0, 3, 6) for j in (0, 3, 6) if j < i]
    measured = calibrate(small_models.encoder, data, IDENTITY)
    assert measured.different_images == pytest.approx(np.mean(some), rel=1e-4)


def test_what_cannot_be_measured_is_refused(small_models):
    encoder = small_models.encoder
    with pytest.raises(DataError, match="16-px images, the encoder was trained on 8 px"):
        calibrate(encoder, make_dataset(5, size=16), ExpertConfig())
    with pytest.raises(DataError, match="noise has 1 image"):
        calibrate(encoder, make_dataset(1), ExpertConfig())
    with pytest.raises(UsageError, match="num_images is 1 and num_views 4"):
        calibrate(encoder, make_dataset(5), ExpertConfig(), num_images=1)
    with pytest.raises(UsageError, match="num_views 0"):
        calibrate(encoder, make_dataset(5), ExpertConfig(), num_views=0)


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["calibrate", *words])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


FEW = ("--dataset", "digits", "--num-images", "24", "--num-views", "2")


def test_the_command_prints_a_table_or_one_json_object(capsys, tmp_path):
    code, text, _ = run(*FEW, "--json", capsys=capsys)
    assert code == 0
    document = json.loads(text)
    assert document.keys() == {
        "dataset", "split", "epsilon_boundary", "standard_deviation", "quantiles", "different_images",
        "num_images", "num_views", "seed", "encoder", "encoder_digest",
    }  # fmt: skip
    assert (document["num_images"], document["num_views"], document["seed"]) == (24, 2, 0)
    assert 0 < document["quantiles"]["0.05"] < document["epsilon_boundary"] < document["different_images"]
    code, table, _ = run(*FEW, capsys=capsys)
    assert code == 0
    assert f"{document['epsilon_boundary']:.3f} ± {document['standard_deviation']:.3f}" in table
    assert len(table.splitlines()) == 5
    # the same weights by name and by folder
    weights = Path(document["encoder"])
    shutil.copy(weights, tmp_path / "encoder.safetensors")
    for more in (("--encoder", str(weights)), ("--models", str(tmp_path))):
        _, text, _ = run(*FEW, "--json", *more, capsys=capsys)
        assert json.loads(text)["epsilon_boundary"] == document["epsilon_boundary"]


def test_the_command_says_what_is_missing(capsys, tmp_path):
    code, text, errors = run("--dataset", "digits", "--models", str(tmp_path), capsys=capsys)
    assert (code, text) == (1, "")
    assert "viewgen pretrain encoder --dataset digits" in errors
    code, _, errors = run("--dataset", "digits", "--encoder", str(tmp_path / "no.file"), capsys=capsys)
    assert code == 1
    assert "no.file" in errors
    code, _, errors = run(*FEW[:2], "--num-images", "1", capsys=capsys)
    assert code == 2
    code, text, _ = run("--help", capsys=capsys)
    assert code == 0
    assert "viewgen calibrate --dataset" in text.split("Examples")[1]
