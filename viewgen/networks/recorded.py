"""Weights of a small network as text, which settings record in the place of a file."""

from __future__ import annotations

from base64 import b64decode, b64encode
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from viewgen.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from viewgen.networks.files import Kind

__all__ = ["packed", "packed_network", "unpacked"]


def packed(path: Path) -> str:
    """Return the contents of a weights file in base64."""
    return b64encode(path.read_bytes()).decode()


def packed_network(network: nn.Module, *, half: bool = False) -> str:
    """Return the contents that the weights file of a network would have, in base64.

    Args:
        network: a network that `viewgen.networks.files.save_model` stores.
        half: True for weights in half precision.
    """
    import torch

    from viewgen.networks.files import save_model

    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_model(network, path, dtype=torch.float16 if half else torch.float32)
        return packed(path)


@lru_cache(maxsize=8)
def unpacked(text: str, kind: Kind) -> Any:
    """Return the network of a text of `packed`, frozen, on the CPU; it is shared, so copy it to move it.

    Raises:
        ModelError, CorruptDataError: it holds no network of that kind, or a damaged one.
    """
    from viewgen.networks.files import load_model

    try:
        contents = b64decode(text, validate=True)
    except ValueError as error:
        raise ModelError(f"the recorded weights of a {kind} are no base64: {error}") from error
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"recorded-{kind}.safetensors"
        path.write_bytes(contents)
        return load_model(path, kind)
