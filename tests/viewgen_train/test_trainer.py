"""One step of the training: batch statistics, precision, clipping, views from codes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from viewgen.errors import CacheMismatchError
from viewgen.networks.files import file_digest, save_model
from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen_train.distributed import World
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.objective import Outputs
from viewgen_train.run import open_run
from viewgen_train.training import train
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")
CPU = torch.device("cpu")


def views(num_views: int = 3, num_images: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    made = torch.rand(num_views, num_images, 3, 8, 8, generator=random) * 2 - 1
    # views of different brightness, so that it matters whose statistics are taken
    return (made + torch.linspace(-0.5, 0.5, num_views)[:, None, None, None, None]).clamp(-1, 1)


def network_of(settings):
    return build_network(settings, build_objective(settings).head, 8, CPU)


def test_separate_views_have_statistics_of_their_own(make_settings):
    x = views()
    together = network_of(make_settings()).train()
    apart = network_of(make_settings(batchnorm="separate")).train()
    assert all(torch.equal(a, b) for a, b in zip(together.parameters(), apart.parameters(), strict=True))
    single = torch.stack([network_of(make_settings()).train()(view[None])["z"][:, 0] for view in x], dim=1)
    torch.testing.assert_close(apart(x)["z"], single, atol=1e-6, rtol=0)
    out = together(x)["z"]
    assert float((out - single).detach().abs().max()) > 1e-3
    assert out.shape == (6, 3, 8)
    torch.testing.assert_close(out.norm(dim=2), torch.ones(6, 3))
    counts = [int(network.encoder.backbone.bn1.num_batches_tracked) for network in (together, apart)]
    assert counts == [1, 3]


def test_bf16_gives_the_same_to_its_precision(make_settings):
    x = views()
    full = network_of(make_settings())(x)["z"]
    half = network_of(make_settings(precision="bf16"))(x)["z"]
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    # bfloat16 has 8 bits: 0.4 % per operation, on numbers up to 1, through twenty layers
    torch.testing.assert_close(half, full, atol=0.1, rtol=0)


def test_a_compiled_backbone_is_the_same_network_under_the_same_names(make_settings, monkeypatch):
    plain = network_of(make_settings())
    compiled = []

    def compile_quickly(module):
        compiled.append(module)
        module._compiled_call_impl = torch.compile(
            module._call_impl, backend="eager"
        )  # inductor takes a minute

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    network = network_of(make_settings(compile=True))
    assert compiled == [network.encoder.backbone]
    assert network.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(network(views())["z"], plain(views())["z"], atol=1e-6, rtol=0)


def test_the_projector_of_e_ssl_has_two_layers_each_with_batch_normalisation(make_settings):
    for assimilation in ("A2", "A2-simsiam"):
        network = network_of(make_settings(assimilation=assimilation, projector="mlp-bn"))
        layers = list(network.encoder.projector)
        names = [type(layer).__name__ for layer in layers]
        assert names == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
        assert [layers[place].bias is None for place in (0, 3)] == [True, True]
        assert [layers[place].affine for place in (1, 4)] == [True, False]
        assert [layers[place].out_features for place in (0, 3)] == [8, 8]


def test_simsiam_gives_projections_and_predictions(make_settings):
    network = network_of(make_settings(assimilation="A2-simsiam")).train()
    out = network(views())
    projections, predictions = out["z"], out["p"]
    assert projections.shape == predictions.shape == (6, 3, 8)
    assert out["features"].shape == (6, 3, 32)
    assert network.encoder.config.projector == "simsiam"
    expected = network.predictor(projections.transpose(0, 1).flatten(0, 1))
    torch.testing.assert_close(predictions.transpose(0, 1).flatten(0, 1), expected, atol=1e-5, rtol=0)


def test_weights_depend_on_the_seed_alone(make_settings):
    torch.manual_seed(1)
    one = network_of(make_settings())
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    other = network_of(make_settings())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    third = network_of(make_settings(seed=1))
    assert not torch.equal(next(one.parameters()), next(third.parameters()))


def test_a_step_is_stochastic_gradient_descent(make_tiny_plan):
    plan = make_tiny_plan(momentum=0.0, weight_decay=0.0, warm_up_epochs=0.0)
    trainer = build_trainer(plan, World(), CPU)
    network = network_of(plan.settings).train()
    images = trainer.batch(0)
    z = network(trainer.views(images))["z"].transpose(0, 1)
    loss = trainer.losses(Outputs(z=z))["loss"]
    loss.backward()
    metrics = trainer.step(0)
    assert float(metrics["loss"]) == loss.item()
    for moved, old in zip(trainer.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(moved, old - 0.05 * old.grad, atol=1e-6, rtol=0)


def test_clipping_bounds_the_gradient_and_is_off_by_default(make_tiny_plan):
    plain = build_trainer(make_tiny_plan(), World(), CPU)
    assert "gradient_norm" not in plain.step(0)
    clipped = build_trainer(make_tiny_plan(gradient_clip=0.01), World(), CPU)
    assert float(clipped.step(0)["gradient_norm"]) > 0.01
    norm = torch.cat([parameter.grad.flatten() for parameter in clipped.network.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-4)


def test_training_learns_what_the_views_share(make_tiny_plan):
    plan = make_tiny_plan(epochs=15, warm_up_epochs=2.0, knn_every=0)
    train_worker(plan, "cpu")
    rows = (Path(plan.out) / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.05


# views from codes


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = Generator(GeneratorConfig(image_size=8, channels=(6, 4), num_mapping_layers=2))
        generator.latent_avg.copy_(generator.mean_latent(100))
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_model(generator, path)
    return path


@pytest.fixture(scope="module")
def inversions(tiny, cache_of, weights) -> str:
    return cache_of(
        tiny,
        method="invert",
        num_views=1,
        arrays=("anchor_w_plus",),
        latent_shape=(4, 512),
        models={"generator": file_digest(weights)},
    )


@pytest.mark.parametrize("generated", ["wperturb", "online"])
def test_views_are_made_from_codes_in_the_step(tmp_path, inversions, weights, tiny_root, generated):
    settings = {"generated": generated, "width": 2, "projection_dim": 4, "batch_size": 8, "epochs": 1}
    options = {"inversions": inversions, "data_root": tiny_root, "out": str(tmp_path / "run"), "quiet": True}
    result = train(settings=settings, generator=str(weights), evaluate=False, **options)
    assert result.loss == result.loss
    run = open_run(result.run)
    assert run.cache["method"] == "invert"
    assert (run.settings.views.name, run.step) == (generated, 2)


def test_codes_of_another_generator_are_refused(tmp_path, tiny, cache_of, weights, tiny_root):
    other = cache_of(
        tiny,
        method="invert",
        num_views=1,
        arrays=("anchor_w_plus",),
        latent_shape=(4, 512),
        models={"generator": "x"},
    )
    settings = {"generated": "wperturb", "width": 2, "batch_size": 8, "epochs": 1}
    options = {"inversions": other, "data_root": tiny_root, "out": str(tmp_path / "run"), "quiet": True}
    with pytest.raises(CacheMismatchError, match="codes of another generator"):
        train(settings=settings, generator=str(weights), **options)
