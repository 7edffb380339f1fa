"""Trifeature: what is random, what is not, and that each attribute shows in the pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.shapes import SHAPES, polygon_distance, shape_distance
from viewgen.datasets.textures import TABLE_SIZE, TEXTURES, texture_distance
from viewgen.datasets.trifeature import COLORS, GROUND
from viewgen.errors import UsageError

GOLDEN_DIGEST_32 = "sha256:90cce9cc9958cab229cb61193fd595383da0c590b0c9e12bdc15703bd30c4647"


@pytest.fixture(scope="module")
def train() -> ImageDataset:
    return load_dataset("trifeature")


def index_of(dataset: ImageDataset, shape: str, texture: str, color: str) -> int:
    label = [SHAPES.index(shape), TEXTURES.index(texture), list(COLORS).index(color)]
    return int(np.flatnonzero((dataset.targets == label).all(1))[0])


def test_every_thousand_images_hold_each_combination_once(train: ImageDataset) -> None:
    assert (len(train), train.label_shape, train.num_classes) == (100_000, (3,), 10)
    assert len(load_dataset("trifeature", "test")) == 10_000
    labels = train.labels(range(777, 1777))
    assert len(np.unique(labels, axis=0)) == 1000
    assert all(len(np.unique(labels[:20, attribute])) >= 4 for attribute in range(3))


def test_a_split_by_combinations_shares_none() -> None:
    train, test = (load_dataset("trifeature:16?split=combinations", split) for split in ("train", "test"))
    seen, unseen = (np.unique(one.targets, axis=0) for one in (train, test))
    assert (len(train), len(test), len(seen), len(unseen)) == (80_000, 2_000, 800, 200)
    assert len(np.unique(np.concatenate([seen, unseen]), axis=0)) == 1000
    assert all(len(np.unique(one[:, attribute])) == 10 for one in (seen, unseen) for attribute in range(3))
    assert train.name == "trifeature:16?split=combinations"
    assert load_dataset(train.name).digest == train.digest != load_dataset("trifeature:16").digest
    assert load_dataset("trifeature?split=combinations").name == "trifeature?split=combinations"


def test_fewer_renderings_are_the_first_ones(train: ImageDataset) -> None:
    few, test = (load_dataset("trifeature?renderings=2", split) for split in ("train", "test"))
    assert (len(few), len(test), few.name) == (2000, 1000, "trifeature?renderings=2")
    assert np.array_equal(few.images([1999]), train.images([1999]))
    both = load_dataset("trifeature:16?renderings=2&split=combinations")
    assert (len(both), both.name) == (1600, "trifeature:16?renderings=2&split=combinations")


def test_labels_in_words(train: ImageDataset) -> None:
    assert train.attribute_names == ("shape", "texture", "color")
    assert [len(names) for names in train.attribute_values] == [10, 10, 10]
    assert train.label_text([7, 4, 0]) == "star, dots, red"


@settings(max_examples=15, deadline=None)
@given(indices=st.lists(st.integers(0, 99_999), min_size=1, max_size=12))
def test_an_image_depends_on_split_and_index_alone(train: ImageDataset, indices: list[int]) -> None:
    together = train.images(indices)
    alone = np.concatenate([train.images([index]) for index in indices])
    np.testing.assert_array_equal(together, alone)


def test_splits_and_versions_of_a_combination_differ(train: ImageDataset) -> None:
    test = load_dataset("trifeature", "test")
    assert (train.labels([5]) == test.labels([5])).all()
    assert (train.images([5]) != test.images([5])).any()
    assert (train.images([5]) != train.images([1005])).any()


def test_golden_image(train: ImageDataset) -> None:
    """The pixels must not drift: caches are keyed by source index."""
    solid = train.images([index_of(train, "square", "solid", "red")])[0]
    area = ((solid - float(GROUND))[0] / (255 - GROUND)).sum()
    # A square 4/7 of 64 pixels wide; antialiased edges keep its area, its corners do not.
    assert area == pytest.approx((64 * 4 / 7) ** 2, rel=2e-3)
    assert load_dataset("trifeature:32").digest == GOLDEN_DIGEST_32


def test_each_attribute_alone_changes_the_image(train: ImageDataset) -> None:
    """Compare at one placement: draw with another label's index but this image's randomness."""
    base = train.pixels
    for attribute in range(3):
        seen = set()
        for value in range(10):
            targets = train.targets.copy()
            targets[0] = (1, 1, 0)
            targets[0, attribute] = value
            seen.add(type(base)("train", 64, targets).read(np.array([0])).tobytes())
        assert len(seen) == 10


def test_shape_stays_in_the_frame_and_ground_is_grey(train: ImageDataset) -> None:
    images = train.images(np.flatnonzero(train.targets[:2000, 1] == 0)).astype(int)
    border = np.ones((64, 64), bool)
    border[1:-1, 1:-1] = False
    # The turned square around a shape touches the frame at most; antialiasing may tint the last pixel.
    assert (np.abs(images[:, :, border] - GROUND).max(1) <= 128).all()
    assert (images[:, :, border] == GROUND).mean() > 0.98
    painted = (images != GROUND).any(1)
    assert (painted.sum((1, 2)) > 0.2 * (64 * 4 / 7) ** 2).all()


def test_solid_colors_are_exact(train: ImageDataset) -> None:
    for name, color in COLORS.items():
        image = train.images([index_of(train, "square", "solid", name)])[0]
        values, counts = np.unique(image.reshape(3, -1).T, axis=0, return_counts=True)
        common = {tuple(values[row].tolist()) for row in np.argsort(counts)[-2:]}
        assert common == {(GROUND,) * 3, color}


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("triangle", 2),
        ("square", 4),
        ("plus", 20 / 9),
        ("circle", np.pi),
        ("tee", 20 / 9),
        ("rhombus", 2),
        ("pentagon", 5 / 2 * np.sin(2 * np.pi / 5)),
        ("star", 10 / 2 * 0.4 * np.sin(np.pi / 5)),
        ("fivesquare", 20 / 9),
        ("trapezoid", 2.24),
    ],
)
def test_shape_areas(shape: str, area: float) -> None:
    grid = (np.arange(600, dtype=np.float32) + 0.5) / 200 - 1.5
    inside = shape_distance(shape, *np.meshgrid(grid, grid)) < 0
    assert inside.mean() * 9 == pytest.approx(area, rel=0.01)  # pixels of 1/200


def test_polygon_distance_against_a_circle_of_many_corners() -> None:
    angles = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    x, y = np.random.default_rng(0).uniform(-2, 2, (2, 500)).astype(np.float32)
    found = polygon_distance(x, y, list(zip(np.cos(angles).tolist(), np.sin(angles).tolist(), strict=True)))
    np.testing.assert_allclose(found, np.hypot(x, y) - 1, atol=1e-4)  # sagitta of 1/256 of a turn: 7.5e-5


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_paint_a_share_of_the_plane(texture: str) -> None:
    # Eight periods: noise, with three cells to a period, meets each number of its table once.
    line = np.linspace(3, 11, 640, endpoint=False, dtype=np.float32) + np.float32(1 / 160)
    u, v = np.meshgrid(line, line)
    table = np.random.default_rng(0).random((1, TABLE_SIZE, TABLE_SIZE), np.float32)
    share = (texture_distance(texture, u[None], v[None], table) < 0).mean()
    expected = {
        "solid": 1,
        "stripes": 0.5,
        "grid": 1 - 0.66**2,
        "hexgrid": 1 - 0.72**2,
        "dots": np.pi * 0.33**2,
        "noise": (table < 0.5).mean(),
        "triangles": 0.5 * 0.9 * 0.8,
        "zigzags": 0.5,
        "rain": 0.48 * 2 / 3,
        "pluses": 2 * 0.8 * 0.26 - 0.26**2,
    }
    # Half a pixel of 1/80 along the edges, and the cut of patterns whose period is no divisor of eight.
    assert share == pytest.approx(expected[texture], abs=0.02)


@pytest.mark.parametrize("argument", ["0", "15", "513", "x", "-3", "3.5"])
def test_size_out_of_range(argument: str) -> None:
    with pytest.raises(UsageError, match="trifeature: size is "):
        load_dataset(f"trifeature:{argument}")


def test_other_sizes_show_the_same_scene() -> None:
    small, large = load_dataset("trifeature:32"), load_dataset("trifeature:128")
    assert (small.name, small.image_size, large.images([0]).shape) == ("trifeature:32", 32, (1, 3, 128, 128))
    assert load_dataset("trifeature:64").name == "trifeature"
    indices = np.flatnonzero(small.targets[:2000, 1] == 0)
    reduced = large.images(indices).reshape(len(indices), 3, 32, 4, 32, 4).mean((3, 5))
    # Coverage by distance is exact on straight edges; corners differ.
    assert np.abs(reduced - small.images(indices)).mean() < 1.5
