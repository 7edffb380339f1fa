"""W⁺ as a code: StyleGAN2's generator, with the inverter as the start of its codes.

References:
    In-Domain GAN Inversion for Real Image Editing, Zhu, Shen, Zhao and Zhou, 2020,
    https://arxiv.org/abs/2004.00049
"""

import copy
from collections.abc import Mapping
from typing import ClassVar, Self

from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.networks.inverter import Inverter
from viewgen.networks.stylegan2.generator import Generator, GeneratorConfig
from viewgen.registry import Entry

__all__ = ["ENTRY", "WPlus"]


class WPlus(nn.Module):
    """The codes of a StyleGAN2 generator, started by an inverter.

    Args:
        generator: StyleGAN2 generator.
        inverter: inverter trained for this generator.

    Raises:
        ModelError: generator and inverter have different classes.
    """

    compiled: ClassVar[Mapping[str, str]] = {"decode": "generator", "start": "inverter"}

    def __init__(self, generator: Generator, inverter: Inverter) -> None:
        super().__init__()
        num_classes = generator.config.num_classes
        if inverter.config.num_classes != num_classes:
            raise ModelError(
                f"the generator has {num_classes} classes, the inverter {inverter.config.num_classes}; train "
                "an inverter for this generator (viewgen pretrain inverter)"
            )
        self.generator, self.inverter = generator, inverter
        self.code_shape = generator.code_shape
        self.image_size, self.channels = generator.image_size, generator.channels
        self.num_classes = num_classes
        self.noise_dim = generator.noise_dim

    @property
    def code_scale(self) -> Tensor:
        """Ones: see `Generator.code_scale`."""
        return self.generator.code_scale

    def decode(self, codes: Tensor) -> Tensor:
        """Map codes `(B, L, D)` to images `(B, 3, H, W)`."""
        return self.generator.decode(codes)

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the inverter's codes, `(B, L, D)`."""
        codes: Tensor = self.inverter(images, labels)
        return codes

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map normal noise `(B, noise_dim)` to images `(B, 3, H, W)`."""
        return self.generator.sample(noise, labels)

    def in_bfloat16(self) -> Self:
        """Return a copy whose networks convolve in bfloat16."""
        low = copy.copy(self)
        low._modules = {
            "generator": self.generator.in_bfloat16(),
            "inverter": self.inverter.in_bfloat16(),
        }
        return low


ENTRY = Entry(
    name="stylegan2",
    summary="StyleGAN2; codes are W⁺, started by an inverter",
    settings=GeneratorConfig,
    build=Generator,
    needs=frozenset({"inverter", "discriminator"}),
)
