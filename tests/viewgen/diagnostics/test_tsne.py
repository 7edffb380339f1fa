"""The map of features: classes that are apart stay apart, and the picture has a panel for each attribute."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.features import Features
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.tsne import Tsne, TsneConfig
from viewgen.errors import UsageError


def subject(names=("group", "nothing")) -> Subject:
    """60 images whose features are two clouds, told by the first attribute."""
    random = np.random.default_rng(0)
    targets = np.stack([np.arange(60) % 2, random.integers(0, 3, 60)], axis=1)
    test = ImageDataset(
        name="clouds", split="test", image_size=8, num_classes=3, class_names=(),
        pixels=MemoryImages(np.zeros((60, 3, 8, 8), np.uint8)), targets=targets, attribute_names=names,
        attribute_values=(("a", "b"), ("x", "y", "z")),
    )  # fmt: skip
    features = random.standard_normal((60, 8)) + 8 * targets[:, :1]
    made = Subject({"test": lambda: test})
    found = Features(embeddings=torch.tensor(features, dtype=torch.float32), labels=torch.from_numpy(targets))
    made.derived("features", lambda: (found, found))
    return made


def test_classes_that_are_apart_stay_apart():
    made = subject()
    made.files = {}
    found = {(one.name, one.group): one.value for one in Tsne(TsneConfig(perplexity=10.0)).measure(made, 0)}
    assert found["silhouette", "group"] > 0.5
    assert found["map_silhouette", "group"] > 0.5
    assert found["silhouette", "nothing"] < 0.1 > found["map_silhouette", "nothing"]
    picture = Image.open(io.BytesIO(made.files["map.png"]))
    assert picture.width > 1.8 * picture.height


def test_too_few_images_are_refused():
    with pytest.raises(UsageError, match="perplexity is 60 for 60 images"):
        Tsne(TsneConfig(perplexity=60.0)).measure(subject(), 0)
