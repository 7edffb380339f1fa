"""Robust and non-robust sets: steps of a linear classifier, targets, ranges, and what is stored."""

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.robust_sets import RobustSets, RobustSetsConfig, drawn_targets, moved_to
from viewgen.errors import DataError, UsageError
from viewgen.images import to_model


class Pixels(nn.Module):
    """An encoder whose features are the pixels."""

    embedding_dim = 3 * 16

    class config:  # noqa: N801
        image_size = 4

    def embed(self, images):
        return images.flatten(1)


def images(split: str, count: int = 60) -> ImageDataset:
    """Grey noise, whose first column tells one of three classes."""
    random = np.random.default_rng(len(split))
    targets = np.arange(count) % 3
    pixels = random.integers(110, 146, (count, 3, 4, 4))
    pixels[np.arange(count), targets, :, 0] += 40
    return ImageDataset(
        name="columns", split=split, image_size=4, num_classes=3, class_names=("a", "b", "c"),
        pixels=MemoryImages(pixels.astype(np.uint8)), targets=targets,
    )  # fmt: skip


def measured(files=None, **settings):
    parts = {"train": lambda: images("train"), "test": lambda: images("test"), "encoder": Pixels}
    subject = Subject(parts, batch_size=25)
    subject.files = files
    found = RobustSets(RobustSetsConfig(**{"epochs": 20, **settings})).measure(subject, 0)
    return {one.name: one.value for one in found}


def test_steps_of_a_linear_classifier_are_margin_over_slope():
    torch.manual_seed(0)
    # two classes, whose margin falls by step·‖w_t − w_y‖₁ in every step
    linear = nn.Linear(48, 2).double()
    pixels = 0.1 * torch.rand(40, 3, 4, 4, dtype=torch.float64) - 0.05
    own = linear(pixels.flatten(1)).argmax(dim=1)
    moved, steps = moved_to(lambda x: linear(x.flatten(1)), pixels, 1 - own, step=0.02, max_steps=100)
    logits = linear(pixels.flatten(1)).detach()
    margin = logits.gather(1, own[:, None])[:, 0] - logits.gather(1, 1 - own[:, None])[:, 0]
    slope = float((linear.weight[0] - linear.weight[1]).detach().abs().sum()) * 0.02
    assert steps.tolist() == [math.floor(one / slope) + 1 for one in margin.tolist()]
    assert torch.equal(linear(moved.flatten(1)).argmax(dim=1), 1 - own)
    assert float((moved - pixels).abs().max()) <= 0.02 * int(steps.max()) + 1e-12
    _, none = moved_to(lambda x: linear(x.flatten(1)), pixels, own, step=0.02, max_steps=3)
    assert none.tolist() == [0] * 40


def test_pixels_stay_in_range_and_unreachable_targets_are_told():
    never = lambda x: torch.stack([x.sum(dim=(1, 2, 3)) + 1e3, -x.sum(dim=(1, 2, 3))], dim=1)  # noqa: E731
    moved, steps = moved_to(never, torch.zeros(2, 3, 2, 2), torch.tensor([1, 0]), step=0.3, max_steps=5)
    assert steps.tolist() == [-1, 0]
    assert float(moved[0].min()) == float(moved[0].max()) == -1
    assert bool((moved[1] == 0).all())


def test_targets_are_other_classes_or_any():
    labels = torch.arange(9000) % 3
    random = torch.Generator().manual_seed(0)
    other, some = (drawn_targets(labels, 3, kind, random) for kind in ("other", "any"))
    assert not bool((other == labels).any())
    assert torch.bincount((other - labels) % 3, minlength=3).tolist()[0] == 0
    assert float(((other - labels) % 3 == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((some == labels).float().mean()) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_stored_images_are_read_as_their_targets(storage, monkeypatch):
    files, learned, own = {}, [], RobustSets._classifier

    def classifier(self, train, test, seed):
        learned.append(train.labels.flatten().tolist())
        return own(self, train, test, seed)

    monkeypatch.setattr(RobustSets, "_classifier", classifier)
    found = measured(files, storage=storage)
    assert found["clean_top1"] == 1
    assert found["robust_top1"] > 0.9
    assert found["unreached_share"] == 0
    assert 1 <= found["median_steps"] <= 20
    assert 0 < found["rounding_kept_share"] <= 1
    sets = np.load(io.BytesIO(files["sets.npz"]))
    assert sets["images"].dtype == storage
    assert (sets["label"] == sets["source_index"] % 3).all()
    assert (sets["label"] != sets["target"]).all()
    # the robust set has the classes that the images had, the other one those that they are moved to
    assert learned[2:] == [sets["label"].tolist(), sets["target"].tolist()]
    stored = torch.from_numpy(sets["images"])
    assert storage == "uint8" or 0 <= float(stored.min()) <= float(stored.max()) <= 1
    pixels = to_model(stored) if storage == "uint8" else 2 * stored - 1
    # the classifier that they were moved on is that of all clean features
    subject = Subject({"train": lambda: images("train"), "test": lambda: images("test"), "encoder": Pixels})
    classify = RobustSets(RobustSetsConfig(epochs=20))._classifier(*subject.features, 0)
    assert classify(Pixels().embed(pixels)).argmax(dim=1).tolist() == sets["target"].tolist()


def test_what_cannot_be_moved_is_refused():
    with pytest.raises(UsageError, match="attribute is 'shape'"):
        measured(attribute="shape")
    with pytest.raises(DataError, match="no image reached its target in 1 steps"):
        measured(max_steps=1, step=1e-6)
