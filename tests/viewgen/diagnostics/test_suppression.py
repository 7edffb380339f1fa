"""Suppression: silhouettes and energies against references, and encoders that ignore an attribute."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import silhouette_score

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import suppression
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.suppression import (
    Suppression,
    SuppressionConfig,
    class_energy,
    energy_ratio,
    silhouette,
)
from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model


@pytest.fixture
def features():
    return torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_silhouette_is_scikit_learns(features):
    labels = torch.arange(60) % 4
    moved = features + 2 * labels[:, None]
    for one in (features, moved):
        assert silhouette(one, labels) == pytest.approx(silhouette_score(one, labels), abs=1e-9)
    labels[0] = 9  # alone in its class
    assert silhouette(moved, labels) == pytest.approx(silhouette_score(moved, labels), abs=1e-9)
    assert silhouette(moved, torch.zeros(60)) == 0


def test_the_energy_ratio_is_one_without_dependence_and_large_with_it(features):
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    # deviations of ratios of so few points are about a third
    ratios = [energy_ratio(features, labels[torch.randperm(60)], num_permutations=50) for _ in range(20)]
    assert sum(ratios) / 20 == pytest.approx(1, abs=0.25)
    assert energy_ratio(features + labels[:, None], labels) > 4
    x, y = features[labels == 0], features[labels == 1]
    both = torch.cat([x, y])
    distance = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
    energy = class_energy(torch.cdist(both, both), torch.arange(40) // 20)
    # distances of many points come from a matrix product, with errors of the root of float64's
    assert energy == pytest.approx(float(distance), rel=1e-5)


def test_features_that_are_all_alike_have_no_energy_ratio(features):
    labels = torch.arange(60) % 3
    for alike in (torch.zeros(60, 5), features[:1].expand(60, 5), features[:1].float().expand(60, 5)):
        assert math.isnan(energy_ratio(alike, labels))
        assert silhouette(alike, labels) == 0
    assert energy_ratio(1e-4 * features + labels[:, None], labels) > 4


def test_the_untrained_reference_sees_images_from_all_classes(monkeypatch):
    read = []

    class Recorded:
        def read(self, indices):
            read.append(indices)
            return np.zeros((len(indices), 3, 8, 8), np.uint8)

    train = replace(images("train"), pixels=Recorded())
    monkeypatch.setattr(suppression, "STATISTICS_IMAGES", 8)
    monkeypatch.setattr(Suppression, "_of_encoder", lambda *_: np.zeros(2))
    subject = Subject({"train": lambda: train, "encoder": encoder})
    Suppression(SuppressionConfig())._untrained(subject, 0)
    assert np.concatenate(read).tolist() == [0, 17, 34, 51, 68, 85, 102, 119]


def images(split: str) -> ImageDataset:
    """Images whose brightness is one attribute; the other is not in the pixels."""
    random = np.random.default_rng(len(split))
    targets = np.stack([np.arange(120) % 2, random.integers(0, 3, 120)], axis=1)
    pixels = random.integers(0, 60, (120, 3, 8, 8)) + 150 * targets[:, 0, None, None, None]
    return ImageDataset(
        name="shades", split=split, image_size=8, num_classes=3, class_names=(),
        pixels=MemoryImages(pixels.astype(np.uint8)), targets=targets,
        attribute_names=("shade", "nothing"), attribute_values=(("a", "b"), ("x", "y", "z")),
    )  # fmt: skip


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(image_size=8, width=2)).eval().requires_grad_(False)


def measured(**settings):
    parts = {"train": lambda: images("train"), "test": lambda: images("test"), "encoder": encoder}
    found = Suppression(SuppressionConfig(epochs=60, num_images=120, **settings)).measure(Subject(parts), 0)
    return {(one.name, one.group): one.value for one in found}


class Reads(Encoder):
    """Features that are the mean levels of some color channels."""

    def __init__(self, *channels: int) -> None:
        super().__init__(EncoderConfig(image_size=8, width=2))
        self.channels = list(channels)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        levels = images[:, self.channels].mean(dim=(2, 3))
        return F.pad(levels, (0, self.embedding_dim - levels.shape[1]))


def two_levels(split: str) -> ImageDataset:
    """Images whose first channel is one attribute, and whose second is the other."""
    random = np.random.default_rng(len(split))
    targets = np.stack([random.permutation(np.arange(600) % 3) for _ in range(2)], axis=1)
    pixels = random.integers(0, 40, (600, 3, 8, 8))
    pixels[:, :2] += 100 * targets[:, :, None, None]
    return ImageDataset(
        name="levels", split=split, image_size=8, num_classes=3, class_names=(),
        pixels=MemoryImages(pixels.astype(np.uint8)), targets=targets, attribute_names=("seen", "ignored"),
    )  # fmt: skip


def test_features_that_ignore_an_attribute_retain_nothing_of_it(monkeypatch):
    """Beside a reference that reads it."""
    monkeypatch.setattr(Suppression, "_supervised", lambda *_: Reads(0, 1).eval())
    parts = {
        "train": lambda: two_levels("train"),
        "test": lambda: two_levels("test"),
        "encoder": lambda: Reads(0).eval(),
    }
    config = SuppressionConfig(supervised="reference", num_images=300, epochs=10, num_permutations=5)
    found = {(one.name, one.group): one.value for one in Suppression(config).measure(Subject(parts), 0)}
    assert found["supervised_top1", "ignored"] > 0.99
    # three times the deviation of a share of 600 images at chance is 0.09
    assert abs(found["retained", "ignored"]) < 0.1
    assert found["retained", "seen"] == pytest.approx(1, abs=0.01)
    assert found["energy_ratio", "ignored"] == pytest.approx(1, abs=0.7)
    assert found["energy_ratio", "seen"] > 100


def test_an_attribute_that_is_in_no_pixel_is_read_at_chance(tmp_path):
    save_model(encoder(), tmp_path / "last.safetensors")
    found = measured(supervised=str(tmp_path))
    assert found["attribute_top1", "shade"] > 0.9
    assert found["chance", "shade"] == pytest.approx(0.5)
    # the same network, whose normalisations are folded in the file
    assert found["retained", "shade"] == pytest.approx(1, abs=0.1)
    assert found["attribute_top1", "nothing"] < found["chance", "nothing"] + 0.15
    assert found["energy_ratio", "shade"] > 3
    assert found["energy_ratio", "nothing"] < 0.2 * found["energy_ratio", "shade"]
    assert found["silhouette", "shade"] > 0.2 > found["silhouette", "nothing"]
    for group in ("shade", "nothing"):
        gain = found["attribute_top1", group] - found["untrained_top1", group]
        assert found["gain", group] == pytest.approx(gain)


def test_references_are_asked_for():
    assert not any(name in ("retained", "supervised_top1") for name, _ in measured())


def test_images_without_classes_are_refused():
    plain = images("train")
    numbers = ImageDataset(
        name="numbers", split="train", image_size=8, num_classes=0, class_names=(), pixels=plain.pixels,
        targets=np.full(120, -1), real_targets=np.zeros((120, 1), np.float32), real_names=("x",),
    )  # fmt: skip
    subject = Subject({"train": lambda: numbers, "test": lambda: numbers, "encoder": encoder})
    with pytest.raises(UsageError, match="no classes"):
        Suppression(SuppressionConfig()).measure(subject, 0)
