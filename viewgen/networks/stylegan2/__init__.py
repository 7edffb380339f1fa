"""StyleGAN2 (Karras et al., 2020): our own networks, compatible with the public checkpoints."""

from viewgen.networks.stylegan2.discriminator import Discriminator, DiscriminatorConfig
from viewgen.networks.stylegan2.generator import Generator, GeneratorConfig, num_style_layers, public_channels

__all__ = [
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "num_style_layers",
    "public_channels",
]
