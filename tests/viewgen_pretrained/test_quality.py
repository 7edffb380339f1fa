"""Measures of quality against double loops and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from viewgen.datasets import load_dataset
from viewgen.diagnostics.distances import kernel_distance
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen_pretrained import quality
from viewgen_pretrained.quality import measure_encoder, measure_generator


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def small_encoder() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(EncoderConfig(image_size=8, width=4, projection_dim=8)).eval()


def test_measured_rows_are_spread_over_a_split_sorted_by_class(dataset, monkeypatch):
    assert quality._rows(dataset).tolist() == list(range(20))
    monkeypatch.setattr(quality, "MAX_IMAGES", 6)
    rows = quality._rows(dataset)
    assert len(rows) == 6
    assert set(dataset.labels(rows)) == {0, 1}


def test_an_encoder_that_sees_brightness_tells_dark_from_light(small_encoder, dataset, data_root):
    measured = measure_encoder(small_encoder, dataset, str(data_root))
    assert measured["test_images"] == 12
    assert measured["knn5_top1"] > 0.5


def test_a_generator_of_the_data_itself_measures_no_distance(small_encoder, dataset, data_root):
    class Copies(torch.nn.Module):
        """A stand-in that returns the training images in order."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.config = type("Config", (), {"style_dim": 4})

        def forward(self, z: Tensor) -> Tensor:
            return torch.from_numpy(dataset.images(np.arange(len(z)))).float() / 127.5 - 1

    measured = measure_generator(Copies(), small_encoder, dataset, str(data_root))
    features = quality._features(small_encoder, dataset)
    # the unbiased estimate leaves the diagonal out of both sums, but not out of the cross term
    assert measured["kernel_distance"] == pytest.approx(kernel_distance(features, features), abs=1e-6)
    assert measured["kernel_distance"] < 0
    assert measured["samples"] == 20


def test_without_a_test_split_only_what_can_be_is_measured(small_encoder, pictures: Path, data_root):
    alone = load_dataset(f"folder:{pictures / 'train'}", data_root=data_root)
    assert measure_encoder(small_encoder, alone, str(data_root)) == {}
