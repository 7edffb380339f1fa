"""Methods that start from inversions make, share and check the cache of inversions."""

import dataclasses

import numpy as np
import pytest
import torch

from viewgen.errors import CacheMismatchError
from viewgen.inversion.source import InversionSource
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen.store import CacheReader, open_storage, read_spec, verify_cache
from viewgen.views import VIEWS
from viewgen_pipelines.cache import cache

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with small untrained networks for 32-px images."""
    folder = tmp_path_factory.mktemp("models")
    channels = (8, 8, 8, 8)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = Generator(
            GeneratorConfig(image_size=32, channels=channels, num_mapping_layers=2, style_dim=16)
        )
        discriminator = Discriminator(DiscriminatorConfig(image_size=32, channels=channels))
        inverter = Inverter(InverterConfig(image_size=32, channels=channels, style_dim=16))
        encoder = Encoder(EncoderConfig(image_size=32, width=8, projection_dim=16))
    for network in (generator, discriminator, inverter, encoder):
        save_model(network, folder / f"{type(network).__name__.lower()}.safetensors")
    return str(folder)


@pytest.fixture
def make(tmp_path, models, monkeypatch):
    """Return a function that runs `cache`, with two updates per inversion."""
    short = {"invert": {"max_steps": 2}}
    monkeypatch.setattr("viewgen.registry.recipe", lambda dataset, section: short.get(section, {}))

    def run(method, **changes):
        options = {"models": models, "limit": 20, "views": 2, "executor": "local", "quiet": True}
        return cache("digits", method=method, **({"out": str(tmp_path / "c.zarr")} | options | changes))

    return run


def inversions_beside(tmp_path):
    return [str(path) for path in tmp_path.glob("inversions-digits-train-*.zarr")]


def test_inversions_are_made_beside_the_cache_and_shared(make, tmp_path):
    result = make("wperturb", out=str(tmp_path / "p.zarr"), sigma=0.1, truncation=1.0, keep_latents=True)
    assert result.complete
    assert verify_cache(str(tmp_path / "p.zarr")).ok
    (inversions,) = inversions_beside(tmp_path)
    assert verify_cache(inversions).ok
    codes = CacheReader(inversions).array("anchor_w_plus")
    reader = CacheReader(str(tmp_path / "p.zarr"))
    assert codes.shape == (20, 8, 16)
    noise = reader.array("w_plus") - codes[:, None]
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert reader.spec.models["inversions"] == CacheReader(inversions).spec.identity
    np.testing.assert_array_equal(
        reader.array("inversion_error"), CacheReader(inversions).array("inversion_error")
    )

    runs = {commit.run_id for commit in CacheReader(inversions).commits.values()}
    result = make("wsearch", out=str(tmp_path / "s.zarr"), max_steps=2, epsilon_boundary="auto")
    assert 0 < result.epsilon_boundary < 2
    assert read_spec(open_storage(result.url)).config["epsilon_boundary"] == result.epsilon_boundary
    assert inversions_beside(tmp_path) == [inversions]
    assert {commit.run_id for commit in CacheReader(inversions).commits.values()} == runs, "made once"


def test_inversions_of_other_images_are_refused(make, tmp_path):
    url = str(tmp_path / "i.zarr")
    make("invert", out=url, views=None)
    assert make("wperturb", inversions=url, shard_images=8).complete, "shards may differ"
    with pytest.raises(CacheMismatchError, match=r"inversions at .* do not fit this run.*\n  dataset: "):
        make("wperturb", inversions=url, limit=21)
    with pytest.raises(CacheMismatchError, match=r"method: the inversions have wperturb"):
        make("wperturb", inversions=str(tmp_path / "c.zarr"), out=str(tmp_path / "d.zarr"))


def test_what_has_no_inversion_has_no_views(make, tmp_path, monkeypatch):
    """A shard given up among the inversions blocks its rows; a failed sample fails there alone."""
    invert = VIEWS.entry("invert")

    class Failing(InversionSource):
        def views(self, images, num_views):
            if (images.source_index >= 16).any():
                raise ValueError("no inversion")
            made = super().views(images, num_views)
            made.status[images.source_index == 5] = 3
            return made

    monkeypatch.setitem(VIEWS._registered, "invert", dataclasses.replace(invert, build=Failing))
    result = make("wperturb", max_attempts=2)
    failed, blocked = result.quarantined
    assert (failed["row"], failed["reason"]) == (5, "its inversion failed")
    assert blocked["rows"] == [16, 19]
    assert "inversions were given up" in blocked["reason"]
    assert CacheReader(result.url).rows.tolist() == [row for row in range(16) if row != 5]

    monkeypatch.delitem(VIEWS._registered, "invert")
    assert [item.get("row") for item in make("wperturb", max_attempts=3).quarantined] == [5]
