"""Networks that compute in bfloat16 where that is fast, and in float32 where it matters.

Convolutions, and the activations between them, are bfloat16: 8 bits of mantissa, float32's range. In float32
stay the codes, the modulation and demodulation of the generator's styles, the sum of its colour images, the
linear layers after the convolutions of encoder and inverter, the normalisation of projections, and therefore
every distance. What is left is an error of about 1 % of an image's range, so that distances that count are
computed again with the float32 networks (`viewgen.wsearch`).
"""

import copy
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from viewgen.errors import ModelError, UsageError
from viewgen.networks.encoder import Encoder
from viewgen.networks.inverter import Inverter
from viewgen.networks.stylegan2 import Generator
from viewgen.networks.stylegan2.layers import FusedLeakyReLU, ModulatedConv2d

__all__ = ["PRECISIONS", "Precision", "at_precision", "check_precision", "native_bfloat16"]

Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16")
Network = TypeVar("Network", bound=nn.Module)

# The convolutional part of each network; what follows it stays in float32.
_TRUNKS = {Encoder: "backbone", Inverter: "trunk"}


def check_precision(precision: str) -> None:
    """Refuse what is no precision.

    Raises:
        UsageError: it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")


class _Bfloat16(nn.Module):
    """A network in bfloat16 between float32 inputs and float32 outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, …)` as the network does."""
        y: Tensor = self.network(x.to(torch.bfloat16))
        return y.to(x.dtype)


def at_precision(network: Network, precision: Precision) -> Network:
    """Return a network for inference at `precision`: itself for ``"float32"``, otherwise a copy.

    Args:
        network: a `Generator`, `Encoder` or `Inverter` with frozen weights.
        precision: of its convolutions.

    Raises:
        UsageError: an unknown precision.
        ModelError: a network of another kind.
    """
    check_precision(precision)
    if precision == "float32":
        return network
    trunk = next((name for kind, name in _TRUNKS.items() if isinstance(network, kind)), None)
    if trunk is None and not isinstance(network, Generator):
        raise ModelError(f"a {type(network).__name__} does not compute in {precision}")
    low = copy.deepcopy(network)
    if trunk is not None:
        setattr(low, trunk, _Bfloat16(getattr(low, trunk)))
        return low.requires_grad_(False)
    for module in low.modules():
        if isinstance(module, ModulatedConv2d):
            # the gain goes into the weight before that is rounded
            weight = (module.weight * module.gain).to(torch.bfloat16)
            module.weight, module.gain = nn.Parameter(weight), 1.0
        elif isinstance(module, FusedLeakyReLU):
            module.bias = nn.Parameter(module.bias.to(torch.bfloat16))
    return low.requires_grad_(False)


def native_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Return whether the device multiplies bfloat16 in hardware; elsewhere it is slower than float32.

    Of a processor only Linux tells; others count as without.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    file = Path("/proc/cpuinfo")
    words = set(file.read_text().split()) if file.is_file() else set()
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
