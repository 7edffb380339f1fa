"""Augmented distances against double loops, curves against all subsets, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from constructed_caches import IMAGES, LABELS, NUM_IMAGES, NUM_VIEWS, copies, dataset_of, subject_of

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.concentration.augmented_distance import augmented_distances
from viewgen.diagnostics.concentration.class_views import ClassViewsConfig, check_memory, class_views
from viewgen.diagnostics.concentration.curve import class_curve, delta_of_share
from viewgen.diagnostics.concentration.measurement import measure_concentration
from viewgen.diagnostics.concentration.pairs import pair_measures, pair_shares
from viewgen.diagnostics.measure import Subject
from viewgen.errors import DataError, OutOfMemoryError, UsageError
from viewgen.views.expert import ExpertConfig

pytestmark = pytest.mark.usefixtures("no_flushing")

UNCHANGED = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip_probability": 0.0,
    "jitter_probability": 0.0,
    "grayscale_probability": 0.0,
}


def random_views(num_images: int, num_views: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_images, num_views, channels, 4, 4), np.uint8)


def double_loop(views: np.ndarray) -> np.ndarray:
    flat = views.reshape(*views.shape[:2], -1).astype(np.float64) / 255
    size = len(flat)
    distance = np.zeros((size, size))
    for i, j in itertools.permutations(range(size), 2):
        distance[i, j] = min(np.linalg.norm(u - v) for u in flat[i] for v in flat[j])
    return distance


# distances


@pytest.mark.parametrize("views_at_once", [3, 7, 2048])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_augmented_distance_is_the_double_loop_whatever_the_tiles(views_at_once, channels):
    views = random_views(9, 3, channels=channels)
    found = augmented_distances(views, views_at_once=views_at_once)
    # float32 products of 48 numbers
    np.testing.assert_allclose(found.numpy(), double_loop(views), rtol=1e-4, atol=1e-7)
    assert torch.equal(found, found.T)


def test_equal_channels_are_counted_though_only_one_is_compared():
    views = np.repeat(random_views(6, 2, channels=1), 3, axis=2)
    np.testing.assert_allclose(augmented_distances(views).numpy(), double_loop(views), rtol=1e-4, atol=1e-7)


def test_the_order_of_images_and_views_has_no_effect():
    views = random_views(8, 3)
    order = np.random.default_rng(1).permutation(8)
    found = augmented_distances(views)
    moved = augmented_distances(views[order][:, ::-1].copy(), views_at_once=6)
    torch.testing.assert_close(moved, found[order][:, order], rtol=1e-5, atol=1e-7)


def test_more_views_never_lie_farther_apart_and_a_shared_view_is_at_distance_zero():
    views = random_views(7, 4)
    views[2, 3] = views[5, 1]
    whole = augmented_distances(views)
    for count in (1, 2, 3):
        assert bool((whole <= augmented_distances(views[:, :count]) * (1 + 1e-5)).all())
    assert whole[2, 5] == whole[5, 2] == 0
    assert (whole[~torch.eye(7, dtype=torch.bool)] == 0).sum() == 2


@pytest.mark.parametrize("num_close", [2, 20])
def test_small_differences_of_large_numbers_are_exact(num_close):
    """One grey level in one pixel, of images far from the mean; few such pairs, or all of a tile."""
    views = np.full((20, 2, 3, 16, 16), 3, np.uint8)
    views[num_close:] = np.random.default_rng(0).integers(0, 256, (20 - num_close, 2, 3, 16, 16))
    for number in range(num_close):
        views[number, :, 0, 0, number % 16] += number + 1
    found = augmented_distances(views)
    exact = double_loop(views)
    close = slice(0, num_close)
    np.testing.assert_allclose(found[close, close].numpy(), exact[close, close], rtol=1e-6)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-4)


# curves


def largest_part(distance: np.ndarray, delta: float) -> int:
    size = len(distance)
    return max(
        len(chosen)
        for count in range(1, size + 1)
        for chosen in itertools.combinations(range(size), count)
        if distance[np.ix_(chosen, chosen)].max() <= delta
    )


@pytest.fixture(scope="module")
def distance() -> torch.Tensor:
    points = np.random.default_rng(2).normal(size=(9, 2))
    return torch.from_numpy(np.linalg.norm(points[:, None] - points[None], axis=2).astype(np.float32))


def test_a_curve_holds_the_largest_part_of_every_delta(distance):
    delta = np.linspace(0, float(distance.max()), 12)
    curve = class_curve("a", distance, delta, exact_up_to=0)
    exact = np.array([largest_part(distance.numpy(), limit) for limit in delta])
    assert (curve.low <= exact).all()
    assert (exact <= curve.high).all()
    assert (np.diff(curve.low) >= 0).all()
    assert (np.diff(curve.high) >= 0).all()
    assert curve.low[0] == curve.high[0] == 1
    assert curve.low[-1] == 9
    for limit, members in zip(delta, curve.members, strict=True):
        assert float(distance[members][:, members].max()) <= limit
    closed = class_curve("a", distance, delta, exact_up_to=9)
    assert closed.low.tolist() == closed.high.tolist() == exact.tolist()


def test_a_distance_above_delta_is_not_within_it_though_both_round_to_the_same_float32():
    distance = torch.tensor([[0.0, 0.1], [0.1, 0.0]])
    assert float(distance[0, 1]) > 0.1
    curve = class_curve("a", distance, np.array([0.1, 0.11]), exact_up_to=0)
    assert curve.low.tolist() == [1, 2]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("num_deltas", [2, 12])
def test_delta_of_a_share_is_the_smallest_distance_that_suffices(distance, share, num_deltas):
    delta = np.linspace(0, float(distance.max()), num_deltas)
    curve = class_curve("a", distance, delta, exact_up_to=0)
    low, high, members = delta_of_share(curve, distance, delta, share)
    needed = int(np.ceil(share * 9 - 1e-9))
    values = np.unique(distance.numpy())
    exact = next(value for value in values if largest_part(distance.numpy(), value) >= needed)
    assert low <= exact <= high
    assert members.sum() >= needed
    assert float(distance[members][:, members].max()) <= high
    # of nine points the heuristics find a largest part
    assert high == pytest.approx(exact)


def test_nine_of_ten_images_are_a_share_of_nine_tenths():
    """0.9 · 10 is 9.000000000000002 when a share is computed as 0.3 · 3."""
    distance = torch.ones(10, 10) - torch.eye(10)
    distance[:9, :9] = 0
    delta = np.linspace(0, 1.1, 3)
    curve = class_curve("a", distance, delta, exact_up_to=0)
    low, high, members = delta_of_share(curve, distance, delta, 0.3 * 3)
    assert (low, high) == (0, 0)
    assert members.tolist() == [True] * 9 + [False]


def sample_of(subject: Subject, **settings):
    seed = settings.pop("seed", 0)
    return class_views(subject, ClassViewsConfig(**({"num_per_class": 10} | settings)), seed)


def concentration_of(subject: Subject, **settings):
    found = sample_of(subject, **settings)
    return measure_concentration(found, num_deltas=20, shares=(0.5,), exact_up_to=10)


def test_the_area_of_images_that_share_a_view_is_zero_and_grows_with_distance():
    shared = copies(IMAGES)
    shared[:, 1] = 7
    together = concentration_of(subject_of(shared))
    alone = concentration_of(subject_of(copies(IMAGES)))
    area = together.curve.area(0)
    assert area.value == area.low == area.high == 0
    # copies add nothing to the images
    assert alone.identical
    assert alone.curve.area(0) == alone.curves[0].area(0)
    assert together.curves[0].area(0) == alone.curves[0].area(0)
    assert alone.curve.area(0).value > 0.2
    assert together.delta_of(0.5) == (0, 0)


def test_the_interval_of_an_area_holds_that_of_all_subsets():
    noisy = copies(IMAGES).astype(int) + np.random.default_rng(0).integers(-60, 60, copies(IMAGES).shape)
    found = concentration_of(subject_of(noisy.clip(0, 255)), num_per_class=8)
    distances = [augmented_distances(found.sample.views(label)).numpy() for label in range(2)]
    # σ is a step function that changes at distances alone
    steps = np.unique(np.concatenate([part.ravel() for part in distances]))
    sigma = np.min([[largest_part(part, limit) / 8 for limit in steps] for part in distances], axis=0)
    exact = float(np.diff([*steps, found.delta_max]) @ (1 - sigma)) / found.delta_max
    area = found.curve.area(0)
    assert area.low < exact < area.high
    assert area.value == pytest.approx(exact, abs=0.03)
    areas = [curve.area(0).value for curve in found.curves.values()]
    assert list(found.curves) == [0, 1, 2, 3]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1]


# pairs


def test_pairs_within_and_between_classes_are_those_of_a_double_loop():
    distance = torch.from_numpy(double_loop(random_views(8, 1)).astype(np.float32))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    limit = float(distance.max()) * 0.9
    sums = {True: [], False: []}
    for i, j in itertools.permutations(range(8), 2):
        sums[bool(labels[i] == labels[j])].append(min(float(distance[i, j]), limit) / limit)
    within, between = np.mean(sums[True]), np.mean(sums[False])
    found = {row.name: row.value for row in pair_measures(distance, labels, limit, seed=0, on="")}
    assert found["within_pair_area"] == pytest.approx(within)
    assert found["between_pair_area"] == pytest.approx(between)
    assert found["pair_area_ratio"] == pytest.approx(within / between)
    shares = pair_shares(distance, labels, torch.tensor([0.0, limit, 1e3], dtype=torch.float64))
    assert [share[2].item() for share in shares] == [1, 1]
    assert shares[0][1].item() == pytest.approx(np.mean([value < 1 for value in sums[True]]))


def test_one_picture_for_all_is_seen_by_pairs_between_classes_alone():
    blank = copies(IMAGES)
    blank[:, 1] = 0
    chosen = {"num_per_class": 10, "num_deltas": 5, "num_pooled": 20}
    collapsed = {row.name: row.value for row in run("concentration", subject_of(blank), **chosen)}
    assert collapsed["area"] == collapsed["within_pair_area"] == collapsed["between_pair_area"] == 0
    assert "pair_area_ratio" not in collapsed
    apart = {row.name: row.value for row in run("concentration", subject_of(copies(IMAGES)), **chosen)}
    # the positions of bars differ within classes, their directions between them
    assert 0.5 < apart["pair_area_ratio"] < 1


def run(name: str, subject: Subject, **settings):
    found = DIAGNOSTICS.resolve(name, "bars", settings).build().measure(subject, 0)
    # the first of a name is that with all views
    return [row for place, row in enumerate(found) if row.name not in [one.name for one in found[:place]]]


# views


def expert_subject(dataset: ImageDataset, **expert) -> Subject:
    return Subject({"train": lambda: dataset, "expert": lambda: ExpertConfig(**expert)}, name="bars")


def test_fewer_expert_views_are_the_first_of_more_and_depend_on_the_seed():
    subject = expert_subject(dataset_of(IMAGES, LABELS))
    few, many = (sample_of(subject, num_views=count).views(1) for count in (2, 4))
    assert np.array_equal(few, many[:, :3])
    assert np.array_equal(many[:, 0], IMAGES[sample_of(subject).rows[1]])
    assert not np.array_equal(many, sample_of(subject, num_views=4, seed=1).views(1))
    assert np.array_equal(sample_of(subject, num_views=4).views(1, 3), many[:3])
    smaller, larger = (sample_of(subject, num_per_class=count).rows[0] for count in (4, 9))
    assert set(smaller) < set(larger)


def test_views_of_a_cache_are_its_first_and_its_images_those_of_the_expert():
    views = random_views(NUM_IMAGES, NUM_VIEWS)
    views = np.repeat(np.repeat(views, 2, axis=3), 2, axis=4)
    subject = subject_of(views)
    subject._makers["expert"] = ExpertConfig
    found = sample_of(subject, num_views=2)
    assert found.kind == "wsearch"
    assert np.array_equal(found.views(0)[:, 1:], views[found.rows[0]][:, :2])
    expert = sample_of(subject, views="expert", num_views=2)
    assert expert.kind == "expert"
    assert all(map(np.array_equal, found.rows, expert.rows))
    assert found.shares.tolist() == [0.5, 0.5]


def test_a_transform_that_does_nothing_is_said_to():
    subject = expert_subject(dataset_of(IMAGES, LABELS), **UNCHANGED)
    run("concentration", subject, num_per_class=4, num_views=2, num_deltas=3, num_pooled=0)
    assert any("every expert view equals its image" in note for note in subject.notes)


# what is refused


def attributes_of(values: np.ndarray, names: tuple[str, ...]) -> ImageDataset:
    return ImageDataset(
        name="bars",
        split="train",
        image_size=8,
        num_classes=2,
        class_names=(),
        pixels=MemoryImages(IMAGES),
        targets=values,
        attribute_names=names,
        stored_digest="sha256:bars",
    )


TWO = attributes_of(np.stack([LABELS, 1 - LABELS], axis=1), ("shape", "color"))


@pytest.mark.parametrize(
    ("dataset", "settings", "error", "message"),
    [
        (TWO, {}, DataError, "2 attributes .shape, color.; .* --set attribute=NAME"),
        (TWO, {"attribute": "colour"}, UsageError, "no attribute 'colour'; did you mean 'color'"),
        (dataset_of(IMAGES, np.where(np.arange(40) == 3, -1, LABELS)), {}, DataError, "without a label"),
        (dataset_of(IMAGES[:3], LABELS[:3]), {}, DataError, "class 'down' has 1 image"),
        (dataset_of(IMAGES, LABELS), {"views": "cache"}, UsageError, "no 'cache'"),
    ],
)
def test_images_without_classes_of_two_are_refused(dataset, settings, error, message):
    with pytest.raises(error, match=message):
        sample_of(expert_subject(dataset), **settings)


def test_an_attribute_is_measured_as_the_class_of_its_name():
    found = sample_of(expert_subject(TWO), attribute="color")
    assert found.names == ("class 0", "class 1")
    assert (LABELS[found.rows[0]] == 1).all()


def test_caches_that_do_not_serve_are_refused_and_rows_that_failed_are_counted(monkeypatch):
    with pytest.raises(UsageError, match=r"4 views .* which has 3; give --set num_views=3"):
        sample_of(subject_of(copies(IMAGES)), num_views=4)
    other = dataset_of(IMAGES, LABELS, digest="sha256:other")
    with pytest.raises(DataError, match="made of other images"):
        sample_of(
            Subject({"train": lambda: other, "cache": lambda: subject_of(copies(IMAGES)).part("cache")})
        )
    subject = subject_of(copies(IMAGES))
    status = subject.part("cache").status.copy()
    status[[0, 2, 5]] = 2
    monkeypatch.setattr(subject.part("cache"), "status", status)
    found = sample_of(subject, num_per_class=40)
    assert [len(rows) for rows in found.rows] == [18, 19]
    assert not {0, 2, 5} & set(np.concatenate(found.rows).tolist())
    assert subject.notes == ["3 of 40 images of the cache are left out: missing, failed or not converged"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_views": 0}, "num_views is 0; expected greater than or equal to 1"),
        ({"num_per_class": 1}, "num_per_class is 1"),
        ({"shares": (0.5, 1.5)}, "shares has 1.5"),
        ({"num_deltas": 1}, "num_deltas is 1"),
        ({"views": "experts"}, "did you mean 'expert'"),
        ({"delta": 1.0}, "no setting 'delta'"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        DIAGNOSTICS.entry("concentration").settings(**settings)


def test_a_class_beyond_memory_is_refused_with_its_size():
    found = sample_of(expert_subject(dataset_of(IMAGES, LABELS)))
    check_memory(found, available=10**6)
    with pytest.raises(OutOfMemoryError, match=r"10 images of a class .* --set num_per_class=N"):
        check_memory(found, available=10**4)
