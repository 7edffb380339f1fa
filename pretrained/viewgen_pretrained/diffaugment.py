"""DiffAugment: differentiable augmentation of the discriminator's input, for small data sets.

Real and generated images undergo the same random transforms. The discriminator therefore cannot memorise a
small set, and the generator does not learn the transforms.

References:
    Differentiable Augmentation for Data-Efficient GAN Training, Zhao, Liu, Lin, Zhu and Han, 2020,
    https://arxiv.org/abs/2006.10738
"""

import torch
from torch import Tensor

from viewgen.errors import UsageError

__all__ = ["POLICIES", "diffaugment"]


def brightness(x: Tensor) -> Tensor:
    """Shift each image by up to ±0.5 of the model range's half."""
    return x + (torch.rand(len(x), 1, 1, 1, device=x.device) - 0.5)


def color(x: Tensor) -> Tensor:
    """Change brightness, saturation (0 to 2 times) and contrast (0.5 to 1.5 times)."""
    x = brightness(x)
    mean = x.mean(dim=1, keepdim=True)
    x = mean + (x - mean) * (torch.rand(len(x), 1, 1, 1, device=x.device) * 2)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (torch.rand(len(x), 1, 1, 1, device=x.device) + 0.5)


def translation(x: Tensor) -> Tensor:
    """Shift each image by up to 1/8 of its side; border pixels are repeated."""
    size = x.shape[-1]
    reach = size // 8
    shift_B2 = torch.randint(-reach, reach + 1, (len(x), 2), device=x.device)
    at = torch.arange(size, device=x.device)
    rows = (at + shift_B2[:, :1]).clamp(0, size - 1)
    columns = (at + shift_B2[:, 1:]).clamp(0, size - 1)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor) -> Tensor:
    """Grey out a random square of half the side."""
    size = x.shape[-1]
    centre_B2 = torch.randint(0, size, (len(x), 2), device=x.device)
    at = torch.arange(size, device=x.device)
    offset = at - centre_B2[..., None]
    inside = (offset >= -(size // 4)) & (offset < size // 4)
    mask = inside[:, 0, :, None] & inside[:, 1, None, :]
    return x * (~mask)[:, None].to(x.dtype)


POLICIES = {"brightness": brightness, "color": color, "translation": translation, "cutout": cutout}


def diffaugment(x: Tensor, policy: tuple[str, ...], probability: float | None = None) -> Tensor:
    """Apply the named transforms to model images `(B, 3, H, W)`, with independent draws per image.

    Args:
        x: model images, `(B, 3, H, W)`.
        policy: names of `POLICIES`.
        probability: probability that a transform is applied, independent per transform and image; None
            applies all.

    Raises:
        UsageError: a name is unknown.
    """
    for name in policy:
        if name not in POLICIES:
            raise UsageError(f"no augmentation {name!r} (known: {', '.join(POLICIES)})")
        changed = POLICIES[name](x)
        if probability is not None:
            chosen = torch.rand(len(x), 1, 1, 1, device=x.device) < probability
            changed = torch.where(chosen, changed, x)
        x = changed
    return x
