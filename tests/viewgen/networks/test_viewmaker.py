"""Viewmaker's network: changes of a set size, within the range of images."""

import pytest
import torch

from viewgen.errors import ModelError, UsageError
from viewgen.networks.files import load_model, read_header, save_model
from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig, num_noise_channels


@pytest.fixture
def viewmaker() -> Viewmaker:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Viewmaker(ViewmakerConfig(budget=0.03, width=4))


@pytest.mark.parametrize("size", [(12, 10), (8, 8), (13, 9)])
def test_an_image_changes_by_the_budget(viewmaker, size):
    images = torch.rand(5, 3, *size) - 0.5
    noise = torch.rand(5, num_noise_channels(), *size)
    views = viewmaker(images, noise)
    assert views.shape == images.shape
    # a share of 0.03 of a range of 2; nothing is clamped, for the images keep away from ±1
    change = (views - images).detach().abs().mean(dim=(1, 2, 3))
    assert change.tolist() == pytest.approx([0.06] * 5, rel=1e-4)
    assert not torch.allclose(views, viewmaker(images, noise.flip(0)))


def test_views_stay_in_range_and_every_weight_has_a_gradient(viewmaker):
    noise = torch.rand(2, num_noise_channels(), 8, 8)
    views = viewmaker(torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 8, 8), noise)
    assert float(views.detach().abs().max()) <= 1
    views.square().sum().backward()
    assert all(parameter.grad is not None for parameter in viewmaker.parameters())


def test_every_noise_channel_counts(viewmaker):
    images, noise = torch.zeros(1, 3, 8, 8), torch.rand(1, num_noise_channels(), 8, 8)
    plain = viewmaker(images, noise)
    for channel in range(num_noise_channels()):
        other = noise.clone()
        other[:, channel] = 1 - other[:, channel]
        assert not torch.allclose(viewmaker(images, other), plain)


@pytest.mark.parametrize("values", [{"budget": 0.0}, {"budget": 1.5}, {"width": 0}])
def test_impossible_shapes_are_refused(values):
    with pytest.raises(UsageError, match=r"budget|width"):
        ViewmakerConfig(**values)


def test_a_file_holds_shape_and_weights(viewmaker, tmp_path):
    save_model(viewmaker, path := tmp_path / "viewmaker.safetensors", notes={"step": 3})
    loaded = load_model(path, "viewmaker")
    assert loaded.config == viewmaker.config
    assert (read_header(path)["kind"], read_header(path)["step"]) == ("viewmaker", 3)
    images, noise = torch.rand(2, 3, 8, 8), torch.rand(2, num_noise_channels(), 8, 8)
    torch.testing.assert_close(loaded(images, noise), viewmaker(images, noise))
    with pytest.raises(ModelError, match="holds a network of kind 'viewmaker'; a flow is needed"):
        load_model(path, "flow")
