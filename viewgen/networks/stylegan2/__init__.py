"""StyleGAN2: networks that are compatible with the public checkpoints.

References:
    Analyzing and Improving the Image Quality of StyleGAN, Karras, Laine, Aittala, Hellsten, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/1912.04958
"""

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
