"""Small untrained networks for 32-px images."""

from pathlib import Path

import torch

from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig


def save_small_networks(folder: Path) -> str:
    """Write generator, discriminator, inverter and encoder to a folder; return its path."""
    shape = {"image_size": 32, "channels": (8, 8, 8, 8)}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        networks = (
            Generator(GeneratorConfig(**shape, num_mapping_layers=2, style_dim=16)),
            Discriminator(DiscriminatorConfig(**shape)),
            Inverter(InverterConfig(**shape, style_dim=16)),
            Encoder(EncoderConfig(image_size=32, width=8, projection_dim=16)),
        )
    for network in networks:
        save_model(network, folder / f"{type(network).__name__.lower()}.safetensors")
    return str(folder)
