"""Mixed precision: bfloat16 convolutions, float32 elsewhere.

Convolutions and the activations between them are bfloat16: 8 bits of mantissa, float32's range. The following
stay in float32: the codes, the modulation and demodulation of the generator's styles, the sum of its colour
images, the linear layers after the convolutions of encoder and inverter, the normalisation of projections,
and therefore every distance. The remaining error is about 1 % of an image's range, so the distances of stored
views are computed again with the float32 networks (`viewgen.views.wsearch.source`).
"""

from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from viewgen.errors import ModelError, UsageError

__all__ = ["PRECISIONS", "Bfloat16", "Precision", "at_precision", "check_precision", "native_bfloat16"]

Precision = Literal["float32", "bfloat16"]
PRECISIONS = ("float32", "bfloat16")
Network = TypeVar("Network")


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        UsageError: it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")


class Bfloat16(nn.Module):
    """A network in bfloat16 between float32 inputs and float32 outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, …)` with the network."""
        y: Tensor = self.network(x.to(torch.bfloat16))
        return y.to(x.dtype)


def at_precision(network: Network, precision: Precision) -> Network:
    """Return a network for inference at `precision`: itself for ``"float32"``, otherwise a copy.

    Args:
        network: frozen network; for ``"bfloat16"`` it must have a method `in_bfloat16`.
        precision: precision of the network's convolutions.

    Raises:
        UsageError: an unknown precision.
        ModelError: the network has no method `in_bfloat16`.
    """
    check_precision(precision)
    if precision == "float32":
        return network
    lowered = getattr(network, "in_bfloat16", None)
    if lowered is None:
        raise ModelError(f"a {type(network).__name__} does not compute in {precision}")
    return cast(Network, lowered())


def native_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Return True if the device multiplies bfloat16 in hardware; otherwise it is slower than float32.

    For a CPU this is known on Linux only; on other systems the result is False.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    file = Path("/proc/cpuinfo")
    words = set(file.read_text().split()) if file.is_file() else set()
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
