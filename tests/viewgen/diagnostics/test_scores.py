"""Scores of every view against closed forms, and where they lie."""

import numpy as np
import pytest
import torch
from constructed_caches import IMAGES, LABELS, NUM_IMAGES, copies, dataset_of, subject_of

from viewgen.diagnostics.realism import balls_holding
from viewgen.diagnostics.scores import label_margins, view_scores
from viewgen.errors import DataError

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VIEWGEN_CACHE", str(tmp_path_factory.getbasetemp() / "quality-caches"))


def test_a_margin_is_the_score_of_the_label_minus_the_largest_other():
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.1, 0.6], [0.2, 0.7, 0.7]])
    found = label_margins(scores, torch.tensor([0, 0, 1]))
    assert found.tolist() == pytest.approx([0.7, -0.3, 0.0])


def test_a_view_of_another_class_has_a_negative_margin_and_noise_no_density():
    views = copies(IMAGES)
    views[0::2, 1] = IMAGES[1::2]  # of the other class
    views[:, 2] = np.random.default_rng(0).integers(0, 256, IMAGES.shape)
    found = view_scores(subject_of(views))
    assert {name: values.shape for name, values in found.items()} == {
        "density": (NUM_IMAGES, 3), "label_margin": (NUM_IMAGES, 3)
    }  # fmt: skip
    margin, density = found["label_margin"], found["density"]
    assert (margin[:, 0] > 0).all()
    assert (margin[0::2, 1] < 0).all()
    # of a copy of every image the mean number of balls is k
    assert density[:, 0].mean() == pytest.approx(1)
    assert (density[:, 2] == 0).all()


def test_images_that_are_misread_or_unlabelled_have_no_margin():
    wrong = LABELS.copy()
    wrong[0] = 1 - wrong[0]
    found = view_scores(subject_of(copies(IMAGES), dataset=dataset_of(IMAGES, wrong, "sha256:wrong")))
    assert np.isnan(found["label_margin"][0]).all()
    # a wrong label misleads the classifier of its fold about a few others at most
    assert np.isfinite(found["label_margin"]).mean() > 0.8
    subject = subject_of(
        copies(IMAGES), dataset=dataset_of(IMAGES, np.full(NUM_IMAGES, -1), "sha256:unlabelled")
    )
    assert set(view_scores(subject)) == {"density"}
    assert "no single label" in subject.notes[0]


def test_balls_of_some_of_the_centres_equal_those_of_all():
    normal = torch.Generator().manual_seed(0)
    centres, probes = torch.randn(20, 3, generator=normal), torch.randn(20, 3, generator=normal)
    whole = balls_holding(probes, centres, 4)
    chosen = torch.tensor([3, 17, 5])
    assert torch.equal(balls_holding(probes[chosen], centres, 4, own=chosen), whole[chosen])
    none = balls_holding(probes[:1], centres, 4, own=torch.tensor([-1]))
    assert bool((none >= whole[:1]).any())


def test_too_few_images_are_refused():
    few = dataset_of(IMAGES[:6], LABELS[:6], "sha256:few")
    with pytest.raises(DataError, match="has 6 images; scores compare at least 8"):
        view_scores(subject_of(copies(IMAGES[:6]), dataset=few))
