"""bfloat16: what it rounds and what it must not, and searches that end in float32."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from viewgen.errors import ModelError, UsageError
from viewgen.images import to_model
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.batched import project, render
from viewgen.networks.files import Models
from viewgen.networks.precision import at_precision, native_bfloat16
from viewgen.networks.stylegan2.layers import EqualLinear, ModulatedConv2d
from viewgen.status import Status
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import Batch, offline_step
from viewgen.views.wsearch.loss import near_boundary
from viewgen.views.wsearch.settings import WSearchConfig

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
CONFIG = WSearchConfig(
    max_steps=12, patience=2, spread_share=0.5, learning_rate=0.003, solver="adam", precision="bfloat16"
)


def on(models: Models, device: str) -> Models:
    """Return the models on `device`; they themselves stay where they are."""
    networks = {
        kind: copy.deepcopy(getattr(models, kind)).to(device)
        for kind in ("generator", "discriminator", "inverter", "encoder")
    }
    return dataclasses.replace(models, device=torch.device(device), **networks)


def run(models: Models, config: object, batch: Batch, batch_size: int | None = None) -> Batch:
    name, num_views = ("invert", 1) if isinstance(config, InvertConfig) else ("wsearch", 3)
    resources = Resources(models=models, batch_size=batch_size)
    source = VIEWS.entry(name).build(config, resources)
    return offline_step(source, resources, seed=0, num_views=num_views)(batch)


def anchor_features(models: Models, batch: Batch) -> torch.Tensor:
    """Return the projections of the stored reconstructions, `(12, K)`."""
    codes = torch.from_numpy(batch["anchor_w_plus"]).to(models.device)
    return project(models.encoder, render(models.generator, codes, 32), 32)


@pytest.fixture(scope="module", params=DEVICES)
def models(request, small_models: Models) -> Models:
    return on(small_models, request.param)


@pytest.fixture(scope="module")
def config(models: Models, image_batch: Batch) -> WSearchConfig:
    """A search of which some images go on in float32, and others do not: processors round differently."""
    for tolerance in (0.03, 0.025, 0.02, 0.0175, 0.015, 0.0125, 0.01):
        chosen = CONFIG.replace(tolerance=tolerance)
        out = run(models, chosen, image_batch)
        done = (out["status"] == Status.OK) & out["continued"].astype(bool)
        if done.any() and not out["continued"].all():
            return chosen
    raise AssertionError("at no tolerance did some images go on")


@pytest.fixture(scope="module")
def found(models: Models, config: WSearchConfig, image_batch: Batch) -> Batch:
    return run(models, config, image_batch)


@pytest.fixture
def codes(models: Models, image_batch: Batch) -> torch.Tensor:
    return torch.from_numpy(image_batch["anchor_w_plus"]).to(models.device)


def test_images_and_gradients_differ_by_rounding_alone(models, codes):
    results = {}
    for precision in ("float32", "bfloat16"):
        w = codes.clone().requires_grad_()
        image = at_precision(models.generator, precision).decode(w)
        (gradient,) = torch.autograd.grad(image.square().sum(), w)
        assert image.dtype == gradient.dtype == torch.float32
        results[precision] = image.detach(), gradient
    (image, gradient), (rounded, its_gradient) = results["float32"], results["bfloat16"]
    # 8 bits of mantissa through four convolutions: about 1 % of the range, and never nothing
    assert 0 < (image - rounded).abs().mean() < 0.01 * image.abs().amax()
    assert cosine_similarity(gradient.flatten(1), its_gradient.flatten(1)).min() > 0.99


def test_projections_have_unit_length_in_float32(models, image_batch):
    images = to_model(torch.from_numpy(image_batch["image"])).to(models.device)
    z = models.encoder(images)
    rounded = at_precision(models.encoder, "bfloat16")(images)
    assert rounded.dtype == torch.float32
    # bfloat16 would leave a length of 1 ± 0.004
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones_like(z[:, 0]), atol=1e-6, rtol=0)
    # noise images excite a random network more than pictures do a trained one
    assert 0 < (z - rounded).norm(dim=1).mean() < 0.05
    codes, its = models.inverter(images), at_precision(models.inverter, "bfloat16")(images)
    assert its.dtype == torch.float32
    assert 0 < (codes - its).norm() / (codes - models.inverter.latent_avg).norm() < 0.02


def test_scales_of_the_styles_stay_in_float32(models):
    low = at_precision(models.generator, "bfloat16")
    convolutions = [module for module in low.modules() if isinstance(module, ModulatedConv2d)]
    assert convolutions
    assert all(module.weight.dtype == torch.bfloat16 for module in convolutions)
    assert all(module.modulation.weight.dtype == torch.float32 for module in convolutions)
    linear = [module for module in low.modules() if isinstance(module, EqualLinear)]
    assert all(module.weight.dtype == torch.float32 for module in linear)


def test_demodulation_is_of_the_rounded_weights_but_not_itself_rounded(models):
    """Without demodulation in float32 the output's scale would be off by up to 0.4 % in every layer."""
    convolution = next(
        m for m in models.generator.modules() if isinstance(m, ModulatedConv2d) and m.demodulate
    )
    style = torch.randn(4, 32, device=models.device)
    x = torch.ones(4, convolution.weight.shape[2], 4, 4, device=models.device)
    low = copy.deepcopy(convolution)
    low.weight = torch.nn.Parameter((low.weight * low.gain).to(torch.bfloat16), requires_grad=False)
    low.gain = 1.0
    double = copy.deepcopy(low).double()
    expected, y = double(x.double(), style.double()), low(x.to(torch.bfloat16), style)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, atol=0.02 * float(expected.abs().max()), rtol=0)


def test_the_networks_given_stay_as_they_are(models):
    before = {name: value.clone() for name, value in models.generator.state_dict().items()}
    assert at_precision(models.generator, "float32") is models.generator
    low = at_precision(models.generator, "bfloat16")
    assert low is not models.generator
    after = models.generator.state_dict()
    assert all(
        torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items()
    )
    assert not any(parameter.requires_grad for parameter in low.parameters())


def test_stored_distances_are_float32s_of_the_stored_views(models, image_batch, found):
    views = torch.from_numpy(found["views"]).to(models.device).flatten(0, 1)
    anchors = anchor_features(models, image_batch)
    z = project(models.encoder, views, 32).unflatten(0, (12, 3))
    assert np.array_equal(found["distance"], (z - anchors[:, None]).norm(dim=2).cpu().numpy())
    w = torch.from_numpy(found["w_plus"]).to(models.device).flatten(0, 1)
    assert np.array_equal(render(models.generator, w, 32).cpu().numpy(), found["views"].reshape(-1, 3, 8, 8))


def test_images_off_the_boundary_go_on_and_come_back(models, config, image_batch, found):
    went_on = found["continued"].astype(bool)
    done = found["status"] == Status.OK
    assert 0 < went_on.sum() < 12
    near = near_boundary(torch.from_numpy(found["distance"]), config).all(dim=1).numpy()
    assert near[done & ~went_on].all()
    # the search in float32 stops by images that are not rounded to 8 bits yet
    with torch.no_grad():
        w = torch.from_numpy(found["w_plus"]).to(models.device).flatten(0, 1)
        z = models.encoder(models.generator.decode(w).clamp(-1, 1)).unflatten(0, (12, 3))
    distance = (z - anchor_features(models, image_batch)[:, None]).norm(dim=2)
    off = (distance - config.epsilon_boundary).abs().amax(dim=1).cpu().numpy()
    assert off[done & went_on].max() <= config.tolerance + 1e-5
    assert found["steps"].max() <= config.max_steps
    assert set(found["status"]) <= {Status.OK, Status.NOT_CONVERGED}


def test_steps_count_both_parts(models, config, image_batch, found, monkeypatch):
    went_on = found["continued"].astype(bool)
    # with a tolerance that nothing misses the same search ends in bfloat16 alone
    monkeypatch.setattr(
        "viewgen.views.wsearch.source.near_boundary", lambda d, c: torch.ones_like(d, dtype=torch.bool)
    )
    alone = run(models, config, image_batch)
    assert not alone["continued"].any()
    more = (found["steps"] - alone["steps"])[went_on]
    assert more.min() >= 0
    assert more.max() > 0
    for name in ("steps", "views", "distance", "status"):
        assert np.array_equal(found[name][~went_on], alone[name][~went_on]), name


def test_a_search_out_of_steps_does_not_get_more(models, image_batch):
    out = run(models, CONFIG.replace(max_steps=2, tolerance=0.001), image_batch)
    assert out["steps"].max() <= 2
    late = out["status"] == Status.NOT_CONVERGED
    assert late.any()
    assert (out["steps"][late] == 2).all()


def test_newton_steps_go_on_in_float32_too(models, image_batch):
    config = CONFIG.replace(solver="newton", max_steps=20)
    out = run(models, config, image_batch)
    went_on, done = out["continued"].astype(bool), out["status"] == Status.OK
    near = near_boundary(torch.from_numpy(out["distance"]), config).all(dim=1).numpy()
    assert went_on.any()
    assert near[done & ~went_on].all()
    assert out["steps"].max() <= 20


@settings(deadline=None, max_examples=4, derandomize=True)
@given(data=st.data())
def test_an_image_gets_the_same_views_in_any_company(models, config, image_batch, found, data):
    rows = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
    batch = {name: array[rows] for name, array in image_batch.items()}
    again = run(models, config, batch, batch_size=data.draw(st.sampled_from([None, 1, 5, 40])))
    for key, array in again.items():
        assert np.array_equal(array, found[key][rows], equal_nan=True), key


@pytest.mark.parametrize("value", [np.nan, np.inf, np.finfo(np.float32).max])
def test_a_poisoned_anchor_fails_alone(models, config, image_batch, found, value):
    """The last overflows bfloat16, whose largest number is a little smaller, if it is not normalised."""
    poisoned = {name: array.copy() for name, array in image_batch.items()}
    poisoned["anchor_w_plus"][4, 1, 7] = value
    out = run(models, config, poisoned)
    others = np.arange(12) != 4
    expected = {Status.FAILED} if not np.isfinite(value) else {Status.FAILED, Status.NOT_CONVERGED}
    assert out["status"][4] in expected
    assert np.array_equal(out["views"][others], found["views"][others])


def test_inversions_in_bfloat16_are_as_good(models, image_batch):
    errors = {
        precision: run(
            models, InvertConfig(max_steps=20, perceptual="none", precision=precision), image_batch
        )
        for precision in ("float32", "bfloat16")
    }
    exact, rounded = (errors[name]["inversion_error"].mean() for name in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert not np.array_equal(errors["float32"]["anchor_w_plus"], errors["bfloat16"]["anchor_w_plus"])


def test_float32_says_nothing_of_going_on(models, image_batch):
    out = run(models, CONFIG.replace(precision="float32", max_steps=2), image_batch)
    assert "continued" not in out


def test_what_cannot_be_is_refused(small_models):
    for make in (WSearchConfig, InvertConfig):
        with pytest.raises(UsageError, match="expected 'float32' or 'bfloat16'"):
            make(precision="bf16")
    with pytest.raises(UsageError, match="float16"):
        at_precision(small_models.generator, "float16")
    with pytest.raises(ModelError, match="Discriminator"):
        at_precision(small_models.discriminator, "bfloat16")


def test_the_processor_says_whether_it_has_bfloat16(monkeypatch, tmp_path):
    for flags, native in (("flags : sse avx512_bf16 fma", True), ("flags : sse avx512f", False)):
        file = tmp_path / "cpuinfo"
        file.write_text(flags)
        monkeypatch.setattr("viewgen.networks.precision.Path", lambda _, file=file: file)
        assert native_bfloat16() is native
    monkeypatch.setattr("viewgen.networks.precision.Path", lambda _: tmp_path / "none")
    assert native_bfloat16() is False
