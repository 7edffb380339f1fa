"""Small networks with random weights: 8-px images, 32-dimensional codes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import Models
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.layout import channels_last
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

IMAGE_SIZE = 8
CHANNELS = (12, 8)
STYLE_DIM = 32


def frozen(network: nn.Module) -> nn.Module:
    return channels_last(network).eval().requires_grad_(False)


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> None:
    """Give batch normalisation the statistics of `images`, so that random features spread."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    network(images)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks are faster on one thread, and on a busy machine many times so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_models() -> Models:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        generator = Generator(
            GeneratorConfig(
                image_size=IMAGE_SIZE, channels=CHANNELS, num_mapping_layers=2, style_dim=STYLE_DIM
            )
        )
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                nn.init.constant_(parameter, 0.1)
        generator.latent_avg.copy_(generator.mean_latent(200))
        discriminator = Discriminator(DiscriminatorConfig(image_size=IMAGE_SIZE, channels=CHANNELS))
        inverter = Inverter(
            InverterConfig(image_size=IMAGE_SIZE, channels=CHANNELS, hidden_dim=16, style_dim=STYLE_DIM)
        )
        inverter.latent_avg.copy_(generator.latent_avg)
        encoder = Encoder(EncoderConfig(image_size=IMAGE_SIZE, width=4, projection_dim=16))
        with torch.no_grad():
            images = generator(torch.randn(256, STYLE_DIM)).clamp(-1, 1)
        settle(encoder, images)
        settle(inverter, images)
    return Models(
        device=torch.device("cpu"),
        generator=frozen(generator),
        discriminator=frozen(discriminator),
        inverter=frozen(inverter),
        encoder=frozen(encoder),
    )


@pytest.fixture(scope="session")
def image_batch(small_models: Models) -> dict[str, np.ndarray]:
    """What a step takes: 12 images with their source indices, codes and the codes' errors."""
    random = torch.Generator().manual_seed(11)
    z = torch.randn(12, STYLE_DIM, generator=random)
    with torch.no_grad():
        codes = small_models.generator.broadcast(small_models.generator.mapping(z)).contiguous()
    images = torch.randint(0, 256, (12, 3, IMAGE_SIZE, IMAGE_SIZE), generator=random, dtype=torch.uint8)
    return {
        "image": images.numpy(),
        "source_index": np.array([3, 0, 7, 100, 12, 51, 4, 8, 9, 60_000, 1, 2]),
        "anchor_w_plus": codes.numpy(),
        "anchor_error": np.linspace(0, 1, 12, dtype=np.float32),
    }
