"""Addressed randomness: a draw is a function of (seed, image, view), never of earlier draws.

The numbers are therefore the same for any batch size, worker count, order or resume.
"""

import hashlib

import torch
from torch import Tensor

__all__ = ["addressed_generator", "addressed_normal", "addressed_seed"]


def addressed_seed(*address: int | str) -> int:
    """Return a 63-bit seed that depends on every part of `address` (for example seed, stage, image, view).

    A NumPy integer gives the same seed as the equal Python integer.
    """
    text = "\x1f".join(f"{'str' if isinstance(part, str) else 'int'}:{part}" for part in address)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def addressed_generator(*address: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `address`."""
    return torch.Generator().manual_seed(addressed_seed(*address))


def addressed_normal(shape: tuple[int, ...], *address: int | str) -> Tensor:
    """Return standard normal numbers of `shape`, float32 on the CPU, that depend on `address` alone."""
    return torch.randn(shape, generator=addressed_generator(*address))
