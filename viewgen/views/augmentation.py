"""Expert transform: the hand-made augmentations of SimCLR, batched, on the images' device.

random-resized-crop(0.2, 1) · horizontal flip · colour jitter (0.4, 0.4, 0.4, 0.1) with p 0.8 · grayscale with
p 0.2. The parameters of each image come from one row of uniform numbers, so a view is a pure function of
(image, row). The row comes from a batch generator in training and from an address in a cache. Every operation
equals torchvision's with the same parameters.

Shape legend: B batch, C colour channels, H, W space.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen, Kornblith, Norouzi and
    Hinton, 2020, https://arxiv.org/abs/2002.05709
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.views.expert_settings import ExpertConfig

__all__ = ["NUM_UNIFORMS", "expert_views"]

CROP_ATTEMPTS = 10
# crop attempts (area, ratio), crop position (2), flip, jitter?, four jitter strengths, order, grayscale
NUM_UNIFORMS = 2 * CROP_ATTEMPTS + 2 + 1 + 1 + 4 + 1 + 1
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
ORDERS = torch.tensor(list(itertools.permutations(range(4))))


def expert_views(images: Tensor, uniforms: Tensor, config: ExpertConfig) -> Tensor:
    """Transform a batch of images, each with its own parameters.

    Args:
        images: model images `(B, 3, H, W)` in [−1, 1].
        uniforms: numbers in [0, 1), `(B, NUM_UNIFORMS)`.
        config: strength of the transform.

    Returns:
        views, `(B, 3, H, W)` in [−1, 1].
    """
    # what is drawn on the CPU is decided there: no branch waits for the images' device
    u = uniforms.to(torch.float32)
    device = images.device
    crops, position, flip, jitter, strengths, order, gray = u.split(
        [2 * CROP_ATTEMPTS, 2, 1, 1, 4, 1, 1], dim=1
    )
    height, width = images.shape[2:]
    box_B4 = crop_boxes(crops, position, height, width, config)
    x = resized_crop(images, box_B4.to(device), (flip[:, 0] < config.flip_probability).to(device))
    x = (x + 1) / 2
    jittered = (jitter[:, 0] < config.jitter_probability).nonzero()[:, 0]
    if len(jittered):
        permutation = ORDERS.to(u.device)[(order[jittered, 0] * len(ORDERS)).long()]
        rows = jittered.to(device)
        x = x.index_copy(
            0, rows, color_jitter(x.index_select(0, rows), strengths[jittered], permutation, config)
        )
    grayed = (gray[:, 0] < config.grayscale_probability).nonzero()[:, 0]
    if len(grayed):
        rows = grayed.to(device)
        x = x.index_copy(0, rows, to_gray(x.index_select(0, rows)).expand(-1, 3, -1, -1))
    return x * 2 - 1


def crop_boxes(crops: Tensor, position: Tensor, height: int, width: int, config: ExpertConfig) -> Tensor:
    """Return crop boxes (top, left, height, width) in pixels, `(B, 4)`.

    As in torchvision's RandomResizedCrop: the first of ten draws that fits, otherwise a central crop.

    Args:
        crops: uniform numbers, `(B, 2·CROP_ATTEMPTS)`.
        position: uniform numbers, `(B, 2)`.
        height: height of the images in pixels.
        width: width of the images in pixels.
        config: ranges of the parameters.
    """
    attempts = crops.unflatten(1, (CROP_ATTEMPTS, 2))
    low, high = config.crop_scale
    area = (low + (high - low) * attempts[..., 0]) * (height * width)
    log_low, log_high = (math.log(ratio) for ratio in config.crop_ratio)
    ratio = torch.exp(log_low + (log_high - log_low) * attempts[..., 1])
    w_BA = torch.sqrt(area * ratio).round()
    h_BA = torch.sqrt(area / ratio).round()
    fits = (w_BA > 0) & (w_BA <= width) & (h_BA > 0) & (h_BA <= height)
    first = fits.long().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    w = torch.where(found, w_BA.gather(1, first)[:, 0], float(width))
    h = torch.where(found, h_BA.gather(1, first)[:, 0], float(height))
    top = torch.floor(position[:, 0] * (height - h + 1))
    left = torch.floor(position[:, 1] * (width - w + 1))
    return torch.stack([top, left, h, w], dim=1)


def resized_crop(images: Tensor, box_B4: Tensor, flipped: Tensor) -> Tensor:
    """Cut a box out of each image and resize it (bilinear) to the image's own size; mirror some.

    Args:
        images: `(B, C, H, W)`.
        box_B4: top, left, height, width in pixels.
        flipped: True for images to mirror left to right, bool `(B,)`.
    """
    height, width = images.shape[2:]
    top, left, h, w = box_B4.unbind(dim=1)

    def centres(start: Tensor, extent: Tensor, size: int) -> Tensor:
        # pixel coordinates of the output's centres; clamped to the box, so that no pixel outside is read
        step = (torch.arange(size, device=images.device) + 0.5) / size
        at = start[:, None] + step * extent[:, None] - 0.5
        at = torch.minimum(torch.maximum(at, start[:, None]), (start + extent - 1)[:, None])
        return (2 * at + 1) / size - 1

    y = centres(top, h, height)
    x = centres(left, w, width)
    x = torch.where(flipped[:, None], x.flip(1), x)
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    return F.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


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
