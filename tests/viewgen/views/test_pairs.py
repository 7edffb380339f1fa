"""Frequency, patches and jigsaw against slices, SciPy and counts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import chisquare

from viewgen.errors import UsageError
from viewgen.images import to_model
from viewgen.views import VIEWS
from viewgen.views.draws import ImageDraws
from viewgen.views.frequency import FrequencyConfig
from viewgen.views.jigsaw import JigsawConfig
from viewgen.views.patches import PatchesConfig
from viewgen.views.source import Images


def batch(count, side, seed=0, channels=3):
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, side, side), generator=random, dtype=torch.uint8)
    index = torch.arange(count)
    return Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index))


def made(name, settings, images):
    return VIEWS.entry(name).build(settings, None).views(images, 2)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.0])
def test_both_frequencies_add_up_to_the_image(sigma):
    images = batch(3, 24)
    low, high = made("frequency", FrequencyConfig(sigma=sigma), images).pixels
    x = to_model(images.pixels)
    torch.testing.assert_close(low + 2 * high, x, atol=1e-6, rtol=0)
    radius = int(np.ceil(4 * sigma))
    expected = [
        [gaussian_filter(channel, sigma, mode="mirror", radius=radius) for channel in image]
        for image in x.numpy()
    ]
    np.testing.assert_allclose(low.numpy(), np.array(expected), atol=1e-5)


def test_the_ends_of_the_blur():
    images = batch(2, 16)
    low, high = made("frequency", FrequencyConfig(sigma=0.05), images).pixels
    torch.testing.assert_close(low, to_model(images.pixels), atol=1e-6, rtol=0)
    assert float(high.abs().max()) < 1e-6
    images.pixels[:] = 77
    _, high = made("frequency", FrequencyConfig(sigma=3.0), images).pixels
    assert float(high.abs().max()) < 1e-6
    clipped = made("frequency", FrequencyConfig(sigma=3.0, scale=0.2), batch(2, 16)).pixels[1]
    assert float(clipped.abs().max()) == 1
    with pytest.raises(UsageError, match="greater than 0"):
        FrequencyConfig(sigma=0.0)


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_patches_are_slices(distance):
    side, size = 16, 8
    images = batch(40, side)
    first, second = made("patches", PatchesConfig(distance=distance, size=size), images).pixels
    assert first.shape == (40, 3, size, size)
    for image, one, other in zip(images.pixels, first, second, strict=True):
        places = [
            (x, y)
            for x in range(side - size - distance + 1)
            for y in range(side - size - distance + 1)
            if torch.equal(image[:, y : y + size, x : x + size], one)
        ]
        assert len(places) == 1
        x, y = places[0][0] + distance, places[0][1] + distance
        assert torch.equal(image[:, y : y + size, x : x + size], other)


def test_places_of_patches_are_uniform():
    # 3 × 3 places, told by the value at the corner
    images = batch(1, 8)
    values = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(3000, 3, 8, 8)
    index = torch.arange(3000)
    images = Images(pixels=values, source_index=index, draws=ImageDraws(4, index))
    first, _ = made("patches", PatchesConfig(distance=2, size=4), images).pixels
    counts = torch.bincount(first[:, 0, 0, 0].long(), minlength=64).reshape(8, 8)
    assert int(counts[:3, :3].sum()) == 3000
    assert chisquare(counts[:3, :3].flatten().numpy()).pvalue > 0.001


def test_patches_share_less_the_farther_apart():
    """Patches of a Gaussian field have the mutual information that follows from its covariance."""
    side, size, count = 16, 4, 6000

    def covariance(places):
        return np.exp(-np.linalg.norm(places[:, None] - places[None], axis=-1) / 4)

    def grid(size):
        return np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2)

    def nats(joint):
        half = len(joint) // 2
        log = [np.linalg.slogdet(part)[1] for part in (joint[:half, :half], joint[half:, half:], joint)]
        return (log[0] + log[1] - log[2]) / 2

    fields = (
        np.random.default_rng(0).normal(size=(count, side**2)) @ np.linalg.cholesky(covariance(grid(side))).T
    )
    levels = np.clip(np.round(127.5 + 30 * fields), 0, 255).astype(np.uint8).reshape(count, 1, side, side)
    index = torch.arange(count)
    images = Images(pixels=torch.from_numpy(levels), source_index=index, draws=ImageDraws(0, index))
    found = []
    for distance in (4, 5, 8, 12):  # nearer ones have pixels in common, and infinite information
        pair = made("patches", PatchesConfig(distance=distance, size=size), images).pixels
        found.append(nats(np.cov(pair.flatten(2).transpose(0, 1).flatten(1).numpy(), rowvar=False)))
        expected = nats(covariance(np.concatenate([grid(size), grid(size) + distance])))
        # the bias of so many covariances is 16² / (2·6000) nats
        assert found[-1] - 16**2 / (2 * count) == pytest.approx(expected, abs=0.02 + 0.02 * expected)
    assert all(near > far for near, far in pairwise(found))


def test_impossible_patches_are_refused_with_the_largest_distance():
    with pytest.raises(
        UsageError, match=r"distance is 9; two patches of 8 px in an image of 16 px are at most 8"
    ):
        made("patches", PatchesConfig(distance=9, size=8), batch(2, 16))
    with pytest.raises(UsageError, match="size is 20, and the images have 16 px"):
        made("patches", PatchesConfig(size=20), batch(2, 16))
    entry = VIEWS.entry("patches")
    assert entry.side(PatchesConfig(), 32) == 16
    dataset = type("Dataset", (), {"image_size": 32})()
    assert entry.fit(PatchesConfig(distance=4), dataset).size == 16


def test_a_jigsaw_has_the_cells_of_the_image():
    images = batch(5, 24)
    whole, mosaic = made("jigsaw", JigsawConfig(patch_share=1.0), images).pixels
    assert torch.equal(whole, images.pixels)

    def cells(x):
        return sorted(
            bytes(x[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].numpy()) for i in range(3) for j in range(3)
        )

    assert all(cells(image) == cells(shuffled) for image, shuffled in zip(whole, mosaic, strict=True))
    assert not torch.equal(whole, mosaic)


def test_places_of_cells_are_uniform():
    value = torch.arange(9, dtype=torch.uint8).reshape(3, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    index = torch.arange(2000)
    images = Images(pixels=value.expand(2000, 3, 24, 24), source_index=index, draws=ImageDraws(1, index))
    _, mosaic = made("jigsaw", JigsawConfig(), images).pixels
    # patches of a cell of one colour are of that colour
    tiles = mosaic[:, 0, 4::8, 4::8].flatten(1).long()
    assert torch.equal(tiles.sort(dim=1).values, torch.arange(9).expand(2000, 9))
    for place in range(9):
        assert chisquare(torch.bincount(tiles[:, place], minlength=9).numpy()).pvalue > 1e-4


def test_cells_that_are_too_small_are_refused():
    with pytest.raises(UsageError, match="takes images of 24 px or a smaller grid"):
        made("jigsaw", JigsawConfig(), batch(2, 20))
    with pytest.raises(UsageError, match="have 5 px"):
        VIEWS.entry("jigsaw").fit(JigsawConfig(), type("Dataset", (), {"image_size": 16})())
