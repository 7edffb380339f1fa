"""Neighbours of IFM's perturbed views: signs, limits, and the picture."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.ifm_neighbours import IfmNeighbours, IfmNeighboursConfig, perturbed
from viewgen.diagnostics.measure import Subject
from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.views.expert import ExpertConfig

STILL = ExpertConfig(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0, jitter_probability=0.0,
    grayscale_probability=0.0,
)  # fmt: skip


def images(count: int = 40) -> ImageDataset:
    random = np.random.default_rng(0)
    return ImageDataset(
        name="noise", split="train", image_size=8, num_classes=2, class_names=("a", "b"),
        pixels=MemoryImages(random.integers(0, 256, (count, 3, 8, 8), np.uint8)),
        targets=np.arange(count) % 2,
    )  # fmt: skip


def measured(files=None, **settings):
    torch.manual_seed(0)
    network = Encoder(EncoderConfig(image_size=8, backbone="convnet", width=4)).eval()
    subject = Subject({"train": images, "encoder": lambda: network, "expert": lambda: STILL}, batch_size=16)
    subject.files = files
    found = IfmNeighbours(IfmNeighboursConfig(**settings)).measure(subject, 0)
    return {(one.name, one.group): one.value for one in found}


def test_signs():
    v, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert perturbed(v, other, 0.5, "positive").tolist() == [[-0.5, 1.0]]
    assert perturbed(v, other, 0.5, "negative").tolist() == [[0.5, 1.0]]


def test_positives_lose_their_image_and_negatives_take_on_the_anchors():
    # views are the images themselves, so that v⁺ = v
    found = measured(epsilons=(0.0, 0.5, 2.0, 1000.0))
    assert found["own_image", "positive, ε 0"] == found["own_image", "positive, ε 0.5"] == 1
    assert found["own_image", "positive, ε 2"] == 0
    assert found["own_image", "negative, ε 0"] == 1
    assert found["anchor_class", "class, positive, ε 0"] == 1
    assert found["own_image", "negative, ε 1000"] == 0
    assert found["anchor_class", "class, negative, ε 1000"] == 1
    assert found["anchor_class", "class, negative, ε 0"] < 0.8


def test_the_picture_has_two_rows_of_each_anchor():
    files = {}
    measured(files, num_images=3, epsilons=(0.0, 0.1))
    picture = Image.open(io.BytesIO(files["neighbours.png"]))
    tile = 48 + 4  # 8 px, enlarged to 48, and a gap
    assert picture.size == (4 * tile + 4, 6 * tile + 4)
    with pytest.raises(UsageError, match="expected 0 or more"):
        measured(epsilons=(-0.1,))
