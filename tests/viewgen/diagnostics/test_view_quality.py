"""View quality on constructed caches, whose numbers are known: copies, duplicates, flipped labels, noise."""

import dataclasses

import numpy as np
import pytest
import torch
from constructed_caches import (
    IMAGES,
    LABELS,
    NUM_IMAGES,
    NUM_VIEWS,
    SIDE,
    copies,
    dataset_of,
    measured,
    subject_of,
)

from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_of_pairs, mean_over_images, resampled_counts
from viewgen.diagnostics.classifier import classifier_folder, image_classifier
from viewgen.diagnostics.distinct import greedy_count, num_duplicates
from viewgen.diagnostics.diversity import pixel_diversity
from viewgen.diagnostics.label_kept import neighbours_shared
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.patches import PatchFeatures
from viewgen.diagnostics.realism import balls_holding, kernel_terms, shuffled_pixels
from viewgen.errors import DataError
from viewgen.testing import DiagnosticContract

pytestmark = pytest.mark.usefixtures("no_flushing", "one_folder_of_classifiers")


class _OfACache(DiagnosticContract):
    @pytest.fixture
    def subject(self, small_models) -> Subject:
        noisy = copies(IMAGES).astype(int) + np.random.default_rng(1).integers(-9, 9, copies(IMAGES).shape)
        return subject_of(
            noisy.clip(0, 255),
            encoder=small_models.encoder,
            reconstructions=IMAGES,
            steps=np.ones(NUM_IMAGES),
        )


class TestLabelKept(_OfACache):
    entry = DIAGNOSTICS.entry("label_kept")
    settings = entry.settings(num_filters=16)


class TestDistinct(_OfACache):
    entry = DIAGNOSTICS.entry("distinct")


class TestDiversity(_OfACache):
    entry = DIAGNOSTICS.entry("diversity")


class TestRealism(_OfACache):
    entry = DIAGNOSTICS.entry("realism")


class TestReach(_OfACache):
    entry = DIAGNOSTICS.entry("reach")


class TestSeen(_OfACache):
    entry = DIAGNOSTICS.entry("seen")


# intervals


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    found = bootstrap_measure("x", mean_over_images(values), 400, seed=0, on="")
    assert found.value == pytest.approx(values.mean().item())
    expected = 1.96 * values.std().item() / 20
    # 500 resamples estimate a quantile to about a tenth
    assert found.high - found.value == pytest.approx(expected, rel=0.25)
    assert found.value - found.low == pytest.approx(expected, rel=0.25)


def test_resamples_have_the_size_of_the_sample_and_their_seeds_differ():
    counts = resampled_counts(7, seed=0)
    assert bool((counts.sum(dim=1) == 7).all())
    assert torch.equal(counts, resampled_counts(7, seed=0))
    assert not torch.equal(counts, resampled_counts(7, seed=1))


def test_the_mean_of_pairs_equals_a_double_loop_with_weights():
    values = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[1.0, 1, 1, 1, 1], [2, 0, 1, 0, 2]], dtype=torch.float64)
    for row, found in zip(counts.tolist(), mean_of_pairs(values)(counts).tolist(), strict=True):
        pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
        weight = sum(row[i] * row[j] for i, j in pairs)
        expected = sum(row[i] * row[j] * values[i, j].item() for i, j in pairs) / weight
        assert found == pytest.approx(expected)


# label kept


def test_views_that_are_copies_keep_their_label_and_flipped_ones_lose_it():
    views = copies(IMAGES)
    # half of the images have one view of three from the other class, which is the next image
    flipped = np.arange(0, NUM_IMAGES, 2)
    views[flipped, 1] = IMAGES[flipped + 1]
    found = measured("label_kept", subject_of(views, reconstructions=IMAGES), num_filters=16)
    assert found["classifier_accuracy"] == 1
    assert found["reconstruction_misread"] == 0
    assert found["label_kept"] == pytest.approx(1 - 1 / 2 / 3)
    assert found["images_with_foreign_view"] == 0.5
    # the flipped images are those of class 0
    assert found["label_kept across"] == pytest.approx(2 / 3)
    assert found["label_kept down"] == 1


def test_images_whose_reconstruction_is_misread_are_reported_apart():
    views, rebuilt = copies(IMAGES), IMAGES.copy()
    views[:10] = copies(IMAGES[10:20])[:, :]  # the same classes, in turn
    rebuilt[:5], views[:5] = IMAGES[5:10], copies(IMAGES[5:10])
    found = measured("label_kept", subject_of(views, reconstructions=rebuilt), num_filters=16)
    assert found["reconstruction_misread"] == pytest.approx(5 / NUM_IMAGES)
    assert found["label_kept"] == 1, "only images whose reconstruction is read right count"


def test_labels_of_chance_are_read_by_chance_and_held_out_by_folds():
    """A classifier that has seen an image would know its label by heart."""
    random = np.random.default_rng(3)
    noise = np.repeat(random.integers(0, 256, (200, 1, SIDE, SIDE)), 3, axis=1).astype(np.uint8)
    dataset = dataset_of(noise, random.integers(0, 2, 200), "sha256:noise")
    accuracy = image_classifier(dataset, num_filters=16).accuracy
    assert abs(accuracy - 0.5) < 4 * 0.5 / 200**0.5


def test_a_classifier_is_kept_and_belongs_to_its_images(monkeypatch):
    dataset = dataset_of(IMAGES, LABELS)
    first = image_classifier(dataset, num_filters=16)
    said = []
    again = image_classifier(dataset, num_filters=16, say=said.append)
    assert said == []
    scores = [one.scores(IMAGES, np.arange(NUM_IMAGES)) for one in (first, again)]
    assert torch.equal(*scores)
    for file in classifier_folder().iterdir():
        file.write_bytes(b"damaged")
    healed = image_classifier(dataset, num_filters=16, say=said.append)
    assert torch.equal(healed.weights, first.weights)
    assert "fitting a classifier of bars" in said[0]
    image_classifier(dataset_of(IMAGES[::-1].copy(), LABELS[::-1].copy(), "sha256:other"), num_filters=16)
    assert len(list(classifier_folder().glob("*.safetensors"))) >= 2


def test_without_single_labels_neighbours_in_two_spaces_judge(small_models):
    dataset = dataclasses.replace(
        dataset_of(IMAGES, np.stack([LABELS, LABELS], axis=1)), attribute_names=("a", "b"),
        attribute_values=(("x", "y"),) * 2,
    )  # fmt: skip
    with pytest.raises(DataError, match="no single label"):
        image_classifier(dataset)
    # probes that are images themselves have the images' neighbours
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    own = torch.arange(30)
    assert neighbours_shared((x, x), (2 * x, 2 * x), own).tolist() == [1.0] * 30
    others = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    # 5 of 29 in each of two independent spaces: 5/29 in common on average
    shared = neighbours_shared((x, x), (others, others), own).mean().item()
    assert shared == pytest.approx(5 / 29, abs=0.12)
    unlabelled = dataset_of(IMAGES, np.full(NUM_IMAGES, -1), "sha256:unlabelled")
    found = measured(
        "label_kept", subject_of(copies(IMAGES), encoder=small_models.encoder, dataset=unlabelled)
    )
    of_views, of_images = found.values()
    assert 0 < of_views < 1
    assert of_views == pytest.approx(of_images), "a copy has its image's neighbours"


# distinct views, diversity


def test_views_are_counted_greedily_beyond_the_radius():
    places = torch.tensor([[0.0, 0.1, 0.2, 0.31, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    distance = (places[:, :, None] - places[:, None]).abs()
    # 0, then 0.2 (0.1 is too near to 0), 0.31 is too near to 0.2, then 1
    assert greedy_count(distance, 0.15).tolist() == [3, 1]
    assert greedy_count(distance, 0.05).tolist() == [5, 1]


def test_duplicates_are_views_within_a_grey_level_of_an_earlier_one():
    views = torch.full((2, 4, 3, SIDE, SIDE), 100.0)
    views[0] += torch.tensor([0.0, 1.0, 3.0, 3.0])[:, None, None, None]
    views[1] += 50 * torch.arange(4.0)[:, None, None, None]
    assert num_duplicates(views.to(torch.uint8)).tolist() == [2, 0]


def test_a_cache_of_duplicates_has_one_distinct_view(small_models):
    found = measured("distinct", subject_of(copies(IMAGES), encoder=small_models.encoder))
    assert found["distinct_views"] == 1
    assert found["closest_pair"] == pytest.approx(0, abs=1e-6)
    assert found["duplicate_views"] == pytest.approx(1 - 1 / NUM_VIEWS)


def test_pixel_diversity_in_closed_form():
    views = torch.zeros(1, 3, 3, SIDE, SIDE, dtype=torch.uint8)
    views[:, 1], views[:, 2] = 51, 102  # 0.2 and 0.4 of the range
    assert pixel_diversity(views).tolist() == pytest.approx([(0.2 + 0.4 + 0.2) / 3])
    assert measured("diversity", subject_of(copies(IMAGES)))["pixel_diversity"] == 0


# realism


def test_copies_of_the_real_images_are_as_real_as_they(small_models):
    found = measured("realism", subject_of(copies(IMAGES), encoder=small_models.encoder))
    for net in ("viewgen encoder", "patches"):
        assert found[f"density[{net}]"] == pytest.approx(1)
        assert found[f"coverage[{net}]"] == 1
        assert found[f"kernel_distance[{net}]"] == pytest.approx(0, abs=1e-9)
        # the share of images that are one of the nearest of another
        assert found[f"precision[{net}]"] == found[f"recall[{net}]"] > 0.8


def test_noise_is_not_real(small_models):
    noise = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, NUM_VIEWS, 3, SIDE, SIDE))
    found = measured("realism", subject_of(noise), features="patches")
    assert found["precision[patches]"] == found["coverage[patches]"] == found["density[patches]"] == 0
    assert found["kernel_distance[patches]"] > 0.1 * found["kernel_distance[patches] of shuffled pixels"]


def test_balls_equal_those_of_sets_without_the_image():
    random = torch.Generator().manual_seed(0)
    real = torch.randn(12, 2, generator=random)
    views = real + 0.3 * torch.randn(12, 2, generator=random)
    found = balls_holding(views, real, 3)
    for i in range(12):
        others = [j for j in range(12) if j != i]
        for j in range(12):
            reach = sorted((real[j] - real[m]).norm().item() for m in others if m != j)[2]
            expected = i != j and (views[i] - real[j]).norm().item() <= reach
            assert bool(found[i, j]) == expected, (i, j)


def test_copies_of_one_image_cover_one_ball_at_most():
    real = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    inside = balls_holding(real[:1].expand(30, -1), real, 5)
    others = (torch.cdist(real, real) <= torch.cdist(real, real).sort(dim=1).values[:, 6, None])[:, 0]
    assert int(inside.any(dim=0).sum()) <= int(others.sum())


def test_the_kernel_distance_is_0_on_average_for_images_of_one_kind_and_ignores_the_own_image():
    normal = torch.Generator().manual_seed(0)
    means = []
    for _ in range(300):
        real = torch.randn(30, 6, generator=normal, dtype=torch.float64)
        views = torch.randn(30, 6, generator=normal, dtype=torch.float64)
        terms = kernel_terms(views, real, scaled=False)
        means.append(float(mean_of_pairs(terms)(torch.ones(1, 30, dtype=torch.float64))[0]))
    assert abs(np.mean(means)) < 3 * np.std(means) / 300**0.5
    # a shift by δ along one axis is seen
    shifted = kernel_terms(real + 1, real, scaled=False)
    assert float(mean_of_pairs(shifted)(torch.ones(1, 30, dtype=torch.float64))[0]) > 5 * np.std(means)


def test_shuffled_pixels_keep_the_colours_and_lose_the_places():
    shuffled = shuffled_pixels(IMAGES, 0)
    assert not np.array_equal(shuffled, IMAGES)
    assert np.array_equal(np.sort(shuffled.reshape(40, 3, -1)), np.sort(IMAGES.reshape(40, 3, -1)))
    assert np.array_equal(shuffled[:, 0], shuffled[:, 1]), "channels stay together"


def test_too_few_images_are_refused(small_models):
    few = dataset_of(IMAGES[:6], LABELS[:6])
    with pytest.raises(DataError, match="compares at least 8 images, there are 6"):
        measured("realism", subject_of(copies(IMAGES[:6]), dataset=few))


def test_patch_features_tell_bars_from_their_turned_pictures():
    net = PatchFeatures.of_images(IMAGES, 16)
    features = net.features(torch.from_numpy(IMAGES))
    assert features.shape == (NUM_IMAGES, net.dim)
    assert net.filters.shape[1] == 1, "grey images have one channel"
    down, across = features[LABELS == 1].mean(dim=0), features[LABELS == 0].mean(dim=0)
    assert (down - across).norm() > 2 * features[LABELS == 1].std(dim=0).norm() / 20**0.5
    with pytest.raises(DataError, match="blank"):
        PatchFeatures.of_images(np.zeros_like(IMAGES), 16)


# reach


def test_reach_counts_images_without_a_step_and_reconstructions_beyond_epsilon(small_models):
    steps = np.arange(NUM_IMAGES) % 4
    rebuilt = IMAGES.copy()
    rebuilt[:10] = np.random.default_rng(0).integers(0, 256, rebuilt[:10].shape)
    subject = subject_of(
        copies(rebuilt), encoder=small_models.encoder, reconstructions=rebuilt, steps=steps,
        config={"epsilon_boundary": 1e-4, "max_steps": 3},
    )  # fmt: skip
    found = measured("reach", subject)
    assert found["images_without_step"] == 0.25
    assert found["reconstruction_beyond_epsilon"] == 0.25
    assert found["reconstruction_to_view"] == pytest.approx(0, abs=1e-6)
    assert found["image_to_view"] == pytest.approx(found["image_to_reconstruction"], rel=1e-5)
    assert found["image_to_view"] > 0
    assert found["spread"] == pytest.approx(0, abs=2e-6)
    assert found["views_near_epsilon"] == 1


def test_a_method_without_steps_has_no_share_of_images_without_one(small_models):
    subject = subject_of(
        copies(IMAGES), encoder=small_models.encoder, config={"sigma": 0.2}, steps=np.zeros(NUM_IMAGES)
    )
    assert "images_without_step" not in measured("reach", subject)


def test_a_cache_of_reconstructions_holds_no_views():
    subject = subject_of(copies(IMAGES), reconstructions=IMAGES)
    subject._makers["cache"] = subject._makers["inversions"]
    with pytest.raises(DataError, match="holds reconstructions"):
        measured("diversity", subject)
