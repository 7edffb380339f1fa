"""A generator that is no StyleGAN2 goes through everything: a linear decoder of one-dimensional codes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from viewgen.datasets import load_dataset
from viewgen.errors import ModelError
from viewgen.images import to_model
from viewgen.networks.config import NetworkConfig
from viewgen.networks.files import code_shape, load_model, networks_beside, read_header, save_model
from viewgen.networks.generator import GENERATORS
from viewgen.registry import Entry
from viewgen.settings import setting
from viewgen.store import CacheReader, read_spec, verify_cache
from viewgen.store.storage import open_storage
from viewgen_pipelines.cache import cache
from viewgen_pipelines.inspecting import inspect

pytestmark = pytest.mark.usefixtures("no_flushing")
CODE_DIM = 24
# far from 1, so that whatever takes StyleGAN2's scale for granted shows
SCALE = 50.0


class LinearConfig(NetworkConfig):
    image_size: int = setting(..., "side of the images in pixels")
    code_dim: int = setting(CODE_DIM, "width of a code", ge=1)


class Linear(nn.Module):
    """Principal components: image = mean + Σ code · component / SCALE."""

    channels, num_classes = 3, 0
    mean: Tensor
    components: Tensor
    code_scale: Tensor

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size, self.code_shape = config.image_size, (config.code_dim,)
        pixels = 3 * config.image_size**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(config.code_dim, pixels))
        self.register_buffer("code_scale", torch.ones(config.code_dim))

    def fit(self, images: Tensor) -> None:
        flat = images.flatten(1)
        self.mean.copy_(flat.mean(dim=0))
        _, values, directions = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.components.copy_(directions[: self.config.code_dim])
        self.code_scale.copy_(SCALE * values[: self.config.code_dim] / len(images) ** 0.5)

    def decode(self, codes: Tensor) -> Tensor:
        flat = self.mean + codes / SCALE @ self.components
        return flat.unflatten(1, (3, self.image_size, self.image_size))

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return SCALE * (images.flatten(1) - self.mean) @ self.components.T


ENTRY = Entry(name="linear", summary="principal components", settings=LinearConfig, build=Linear)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(GENERATORS, "_registered", {})
    GENERATORS.register(ENTRY)


@pytest.fixture(scope="module")
def generator() -> Linear:
    network = Linear(LinearConfig(image_size=32))
    network.fit(to_model(load_dataset("digits", "train").images(np.arange(300))))
    return network


@pytest.fixture
def weights(generator, tmp_path) -> str:
    path = tmp_path / "linear.safetensors"
    save_model(generator, path)
    return str(path)


def test_a_file_says_which_generator_it_holds(generator, weights):
    header = read_header(weights)
    assert (header["kind"], header["generator"]) == ("generator", "linear")
    assert (code_shape(weights), networks_beside(weights)) == ((CODE_DIM,), frozenset())
    loaded = load_model(weights, "generator")
    codes = torch.randn(3, CODE_DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.decode(codes), generator.decode(codes))
    GENERATORS._registered.clear()
    with pytest.raises(ModelError, match="no generator 'linear'"):
        load_model(weights, "generator")


def test_from_inversion_to_gallery(weights, tmp_path, monkeypatch):
    short = {"invert": {"max_steps": 3, "perceptual": "none"}}
    monkeypatch.setattr("viewgen.registry.recipe", lambda dataset, section: short.get(section, {}))
    shared = {"views": 2, "limit": 4, "executor": "local", "quiet": True, "generator": weights}
    spread = {}
    for method, settings in (("wperturb", {"sigma": 0.3, "truncation": 1.0}), ("wsearch", {"max_steps": 30})):
        url = str(tmp_path / f"{method}.zarr")
        made = cache("digits", method=method, out=url, keep_latents=True, **shared, **settings)
        assert made.complete
        assert verify_cache(url).ok
        reader = CacheReader(url)
        assert reader.spec.latent_shape == (CODE_DIM,)
        codes = reader.array("w_plus", reader.rows)
        assert codes.shape == (4, 2, CODE_DIM)
        inversions = CacheReader(str(next(tmp_path.glob("inversions-*.zarr"))))
        anchors = inversions.array("anchor_w_plus", reader.rows)
        spread[method] = (codes - anchors[:, None]).std(axis=(0, 1))
        if method == "wsearch":
            near = np.abs(reader.array("distance", reader.rows) - 0.3) < 0.05
            assert near.mean() > 0.7
    assert set(read_spec(open_storage(str(tmp_path / "wsearch.zarr"))).models) == {
        "generator",
        "encoder",
        "inversions",
    }
    # σ is measured in each coordinate's own deviation
    scale = load_model(weights, "generator").code_scale.numpy()
    ratio = spread["wperturb"] / scale
    assert 0.2 < ratio.mean() < 0.4
    assert ratio.max() < 0.7

    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "generator.safetensors").symlink_to(weights)
    page = inspect(str(tmp_path / "wsearch.zarr"), static=tmp_path / "gallery", models=str(folder))
    assert page is not None
    assert page.is_file()
    assert list((tmp_path / "gallery" / "frames").rglob("*.png"))
