"""The encoder of six convolutions: widths, sides, and its map."""

import pytest
import torch

from viewgen.errors import ModelError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import load_encoder, save_model


@pytest.mark.parametrize(("side", "halvings"), [(64, 6), (32, 5), (8, 3), (96, 6)])
def test_widths_and_sides(side, halvings):
    encoder = Encoder(EncoderConfig(image_size=side, backbone="convnet6", width=2)).eval()
    assert encoder.embedding_dim == 16
    assert [len(one.weight) for one in encoder.backbone.layers if isinstance(one, torch.nn.Conv2d)] == [
        2, 4, 8, 16, 16, 16,
    ]  # fmt: skip
    assert sum(stride == 2 for stride in encoder.backbone.strides) == halvings
    images = torch.rand(2, 3, side, side)
    assert encoder.feature_map(images).shape == (2, 16, 1, 1)


def test_features_are_the_mean_of_the_map():
    for backbone in ("convnet6", "resnet18"):
        encoder = Encoder(EncoderConfig(image_size=16, backbone=backbone, width=2)).eval()
        images = torch.rand(1, 3, 16, 16)
        found = encoder.feature_map(images)
        assert found.shape[2] == {"convnet6": 1, "resnet18": 2}[backbone]
        torch.testing.assert_close(found.mean(dim=(2, 3)), encoder.embed(images))


def test_a_file_gives_the_same_features(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=32, backbone="convnet6", width=2))
    encoder(torch.rand(4, 3, 32, 32))  # statistics that differ from the initial ones
    save_model(encoder.eval(), tmp_path / "encoder.safetensors")
    images = torch.rand(2, 3, 32, 32)
    found = load_encoder(tmp_path / "encoder.safetensors")
    with torch.no_grad():
        # normalisations are folded into the convolutions
        torch.testing.assert_close(found.embed(images), encoder.embed(images), rtol=1e-4, atol=1e-5)


def test_patches_have_no_map():
    encoder = Encoder(EncoderConfig(image_size=32, backbone="convnet6", width=2, patches=3))
    assert encoder.embed_patches(torch.rand(2, 3, 32, 32)).shape == (2, 9, 16)
    with pytest.raises(ModelError, match="no map of a whole image"):
        encoder.feature_map(torch.rand(2, 3, 32, 32))
