"""Measures of quality against double loops and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from viewgen.datasets import load_dataset
from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen_pretrained import quality
from viewgen_pretrained.quality import kernel_distance, measure_encoder, measure_generator, psnr


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def small_encoder() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(EncoderConfig(image_size=8, width=4, projection_dim=8)).eval()


def test_kernel_distance_equals_a_double_loop(monkeypatch):
    x, y = normal(7, 3), normal(5, 3, seed=1) + 0.5
    scale = math.sqrt(sum(value**2 for value in y.flatten().tolist()) / y.numel())

    def kernel(a: Tensor, b: Tensor) -> float:
        dot = sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / scale**2
        return (dot / 3 + 1) ** 3

    within_x = [kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j]
    within_y = [kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j]
    across = [kernel(a, b) for a in x for b in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(quality, "KERNEL_ROWS", 2)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_0_on_average_for_one_distribution_and_grows_with_a_shift():
    same = [kernel_distance(normal(200, 8, seed=2 * s), normal(200, 8, seed=2 * s + 1)) for s in range(30)]
    spread = np.std(same) / math.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * spread  # unbiased
    assert min(same) < 0 < max(same)
    shifted = [kernel_distance(normal(200, 8) + shift, normal(200, 8, seed=1)) for shift in (0.2, 0.5, 1.0)]
    assert np.std(same) * 3 < shifted[0] < shifted[1] < shifted[2]


def test_kernel_distance_has_no_unit():
    x, y = normal(20, 4), normal(30, 4, seed=1) + 1
    assert kernel_distance(1000 * x, 1000 * y) == pytest.approx(kernel_distance(x, y))


def test_kernel_distance_needs_two_features_on_each_side():
    with pytest.raises(UsageError, match="got 1 and 5"):
        kernel_distance(normal(1, 3), normal(5, 3))


@pytest.mark.parametrize("offset", [2.0, 0.5, 0.01])
def test_psnr_of_a_constant_offset(offset):
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    # peak 2, mean squared error offset²
    assert psnr(x, x + offset).tolist() == pytest.approx([20 * math.log10(2 / offset)] * 2)


def test_psnr_of_equal_images_is_large_and_finite():
    x = torch.zeros(1, 3, 4, 4)
    assert 100 < psnr(x, x).item() < math.inf


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
