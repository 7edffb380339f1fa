"""The two image conventions and the only converters between them.

- storage: uint8, channel-first, 0 to 255;
- model: floating point, channel-first, −1 to 1.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["to_model", "to_storage"]


def to_model(
    images: Tensor | np.ndarray[Any, Any],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Convert storage images to model images.

    Args:
        images: uint8, `(..., C, H, W)`, 0 to 255.
        device: device of the result; by default that of `images`.
        dtype: floating-point type of the result.

    Returns:
        `(..., C, H, W)` in [−1, 1]: 0 ↦ −1, 255 ↦ 1.
    """
    if isinstance(images, np.ndarray):
        tensor = torch.from_numpy(images if images.flags.writeable else images.copy())
    else:
        tensor = images
    if tensor.dtype != torch.uint8:
        raise TypeError(f"to_model takes uint8 images, got {tensor.dtype}")
    return tensor.to(device=device).to(dtype).div_(127.5).sub_(1)


def to_storage(images: Tensor) -> Tensor:
    """Convert model images `(..., C, H, W)` in [−1, 1] (clamped) to uint8, rounding to the nearest level."""
    return images.detach().float().clamp(-1, 1).add(1).mul(127.5).round_().to(torch.uint8)
