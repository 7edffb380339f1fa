"""Key points: heat maps and their reading, PCKh, and a decoder that finds points an encoder keeps."""

import numpy as np
import pytest
import torch
from torch import nn

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.pose import (
    KeyPoints,
    Pose,
    PoseConfig,
    by_name,
    heat_maps,
    pckh,
    pose_decoder,
    read_off,
)
from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig

SIZE = 32


def dots(split: str, count: int = 96) -> ImageDataset:
    """Images with a white square in one of four places, the key point, and another that is not annotated."""
    random = np.random.default_rng(len(split))
    places = random.choice([8, 24], (count, 2))
    pixels = np.zeros((count, 3, SIZE, SIZE), np.uint8)
    for row, (x, y) in enumerate(places):
        pixels[row, :, y - 1 : y + 2, x - 1 : x + 2] = 255
    reals = np.concatenate([places, np.zeros((count, 2)), np.full((count, 1), 8)], axis=1)
    return ImageDataset(
        name="dots", split=split, image_size=SIZE, num_classes=2, class_names=(), pixels=MemoryImages(pixels),
        targets=np.tile([1, 0], (count, 1)), attribute_names=("left_dot", "right_dot"),
        attribute_values=(("no", "yes"),) * 2, real_targets=reals.astype(np.float32),
        real_names=("left_dot.x", "left_dot.y", "right_dot.x", "right_dot.y", "head_size"),
    )  # fmt: skip


def test_pckh_counts_annotated_points_within_half_a_head():
    points = KeyPoints(
        names=("a", "b"), places=torch.zeros(2, 2, 2), annotated=torch.tensor([[True, True], [True, False]]),
        head_size=torch.tensor([10.0, 20.0]),
    )  # fmt: skip
    predicted = torch.tensor([[[4.9, 0.0], [0.0, 5.1]], [[9.8, 0.0], [0.0, 0.0]]])
    assert pckh(predicted, points).tolist() == [[True, False], [True, False]]
    assert pckh(predicted, points, threshold=0.52).tolist() == [[True, True], [True, False]]


def test_left_and_right_count_alike_and_points_of_the_total_do():
    """As in the evaluation of MPII: rows are means of two shares, the total is weighted by counts."""
    annotated = torch.tensor([[1, 1, 1, 0]] + 3 * [[1, 0, 0, 0]]).bool()
    points = KeyPoints(
        names=("left_knee", "right_knee", "head", "left_hip"), places=torch.zeros(4, 4, 2),
        annotated=annotated, head_size=torch.ones(4),
    )  # fmt: skip
    right = annotated & torch.tensor([[1, 0, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert by_name(right, points) == {
        "knee": (pytest.approx((3 / 4 + 0) / 2), 5),
        "head": (1, 1),
        "all": (pytest.approx(4 / 6), 6),
    }


def test_heat_maps_are_read_off_where_they_were_drawn():
    places = torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(0)) * 52 + 5
    for side in (64, 32):
        maps = heat_maps(places, side, 64, 2.0)
        assert maps.shape == (20, 3, side, side)
        assert float(maps.max()) <= 1
        # a quarter of a pixel of the heat map is as near as it tells
        assert float((read_off(maps, 64) - places).abs().max()) <= 0.26 * 64 / side + 1e-4
    assert pose_decoder(5, 3, width=4)(torch.zeros(2, 5, 2, 2)).shape == (2, 3, 16, 16)
    assert [type(one) for one in pose_decoder(5, 3)].count(nn.ConvTranspose2d) == 3


def test_a_decoder_finds_points_that_the_maps_keep():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=SIZE, backbone="resnet18", width=2)).eval()
    parts = {"train": lambda: dots("train"), "test": lambda: dots("test"), "encoder": lambda: encoder}
    config = PoseConfig(epochs=16, batch_size=16, width=16, learning_rate=0.01)
    found = {one.group: one for one in Pose(config).measure(Subject(parts), 0)}
    # without an annotated test point there is no measure of it, and it is not in the total
    assert found.keys() == {"dot", "all"}
    # one place for all would be right for a quarter
    assert found["all"].value == found["dot"].value > 0.5
    assert found["all"].on.startswith("96 points of 96 test")


def test_images_without_key_points_are_refused():
    digits = load_dataset("digits")
    with pytest.raises(UsageError, match="digits has no key points"):
        Pose(PoseConfig()).measure(Subject({"train": lambda: digits, "test": lambda: digits}), 0)
