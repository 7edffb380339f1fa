"""W-boundary: every view at ε₁ in its own random direction; W-perturb of equal strength."""

import dataclasses

import numpy as np
import pytest
import torch

from viewgen.errors import UsageError
from viewgen.networks.batched import project, render
from viewgen.status import Status
from viewgen.store import open_storage
from viewgen.views import VIEWS
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources
from viewgen.views.source import Images
from viewgen.views.strength import matching_sigma, wanted_distance
from viewgen.views.wboundary import WBoundaryConfig
from viewgen.views.wperturb import WPerturbConfig


def made(models, image_batch, config, num_views=5):
    images = Images(
        pixels=torch.from_numpy(image_batch["image"]),
        source_index=torch.from_numpy(image_batch["source_index"]),
        draws=ImageDraws(0, torch.from_numpy(image_batch["source_index"])),
        codes=torch.from_numpy(image_batch["anchor_w_plus"]),
    )
    name = "wboundary" if isinstance(config, WBoundaryConfig) else "wperturb"
    source = VIEWS.entry(name).build(config, Resources(models=models))
    return images, source.views(images, num_views)


def test_views_lie_at_epsilon_1_along_the_drawn_directions(small_models, image_batch):
    config = WBoundaryConfig(epsilon_boundary=0.3, tolerance=0.025)
    images, views = made(small_models, image_batch, config)
    ok = views.columns["status"] == Status.OK
    assert int(ok.sum()) >= 10
    # rounding to 8 bits may add as much again as the tolerance
    assert float((views.columns["distance"][ok] - 0.3).abs().max()) <= 0.05
    offset = (views.columns["w_plus"] - images.codes[:, None]).flatten(2)
    directions = images.draws.normal("wboundary", 5, *images.codes.shape[1:]).flatten(2)
    cosine = torch.nn.functional.cosine_similarity(offset, directions, dim=2)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-4, rtol=0)
    assert 1 <= int(views.columns["steps"].min()) <= int(views.columns["steps"].max()) <= 12


def test_no_gradient_is_computed(small_models, image_batch, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a gradient")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    made(small_models, image_batch, WBoundaryConfig())


def test_views_that_do_not_reach_epsilon_1_are_not_converged(small_models, image_batch):
    _, views = made(small_models, image_batch, WBoundaryConfig(epsilon_boundary=2.0, max_passes=2))
    assert views.columns["status"].tolist() == [int(Status.NOT_CONVERGED)] * 12


def test_the_anchor_may_be_the_image(small_models, image_batch):
    images, views = made(small_models, image_batch, WBoundaryConfig(anchor="image", epsilon_boundary=0.5))
    anchors = project(small_models.encoder, images.pixels, 32)
    flat = project(small_models.encoder, views.pixels.flatten(0, 1), 32).unflatten(0, (5, -1)).transpose(0, 1)
    expected = (flat - anchors[:, None]).norm(dim=2)
    torch.testing.assert_close(views.columns["distance"], expected, atol=1e-5, rtol=0)


def test_sigma_counts_in_truncated_codes(small_models, image_batch):
    """ψ·σ is what reaches the generator's own codes; half the ψ is half the σ."""
    images, views = made(small_models, image_batch, WPerturbConfig(sigma=0.4))
    moved = (views.columns["w_plus"] - images.codes[:, None]).flatten()
    # 12 · 5 · 128 normal numbers: a standard error of 0.8 %
    assert float(moved.std()) == pytest.approx(0.7 * 0.4, rel=0.03)
    _, half = made(small_models, image_batch, WPerturbConfig(sigma=0.8, truncation=0.35))
    assert torch.equal(half.pixels, views.pixels)


@dataclasses.dataclass
class _Situation:
    dataset: object
    networks: dict
    seed: int = 0
    inversion: object = None

    def say(self, message: str) -> None:
        assert "σ" in message


@pytest.fixture(scope="module")
def digits():
    from viewgen.datasets import load_dataset
    from viewgen.networks.weights import find_models

    return _Situation(
        load_dataset("digits", "test"), find_models("digits", {"generator", "inverter", "encoder"})
    )


def test_the_strength_is_that_of_the_views(digits, monkeypatch):
    from viewgen.images import to_model
    from viewgen.networks.files import load_models

    monkeypatch.setattr("viewgen.views.strength.NUM_IMAGES", 24)
    monkeypatch.setattr("viewgen.views.strength.NUM_VIEWS", 4)
    sigma = matching_sigma(0.2, 0.7, digits)
    models = load_models(digits.networks, "cpu")
    # other images, other noise
    rows = np.arange(100, 148)
    images = to_model(torch.from_numpy(digits.dataset.images(rows)))
    with torch.no_grad():
        codes = models.inverting().start(images, None)
    random = torch.Generator().manual_seed(5)
    noise = torch.randn(codes.shape, generator=random)
    moved = render(models.generator, codes + 0.7 * sigma * noise, 32)
    anchors = project(models.encoder, render(models.generator, codes, 32), 32)
    distance = (project(models.encoder, moved, 32) - anchors).norm(dim=1)
    # standard error over 48 images about 0.015, and as much of the 24 measured ones
    assert float(distance.mean()) == pytest.approx(0.2, abs=0.05)
    # what is moved by is ψσ
    assert matching_sigma(0.2, 0.35, digits) == pytest.approx(2 * sigma, rel=0.01)
    settled = VIEWS.entry("wperturb").settle(WPerturbConfig(strength="distance:0.2"), digits)
    assert settled == WPerturbConfig(sigma=sigma)


def test_the_strength_is_measured_on_refined_codes(digits):
    from viewgen.images import to_model
    from viewgen.networks.files import load_models
    from viewgen.views.strength import _codes

    models, rows = load_models(digits.networks, "cpu"), torch.arange(6)
    inversion = VIEWS.resolve("invert", "digits", {"max_steps": 15, "perceptual": "none"})
    images = to_model(torch.from_numpy(digits.dataset.images(rows.numpy())))
    errors = []
    for chosen in (None, inversion):
        codes, there = _codes(dataclasses.replace(digits, inversion=chosen), models, rows)
        assert there.tolist() == rows.tolist()
        errors.append(float((to_model(render(models.generator, codes, 32)) - images).square().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_the_strength_of_a_cache_is_its_mean_distance(write_cache, make_spec, tmp_path):
    spec = make_spec()
    arrays = write_cache(open_storage(str(tmp_path / "cache.zarr")), spec)
    ok = arrays["status"] == Status.OK
    found = wanted_distance(f"match:{tmp_path / 'cache.zarr'}")
    assert found == pytest.approx(float(np.nanmean(arrays["distance"][ok])), rel=1e-6)


@pytest.mark.parametrize("strength", ["distance:far", "distance:0", "distance:2", "distance:nan"])
def test_an_impossible_distance_is_refused(strength):
    with pytest.raises(UsageError, match="0 < D < 2"):
        wanted_distance(strength)


def test_a_strength_that_no_sigma_has_is_refused(digits, monkeypatch):
    monkeypatch.setattr("viewgen.views.strength.NUM_IMAGES", 8)
    with pytest.raises(UsageError, match="no σ between"):
        matching_sigma(1.9, 0.7, digits)


def test_sigma_and_strength_exclude_each_other():
    with pytest.raises(
        UsageError, match=r"sigma is given and has no effect, because strength distance:0\.3 decides it"
    ):
        VIEWS.resolve("wperturb", "digits", {"sigma": 0.1, "strength": "distance:0.3"})
    with pytest.raises(UsageError, match="strength"):
        WPerturbConfig(strength="0.3")
