"""Features of a data set: those of the backbone, in order, with the network left as it was."""

import numpy as np
import pytest
import torch

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.features import extract_features
from viewgen.errors import DataError, ModelError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig


def make_encoder(image_size: int = 8) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(image_size=image_size, width=2, projection_dim=4))


def make_dataset(targets: np.ndarray) -> ImageDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (len(targets), 3, 8, 8), np.uint8)
    return ImageDataset(
        name="noise", split="train", image_size=8, num_classes=4, class_names=tuple("abcd"),
        pixels=MemoryImages(pixels), targets=targets,
    )  # fmt: skip


@pytest.fixture
def dataset():
    return make_dataset(np.arange(11) % 4)


def test_they_are_the_backbones_whatever_the_batch(dataset):
    encoder = make_encoder()
    told = []
    found = extract_features(encoder, dataset, batch_size=4, progress=told.append)
    encoder.eval()
    with torch.no_grad():
        expected = encoder.embed(to_model(dataset.images(np.arange(11))))
    torch.testing.assert_close(found.embeddings, expected)
    assert found.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert found.attributes.shape == (11, 1)
    assert found.embeddings.shape == (11, encoder.embedding_dim)
    assert not found.embeddings.requires_grad
    assert told == [4, 4, 3]


def test_rows_come_in_the_order_asked_for(dataset):
    encoder = make_encoder()
    rows = np.array([7, 0, 7, 2])
    found = extract_features(encoder, dataset, rows=rows)
    everything = extract_features(encoder, dataset)
    torch.testing.assert_close(found.embeddings, everything.embeddings[rows])
    assert found.labels.tolist() == [3, 0, 3, 2]


def test_the_network_keeps_modes_and_statistics(dataset):
    encoder = make_encoder().train()
    encoder.backbone.layer1.eval()
    modes = [module.training for module in encoder.modules()]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    extract_features(encoder, dataset)
    assert [module.training for module in encoder.modules()] == modes
    assert all(value.equal(before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_modes_come_back_after_an_error(dataset):
    encoder = make_encoder().train()
    with torch.no_grad():
        encoder.backbone.conv1.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        extract_features(encoder, dataset)
    assert encoder.training


def test_labels_with_several_attributes():
    dataset = load_dataset("trifeature:16", "test")
    found = extract_features(make_encoder(16), dataset, rows=np.arange(5))
    assert found.labels.tolist() == dataset.labels(np.arange(5)).tolist()
    assert found.attributes.shape == (5, 3)


def test_what_cannot_be_embedded_is_refused(dataset):
    with pytest.raises(ModelError, match="trained on 16-px images, noise has 8 px"):
        extract_features(make_encoder(16), dataset)
    with pytest.raises(DataError, match="no image"):
        extract_features(make_encoder(), dataset, rows=np.arange(0))
    with pytest.raises(DataError, match="without a label"):
        extract_features(make_encoder(), make_dataset(np.array([0, -1])))
