"""Fine-tuning: what is learned of each attribute, from both starts, with batch normalisations."""

import numpy as np
import pytest
import torch

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics.finetune import Finetune, FinetuneConfig
from viewgen.diagnostics.measure import Subject
from viewgen.errors import DataError, UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import load_encoder, load_model, save_model
from viewgen.views.expert import ExpertConfig


def images(split: str) -> ImageDataset:
    """Images whose brightness is one attribute, and whose lighter half another of three classes."""
    random = np.random.default_rng(len(split))
    targets = np.stack([np.arange(96) % 2, random.integers(0, 3, 96)], axis=1)
    pixels = random.integers(0, 60, (96, 3, 8, 8)) + 100 * targets[:, 0, None, None, None]
    for row, side in enumerate(targets[:, 1]):
        pixels[row, :, :, 3 * side : 3 * side + 2] += 90
    return ImageDataset(
        name="shades", split=split, image_size=8, num_classes=3, class_names=(),
        pixels=MemoryImages(pixels.astype(np.uint8)), targets=targets,
        attribute_names=("shade", "side"), attribute_values=(("a", "b"), ("x", "y", "z")),
    )  # fmt: skip


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(image_size=8, backbone="convnet", width=4))


def measured(network=None, **settings):
    network = network or encoder()
    parts = {
        "train": lambda: images("train"), "test": lambda: images("test"), "expert": ExpertConfig,
        "trainable": lambda: network,
    }  # fmt: skip
    config = FinetuneConfig(**{"epochs": 8, "batch_size": 16, "learning_rate": 0.1, **settings})
    return {(one.name, one.group): one.value for one in Finetune(config).measure(Subject(parts), 0)}


def test_both_attributes_are_learned_from_both_starts():
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for start, name in (("encoder", "finetuned_top1"), ("untrained", "from_scratch_top1")):
        found = measured(network, start=start, augmentation="none")
        assert found.keys() == {(name, "shade"), (name, "side")}
        assert min(found.values()) > 0.9
    # the encoder itself stays as it was
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_start_matters_and_one_attribute_may_be_chosen():
    network = encoder()
    same, drawn, again = (
        Finetune(FinetuneConfig(start=start))._start(network, 0).state_dict()
        for start in ("encoder", "untrained", "untrained")
    )
    name = next(name for name in same if name.endswith("weight"))
    assert torch.equal(same[name], network.state_dict()[name])
    assert torch.equal(drawn[name], again[name])
    assert not torch.equal(drawn[name], same[name])
    assert [*measured(attribute="side", epochs=1)] == [("finetuned_top1", "side")]
    with pytest.raises(UsageError, match="attribute is 'sid'; did you mean 'side'"):
        measured(attribute="sid")
    with pytest.raises(DataError, match="has 96 images, and batch_size is 97"):
        measured(batch_size=97)


def test_crops_are_drawn_anew_in_every_epoch(monkeypatch):
    seen = []
    monkeypatch.setattr(Encoder, "embed", recorded(Encoder.embed, seen))
    measured(epochs=2, batch_size=96)
    first, second = (batch.flatten(1).mean(dim=1).sort().values for batch in seen[:2])
    assert not torch.allclose(first, second)


def recorded(embed, seen):
    def embedded(self, pixels):
        seen.append(pixels.detach().clone())
        return embed(self, pixels)

    return embedded


def test_a_file_is_loaded_with_its_normalisations(tmp_path):
    path = tmp_path / "last.safetensors"
    save_model(encoder().eval(), path)
    for trainable in (True, False):
        network = load_encoder(path, trainable=trainable)
        norms = [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        assert bool(norms) == trainable
        assert all(one.requires_grad == trainable for one in network.parameters())
    pixels = torch.rand(2, 3, 8, 8)
    expected = load_model(path, "encoder").embed(pixels)
    assert torch.allclose(load_encoder(path, trainable=True).embed(pixels), expected, atol=1e-5)
