"""Corrupted views: number, side, place and frequency of masks, fill, and other tasks."""

import numpy as np
import pytest
import torch

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.errors import UsageError
from viewgen.views.color_jitter import GRAY_WEIGHTS
from viewgen.views.source import Images
from viewgen.views.square_masks import square_masks
from viewgen_train import masking
from viewgen_train.batch import StepDraws
from viewgen_train.distributed import World
from viewgen_train.loader import ImageMemory
from viewgen_train.masking import Corruption, mask_sides, mean_color, refuse_grey
from viewgen_train.resolve import train_settings
from viewgen_train.settings import ReconstructionSettings

CPU = torch.device("cpu")
SIZE = 64
FILL = torch.tensor([-0.5, 0.0, 0.25])


def corrupted(settings: ReconstructionSettings, views: torch.Tensor, world: World | None = None):
    world = world or World()
    part = world.share(torch.arange(views.shape[1]))
    draws = StepDraws(step=3, seed=1, world=world, global_size=views.shape[1], device=CPU)
    pixels = torch.zeros(len(part), *views.shape[2:], dtype=torch.uint8)
    images = Images(pixels=pixels, source_index=part, draws=draws)
    return Corruption(settings, views.shape[-1], FILL)(views[:, part], images)


def expected_share(size: int) -> np.ndarray:
    """Return the exact probability that each pixel is covered, `(H, W)`, with 3 to 5 squares of 10 to 16."""
    pixel = np.arange(size)
    shares = []
    for side in range(10, 17):
        places = size - side + 1
        along = np.minimum.reduce([pixel + 1, np.full(size, side), np.full(size, places), size - pixel])
        shares.append(np.outer(along, along) / places**2)
    once = np.mean(shares, axis=0)
    return np.mean([1 - (1 - once) ** count for count in (3, 4, 5)], axis=0)


def test_the_frequency_of_masks_is_the_exact_one():
    numbers = torch.rand(6_000, 16, generator=torch.Generator().manual_seed(0))
    found = square_masks(numbers, (3, 5), (10, 16), SIZE).float().mean(dim=0).numpy()
    expected = expected_share(SIZE)
    assert expected.mean() == pytest.approx(0.155, abs=5e-4)
    # five standard deviations of a share among 6,000 draws
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / len(numbers))).all()
    assert found.mean() == pytest.approx(expected.mean(), abs=2e-3)


def test_number_side_and_place_of_squares():
    one = square_masks(torch.rand(500, 4), (1, 1), (5, 9), 32)
    rows, columns = one.any(dim=2), one.any(dim=1)
    assert torch.equal(rows.sum(dim=1), columns.sum(dim=1))  # squares
    assert set(rows.sum(dim=1).tolist()) == {5, 6, 7, 8, 9}
    assert torch.equal(one.sum(dim=(1, 2)), rows.sum(dim=1) * columns.sum(dim=1))  # one of them
    edge = torch.zeros(1, 4)
    assert bool(square_masks(edge, (1, 1), (5, 5), 32)[0, :5, :5].all())
    edge[0, 2:] = 1 - 1e-7
    assert bool(square_masks(edge, (1, 1), (5, 5), 32)[0, -5:, -5:].all())
    most = square_masks(torch.full((1, 16), 1 - 1e-7), (3, 5), (2, 2), 32)
    assert int(most.sum()) == 4  # five squares in one corner


def test_other_pixels_are_untouched_and_masks_have_the_fill():
    views = torch.rand(2, 6, 3, SIZE, SIZE) * 2 - 1
    settings = ReconstructionSettings(task="inpainting", reconstruction_pixels="masked")
    found = corrupted(settings, views)
    assert found.inputs.shape == (1, 6, 3, SIZE, SIZE)
    assert torch.equal(found.targets, views[:1])
    covered = found.weights.bool().expand_as(found.inputs)
    assert torch.equal(found.inputs[~covered], views[:1][~covered])
    fill = FILL.view(1, 1, 3, 1, 1).expand_as(found.inputs)
    assert torch.equal(found.inputs[covered], fill[covered])
    assert 0.05 < found.weights.mean() < 0.3
    assert corrupted(settings.replace(reconstruction_pixels="all"), views).weights is None


def test_two_processes_mask_what_one_does():
    views = torch.rand(1, 8, 3, 32, 32)
    settings = ReconstructionSettings(task="inpainting")
    whole = corrupted(settings, views).inputs
    parts = [corrupted(settings, views, World(rank, 2)).inputs for rank in (0, 1)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_views_and_tasks():
    views = torch.rand(3, 4, 3, 16, 16)
    every = ReconstructionSettings(task="autoencoding", reconstruction_view="all")
    assert torch.equal(corrupted(every, views).inputs, views)
    image = corrupted(every.replace(reconstruction_view="image"), views)
    assert torch.equal(image.targets, torch.full((1, 4, 3, 16, 16), -1.0))
    grey = corrupted(ReconstructionSettings(task="colorization"), views)
    luma = (views[:1] * torch.tensor(GRAY_WEIGHTS).view(1, 1, 3, 1, 1)).sum(dim=2, keepdim=True)
    torch.testing.assert_close(grey.inputs, luma.expand(1, 4, 3, 16, 16))
    assert torch.equal(grey.targets, views[:1])


@pytest.mark.parametrize(("size", "sides"), [(64, (10, 16)), (32, (5, 8)), (8, (1, 2))])
def test_sides_are_in_proportion(size, sides):
    assert mask_sides(ReconstructionSettings(task="inpainting"), size) == sides
    given = ReconstructionSettings(task="inpainting", mask_side=(3, 4))
    assert mask_sides(given, size) == (3, 4)


def test_a_data_set_is_known_by_images_from_all_its_classes(monkeypatch):
    """Folders of pictures are sorted by class: here black ones first, then red ones."""
    pixels = np.zeros((60, 3, 8, 8), np.uint8)
    pixels[30:, 0] = 255
    dataset = ImageDataset(
        name="sorted", split="train", image_size=8, num_classes=2, class_names=("black", "red"),
        pixels=MemoryImages(pixels), targets=np.arange(60) // 30,
    )  # fmt: skip
    monkeypatch.setattr(masking, "MEAN_IMAGES", 12)
    monkeypatch.setattr(masking, "GREY_IMAGES", 12)
    found = mean_color(ImageMemory(dataset, 60, CPU, 1 << 20))
    torch.testing.assert_close(found, torch.tensor([0.0, -1.0, -1.0]))
    settings = {"assimilation": "none", "reconstruction": "colorization"}
    refuse_grey(train_settings("digits", settings), dataset)
    pixels[:, 1:] = pixels[:, :1]
    with pytest.raises(UsageError, match="images of sorted are grey"):
        refuse_grey(train_settings("digits", settings), dataset)
