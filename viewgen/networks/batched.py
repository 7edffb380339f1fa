"""Evaluation of networks on many images, always the same number at once.

Networks round differently at different batch sizes, and a search that starts at its anchor amplifies a
difference in the last bit to another view. The number of images evaluated at once therefore depends only on
the device and the image size.
"""

import torch
from torch import Tensor

from viewgen.images import to_model, to_storage
from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator
from viewgen.optimise.slots import equal_parts

__all__ = ["decoded", "images_at_once", "project", "render"]

# Images (or codes) that pass through the networks at once, at up to 32 px.
IMAGES_AT_ONCE = {"cpu": 32, "cuda": 256}


def images_at_once(image_size: int, device: torch.device) -> int:
    """Return the number of images of `image_size` px that are evaluated at once on `device`."""
    at_once = IMAGES_AT_ONCE.get(device.type, IMAGES_AT_ONCE["cpu"])
    return max(1, min(at_once, at_once * 32**2 // image_size**2))


@torch.no_grad()
def render(generator: Generator, codes: Tensor, batch_size: int) -> Tensor:
    """Decode codes `(B, ...)` to storage images `(B, C, H, W)`, uint8, always `batch_size` at once."""
    parts = equal_parts(codes, batch_size)
    return torch.cat([to_storage(generator.decode(part))[:kept] for part, kept in parts])


def decoded(generator: Generator, codes: Tensor) -> Tensor:
    """Decode codes `(V, B, ...)` to model images `(V, B, C, H, W)`, all at once and not rounded."""
    images = generator.decode(codes.flatten(0, 1)).clamp(-1, 1)
    return images.view(*codes.shape[:2], *images.shape[1:])


@torch.no_grad()
def project(encoder: Encoder, images: Tensor, batch_size: int) -> Tensor:
    """Return projections `(B, K)`, float32, of storage images `(B, 3, H, W)`, always `batch_size` at once."""
    parts = equal_parts(images, batch_size)
    return torch.cat([encoder(to_model(part))[:kept] for part, kept in parts])
