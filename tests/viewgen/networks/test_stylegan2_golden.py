"""Our StyleGAN2 against outputs of the public networks (tests/golden/), weights made from the keys."""

import json
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from viewgen.networks.stylegan2 import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    public_channels,
)
from viewgen_pretrained.imports.official import convert_discriminator, convert_generator

GOLDEN = Path(__file__).parents[2] / "golden"
GRADIENT_FREE = torch.no_grad()


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
        ),
    ]
)
def device(request, monkeypatch) -> str:
    """Each device, computing as a worker of viewgen does: without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return str(request.param)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "stylegan2.safetensors")


@pytest.fixture(scope="module")
def keys() -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDEN / "stylegan2_keys.json").read_text())


def random_tensor(key: str, shape: list[int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))


def fill_public(key: str, shape: list[int]) -> Tensor:
    value = random_tensor(key, shape)
    if key.startswith("style.") and key.endswith(".weight"):
        return 100 * value
    if key.endswith("modulation.bias"):
        return 1 + 0.1 * value
    if key.endswith(("noise.weight", "bias")):
        return 0.1 * value
    return value


def fill_official(key: str, shape: list[int]) -> Tensor:
    value = random_tensor(key, shape)
    if key.startswith("mapping.fc") and key.endswith(".weight"):
        return 100 * value
    if key.endswith("affine.bias"):
        return 1 + 0.1 * value
    if key.endswith(("noise_strength", "bias", "w_avg")):
        return 0.1 * value
    return value


def filled(network: nn.Module, shapes: dict[str, list[int]]) -> nn.Module:
    """Load weights made from the public keys; strict in both directions."""
    constructed = network.state_dict()
    assert {key: list(value.shape) for key, value in constructed.items()} == shapes
    state = {
        key: constructed[key] if "kernel" in key else fill_public(key, shape) for key, shape in shapes.items()
    }
    network.load_state_dict(state, strict=True)
    return network.double()


@pytest.mark.parametrize(
    ("prefix", "size", "multiplier", "num_mapping_layers"), [("res32", 32, 2, 2), ("res64", 64, 1, 8)]
)
def test_generator_equals_the_public_network(
    golden, keys, device, prefix, size, multiplier, num_mapping_layers
):
    golden = {key: value.to(device) for key, value in golden.items()}
    config = GeneratorConfig(
        image_size=size, channels=public_channels(size, multiplier), num_mapping_layers=num_mapping_layers
    )
    generator = filled(Generator(config), keys[f"{prefix}.generator"]).to(device)
    generator.latent_avg.copy_(golden[f"{prefix}.latent_avg"][0])
    with GRADIENT_FREE:
        w = generator.mapping(golden[f"{prefix}.z"].double())
        torch.testing.assert_close(w, golden[f"{prefix}.w"], rtol=1e-10, atol=1e-10)
        image = generator.synthesis(golden[f"{prefix}.w_plus"].double())
        torch.testing.assert_close(image, golden[f"{prefix}.image_from_w_plus"], rtol=1e-9, atol=1e-9)
        truncated = generator(golden[f"{prefix}.z"].double(), psi=0.7)
        torch.testing.assert_close(
            truncated, golden[f"{prefix}.image_from_z_truncation_0.7"], rtol=1e-9, atol=1e-9
        )
        single = generator.float().synthesis(golden[f"{prefix}.w_plus"].float())
        # float32 rounding through about twenty layers
        torch.testing.assert_close(
            single, golden[f"{prefix}.image_from_w_plus"].float(), rtol=1e-3, atol=1e-2
        )


@pytest.mark.parametrize(("prefix", "size", "multiplier"), [("res32", 32, 2), ("res64", 64, 1)])
def test_discriminator_equals_the_public_network(golden, keys, device, prefix, size, multiplier):
    golden = {key: value.to(device) for key, value in golden.items()}
    config = DiscriminatorConfig(image_size=size, channels=public_channels(size, multiplier))
    discriminator = filled(Discriminator(config), keys[f"{prefix}.discriminator"]).to(device)
    with GRADIENT_FREE:
        logits = discriminator(golden[f"{prefix}.x"].double())
    torch.testing.assert_close(logits, golden[f"{prefix}.logits"], rtol=1e-9, atol=1e-9)


def test_official_class_conditional_networks(golden, keys, device):
    """The official `cifar` networks: class-conditional, two mapping layers, no skips, clamp 256."""
    shapes = keys["ada_cifar10.G_ema"]
    official = {key: fill_official(key, shape) for key, shape in shapes.items()}
    state, latent_avg = convert_generator(official)
    generator = Generator(
        GeneratorConfig(
            image_size=32,
            channels=public_channels(32, 2),
            num_mapping_layers=2,
            num_classes=10,
            activation_clamp=256.0,
        )
    )
    constructed = generator.state_dict()
    generator.load_state_dict(
        {**{k: v for k, v in constructed.items() if "kernel" in k}, **state}, strict=True
    )
    generator.latent_avg.copy_(latent_avg)

    shapes = keys["ada_cifar10.D"]
    official = {key: fill_official(key, shape) for key, shape in shapes.items()}
    discriminator = Discriminator(
        DiscriminatorConfig(
            image_size=32,
            channels=public_channels(32, 2),
            architecture="plain",
            num_classes=10,
            activation_clamp=256.0,
        )
    )
    constructed = discriminator.state_dict()
    kernels = {k: v for k, v in constructed.items() if "kernel" in k}
    discriminator.load_state_dict({**kernels, **convert_discriminator(official)}, strict=True)

    generator.to(device)
    discriminator.to(device)
    golden = {key: value.to(device) for key, value in golden.items()}
    with GRADIENT_FREE:
        c = golden["ada.c"]
        w = generator.mapping(golden["ada.z"], c)
        torch.testing.assert_close(w, golden["ada.w"], rtol=1e-4, atol=1e-4)
        image = generator.synthesis(golden["ada.w_plus"])
        torch.testing.assert_close(image, golden["ada.image_from_w_plus"], rtol=1e-3, atol=1e-2)
        assert discriminator(golden["ada.image_from_w_plus"], c).shape == (2, 1)
