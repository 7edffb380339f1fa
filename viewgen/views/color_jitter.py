"""Colour jitter and grayscale, batched, each image with its own parameters; equal to torchvision's.

Shape legend: B batch, H, W space.
"""

import itertools

import torch
from torch import Tensor

from viewgen.views.expert_settings import ExpertConfig

__all__ = ["ORDERS", "color_jitter", "rotate_hue", "to_gray"]

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
ORDERS = torch.tensor(list(itertools.permutations(range(4))))


def to_gray(x: Tensor) -> Tensor:
    """Luma of images `(B, 3, H, W)`, `(B, 1, H, W)`."""
    weights = torch.tensor(GRAY_WEIGHTS, device=x.device, dtype=x.dtype)
    return torch.einsum("bchw,c->bhw", x, weights)[:, None]


def color_jitter(x: Tensor, strengths: Tensor, permutation: Tensor, config: ExpertConfig) -> Tensor:
    """Change brightness, contrast, saturation and hue, in a separate order for each image.

    Args:
        x: images in [0, 1], `(B, 3, H, W)`.
        strengths: uniform numbers, `(B, 4)`.
        permutation: order of the four operations for each image, `(B, 4)`.
        config: ranges of the parameters.
    """
    span = torch.tensor([config.brightness, config.contrast, config.saturation], device=strengths.device)
    low = (1 - span).clamp_min(0)
    factors = low + (1 + span - low) * strengths[:, :3]
    turns = (2 * strengths[:, 3] - 1) * config.hue
    x = x.clone()
    for place in range(4):
        for operation in range(4):
            chosen = (permutation[:, place] == operation).nonzero()[:, 0]
            if not len(chosen):
                continue
            rows = chosen.to(x.device)
            y = x.index_select(0, rows)
            factor = factors[chosen, min(operation, 2)][:, None, None, None].to(x.device)
            if operation == 0:
                y = y * factor
            elif operation == 1:
                y = torch.lerp(to_gray(y).mean(dim=(1, 2, 3), keepdim=True), y, factor)
            elif operation == 2:
                y = torch.lerp(to_gray(y), y, factor)
            else:
                y = rotate_hue(y, turns[chosen].to(x.device))
            x.index_copy_(0, rows, y.clamp(0, 1))
    return x


def rotate_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of images in [0, 1], `(B, 3, H, W)`, in HSV space by `turns`, `(B,)`."""
    value, argmax = x.max(dim=1)
    chroma = value - x.amin(dim=1)
    safe = chroma.clamp_min(1e-12)
    red, green, blue = x.unbind(dim=1)
    hue = torch.where(
        argmax == 0,
        (green - blue) / safe,
        torch.where(argmax == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns[:, None, None]
    # channel n of HSV → RGB: V − C·max(0, min(k, 4 − k, 1)), k = (n + H/60°) mod 6, n = 5, 3, 1
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device)[None, :, None, None]
    k = (offsets + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
