"""A generator that was trained for 20 steps does not pass silently."""

import os

import pytest
import torch

from viewgen.datasets import load_dataset
from viewgen.networks.files import save_model
from viewgen_pipelines.cache import cache
from viewgen_pretrained.generator import GeneratorTrainer, GeneratorTrainingConfig
from viewgen_pretrained.inverter import InverterTrainer, InverterTrainingConfig
from viewgen_pretrained.pretrain import training_config

NUM_STEPS = 20
SMALL = {"channels": [8, 8, 8, 8], "batch_size": 4}


@pytest.mark.usefixtures("no_flushing")
def test_twenty_steps_of_a_generator_are_not_trusted(tmp_path, tmp_path_factory, monkeypatch, capsys):
    # another test has fitted the classifier, maybe
    monkeypatch.setenv("VIEWGEN_CACHE", str(tmp_path_factory.getbasetemp() / "quality-of-digits"))
    # a local cache takes as many threads as there are cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    digits, cpu = load_dataset("digits"), torch.device("cpu")
    settings = {
        **SMALL,
        "num_mapping_layers": 2,
        "num_images": 4 * NUM_STEPS,
        "path_weight": 0.0,
        "r1_interval": 99,
    }
    config = training_config(GeneratorTrainingConfig, "generator", "digits", settings)
    adversaries = GeneratorTrainer(digits, config, cpu)
    for step in range(NUM_STEPS):
        adversaries.step(step)
    generator = adversaries.finish()
    settings = {**SMALL, "hidden_dim": 16, "num_steps": 2, "perceptual": "none"}
    inverter = InverterTrainer(
        digits,
        training_config(InverterTrainingConfig, "inverter", "digits", settings),
        cpu,
        generator=generator,
        discriminator=adversaries.discriminator.eval().requires_grad_(False),
        depends={"generator": "sha256:0", "discriminator": "sha256:1"},
    )
    files = {}
    for kind, network in (("generator", generator), ("inverter", inverter.inverter)):
        files[kind] = str(tmp_path / f"{kind}.safetensors")
        save_model(network, files[kind], notes={"dataset": "digits"})
    made = cache(
        "digits", method="wperturb", views=2, limit=16, executor="local", out=str(tmp_path / "c.zarr"),
        quality=True, strict=True, **files, **{"invert.max_steps": 1},
    )  # fmt: skip
    assert made.complete
    reasons = " ".join(made.verdict)
    assert "the reconstructions lie farther than ε₁ from their image" in reasons
    assert "unlike real images" in reasons
    assert "verdict: these views cannot be trusted" in capsys.readouterr().err
