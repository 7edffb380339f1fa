"""Class-conditional generators: the label of an image conditions its W⁺, from training to every method."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from viewgen.datasets import ImageDataset
from viewgen.errors import DataError, ModelError
from viewgen.images import to_model
from viewgen.inversion.refine import InversionProblem, invert_images, refinement_rule
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.files import Models, load_model, save_model
from viewgen.networks.generator import class_labels
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen.networks.stylegan2.codes import WPlus
from viewgen.status import Status
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import offline_step
from viewgen_pipelines.cache import cache
from viewgen_pretrained.inverter import InverterTrainer
from viewgen_pretrained.pretrain import pretrain_encoder, pretrain_inverter
from viewgen_pretrained.settings import InverterTrainingConfig

SETTINGS: dict[str, Any] = {
    "channels": [6, 4],
    "hidden_dim": 16,
    "batch_size": 4,
    "num_steps": 2,
    "r1_interval": 2,
    "perceptual": "discriminator",
}


@pytest.fixture(scope="module")
def conditional() -> dict[str, Any]:
    """A generator and a discriminator of two classes with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        shape = {"image_size": 8, "channels": (6, 4), "num_classes": 2}
        generator = Generator(GeneratorConfig(**shape, num_mapping_layers=2))
        discriminator = Discriminator(DiscriminatorConfig(**shape, num_mapping_layers=2))
        generator.latent_avg.copy_(generator.mean_latent(500))
    return {
        "generator": generator.eval().requires_grad_(False),
        "discriminator": discriminator.eval().requires_grad_(False),
    }


@pytest.fixture(scope="module")
def inverter(conditional) -> Inverter:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Inverter(InverterConfig(image_size=8, channels=(6, 4), hidden_dim=16, num_classes=2))
    network.take_latents(conditional["generator"])
    return network.eval().requires_grad_(False)


def test_class_latents_are_means_of_the_mapping_under_each_label(conditional):
    generator = conditional["generator"]
    found = generator.class_latents(num_samples=1500, seed=3)
    z = torch.cat(
        [torch.randn(n, 512, generator=g) for g in [torch.Generator().manual_seed(3)] for n in (1000, 500)]
    )
    for label in range(2):
        w = generator.mapping(z, torch.full((1500,), label))
        torch.testing.assert_close(found[label], w.mean(dim=0), atol=1e-5, rtol=0)
    assert (found[0] - found[1]).norm() > 0.1 * found.norm()
    unconditional = Generator(GeneratorConfig(image_size=8, channels=(6, 4), num_mapping_layers=1))
    with pytest.raises(ModelError, match="has no classes"):
        unconditional.class_latents()


def test_codes_of_an_image_differ_by_the_difference_of_its_classes_means(inverter):
    x = torch.rand(1, 3, 8, 8).expand(3, -1, -1, -1) * 2 - 1
    codes = inverter(x, torch.tensor([0, 1, -1]))
    expected = inverter.class_latents[0] - inverter.class_latents[1]
    torch.testing.assert_close(codes[0] - codes[1], expected.expand_as(codes[0]), atol=1e-5, rtol=0)
    expected = inverter.class_latents[0] - inverter.latent_avg
    torch.testing.assert_close(codes[0] - codes[2], expected.expand_as(codes[0]), atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="2 classes: pass labels"):
        inverter(x)


def test_an_inverter_survives_its_file_and_one_without_classes_is_written_as_before(inverter, tmp_path):
    save_model(inverter, tmp_path / "inverter.safetensors")
    loaded = load_model(tmp_path / "inverter.safetensors", "inverter")
    assert torch.equal(loaded.class_latents, inverter.class_latents)
    plain = Inverter(InverterConfig(image_size=8, channels=(6, 4)))
    save_model(plain, tmp_path / "plain.safetensors")
    assert b"num_classes" not in (tmp_path / "plain.safetensors").read_bytes()[:2000]
    assert b"class_latents" not in (tmp_path / "plain.safetensors").read_bytes()[:4000]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), r"shape \(2,\), expected one class"),
        (torch.tensor([0, 2]), "0 to 2"),
    ],
)
def test_labels_that_are_no_classes_of_the_generator(labels, message):
    with pytest.raises(DataError, match=message):
        class_labels(labels, 2)
    assert class_labels(labels, 0) is None


def test_refinement_starts_at_and_is_pulled_to_the_codes_of_the_label(conditional, inverter, dataset):
    images = to_model(dataset.images(np.arange(6)))
    labels = torch.tensor([0, 1, 0, 1, -1, 0])
    problem = InversionProblem(
        WPlus(conditional["generator"], inverter), None, images, InvertConfig(max_steps=3), 4, labels
    )
    torch.testing.assert_close(problem.first, inverter(images, labels), atol=1e-4, rtol=1e-4)
    rows = torch.tensor([4, 1])
    w = problem.start(rows)
    loss = problem.evaluate(w, rows, torch.zeros(2, dtype=torch.long)).loss
    made = conditional["generator"].synthesis(w[:, 0])
    pixel = (made - images[rows]).square().mean(dim=(1, 2, 3))
    drift = (inverter(made, labels[rows]) - w[:, 0]).square().mean(dim=(1, 2))
    torch.testing.assert_close(loss, pixel + 2 * drift, rtol=1e-4, atol=1e-5)
    rule = refinement_rule(problem.generator, problem.config)
    result = invert_images(problem, rule, 3)
    assert result.status.tolist() == [Status.NOT_CONVERGED] * 6
    every = torch.arange(6)
    first = problem.evaluate(problem.first[:, None], every, torch.zeros_like(every)).loss
    assert bool((result.loss < first).all())


def test_the_method_passes_the_labels_of_the_batch(conditional, inverter, dataset):
    models = Models(device=torch.device("cpu"), **conditional, inverter=inverter)
    config = InvertConfig(max_steps=0, perceptual="none")
    resources, invert = Resources(models=models), VIEWS.entry("invert")
    step = offline_step(invert.build(config, resources), resources, seed=0, num_views=1)
    batch = dataset.batch(np.arange(4))
    codes = torch.from_numpy(step(batch)["anchor_w_plus"])
    other = torch.from_numpy(step({**batch, "label": 1 - batch["label"]})["anchor_w_plus"])
    difference = inverter.class_latents[1 - batch["label"]] - inverter.class_latents[batch["label"]]
    torch.testing.assert_close(other - codes, difference[:, None].expand_as(codes), atol=1e-5, rtol=0)
    plain = Inverter(InverterConfig(image_size=8, channels=(6, 4))).eval()
    with pytest.raises(ModelError, match="the generator has 2 classes, the inverter 0"):
        invert.build(config, Resources(models=dataclasses.replace(models, inverter=plain)))


def make_trainer(dataset: ImageDataset, networks: dict[str, Any]) -> InverterTrainer:
    depends = {"generator": "g", "discriminator": "d"}
    config = InverterTrainingConfig(**SETTINGS)
    return InverterTrainer(dataset, config, torch.device("cpu"), **networks, depends=depends)


def test_training_gives_both_networks_the_labels(conditional, dataset):
    trainer = make_trainer(dataset, conditional)
    assert torch.equal(trainer.inverter.class_latents, conditional["generator"].class_latents())
    first, second = trainer.step(0), trainer.step(1)
    assert first.keys() == second.keys() >= {"pixel", "adversarial", "critic"}
    assert trainer.picture().shape[2] == 3
    swapped = (
        dataclasses.replace(dataset, targets=1 - dataset.targets)
        if dataclasses.is_dataclass(dataset)
        else None
    )
    assert swapped is not None
    other = make_trainer(swapped, conditional)
    assert other.step(0)["pixel"] != first["pixel"]


def test_images_without_labels_or_of_other_classes_cannot_train_it(conditional, dataset):
    for targets, message in (
        (dataset.targets * 0 - 1, "have no label"),
        (dataset.targets + 1, "labels 1 to 2"),
    ):
        with pytest.raises(DataError, match=message):
            make_trainer(dataclasses.replace(dataset, targets=targets), conditional)


def test_from_import_to_cache_with_one_name(conditional, dataset, data_root, tmp_path, monkeypatch):
    """What a user does: networks under a name, an inverter and an encoder beside them, a cache."""
    monkeypatch.setenv("VIEWGEN_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "models" / "mine"
    for kind, network in conditional.items():
        save_model(network, folder / f"{kind}.safetensors")
    common = {"data_root": str(data_root)}
    encoder = {"width": 4, "projection_dim": 8, "batch_size": 8, "num_steps": 2}
    pretrain_encoder(dataset.name, folder, settings=encoder, **common)
    card = pretrain_inverter(dataset.name, folder, settings=SETTINGS, **common)
    assert card["network"]["num_classes"] == 2
    options = {
        "dataset": dataset.name,
        "models": "mine",
        "executor": "local",
        "views": 2,
        "limit": 4,
        **common,
    }
    for method in ("wperturb", "wsearch"):
        settings = {"invert.max_steps": 2} | ({"max_steps": 2} if method == "wsearch" else {})
        result = cache(method=method, out=str(tmp_path / f"{method}.zarr"), **options, **settings)
        assert result.num_images == 4

    plain = Generator(GeneratorConfig(image_size=8, channels=(6, 4), num_mapping_layers=2))
    save_model(plain, tmp_path / "plain.safetensors")
    with pytest.raises(ModelError, match=r"has 0 classes, the inverter at .* has 2"):
        cache(
            method="wperturb",
            generator=str(tmp_path / "plain.safetensors"),
            out=str(tmp_path / "x"),
            dry_run=True,
            **options,
        )
    with pytest.raises(ModelError, match=r"2 classes; the images of 'digits'|for images of 8 px"):
        cache(dataset="digits", method="invert", models="mine", out=str(tmp_path / "y"), dry_run=True)
