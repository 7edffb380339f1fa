"""Expert transform: the hand-made augmentations of SimCLR, InfoMin and BYOL, batched, on the images' device.

random-resized-crop · horizontal flip · colour jitter · Gaussian blur · RandAugment · grayscale · solarise ·
covered squares. Blur, RandAugment, solarise and squares are off by default. The parameters of each image come
from one row of uniform numbers, so a view is a pure function of (image, row). The row comes from a batch
generator in training and from an address in a cache. Every operation but the squares equals torchvision's or
Pillow's with the same parameters.

Blur and grayscale commute, so this order is SimCLR's (colours, then blur), BYOL's (… blur, solarise) and
InfoMin's (… blur, RandAugment, grayscale).

Shape legend: B batch, C colour channels, H, W space.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen, Kornblith, Norouzi and
    Hinton, 2020, https://arxiv.org/abs/2002.05709
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    https://arxiv.org/abs/2005.10243
    Bootstrap Your Own Latent, Grill et al., 2020, https://arxiv.org/abs/2006.07733
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.views.blur import gaussian_blur
from viewgen.views.color_jitter import ORDERS, color_jitter, to_gray
from viewgen.views.expert_settings import ExpertConfig, check_mask_side
from viewgen.views.randaugment import NUM_DRAWN, randaugment, solarize
from viewgen.views.rows import change_rows
from viewgen.views.square_masks import proportional_sides, square_masks

__all__ = ["NUM_UNIFORMS", "expert_uniforms", "expert_views", "num_uniforms"]

CROP_ATTEMPTS = 10
# crop attempts (area, ratio), crop position (2), flip, jitter?, four jitter strengths, order, grayscale
NUM_UNIFORMS = 2 * CROP_ATTEMPTS + 2 + 1 + 1 + 4 + 1 + 1


def _optional(config: ExpertConfig) -> dict[str, int]:
    """Return operation → uniform numbers of a view, for the operations outside of `NUM_UNIFORMS`."""
    counts = {
        "blur": 2 if config.blur_probability else 0,  # applied?, σ
        "randaugment": NUM_DRAWN * config.randaugment_ops,
        "solarize": 1 if config.solarize_probability else 0,
        "mask": 2 + 3 * config.mask_count[1] if config.mask_probability else 0,  # applied?, squares
    }
    return {operation: count for operation, count in counts.items() if count}


def num_uniforms(config: ExpertConfig) -> int:
    """Return how many uniform numbers a view takes; `NUM_UNIFORMS` without what is off by default."""
    return NUM_UNIFORMS + sum(_optional(config).values())


def expert_uniforms(draw: Callable[[str, int], Tensor], name: str, config: ExpertConfig) -> Tensor:
    """Return the uniform numbers of views, `(..., num_uniforms(config))`.

    Blur, RandAugment, solarise and squares have addresses of their own: none changes the others' numbers.

    Args:
        draw: address, count → numbers in [0, 1), `(..., count)`.
        name: address of the crop's, flip's, jitter's and grayscale's numbers.
        config: strength of the transform.
    """
    parts = [draw(name, NUM_UNIFORMS)]
    parts += [draw(f"{name} {operation}", count) for operation, count in _optional(config).items()]
    return torch.cat(parts, dim=-1)


def expert_views(images: Tensor, uniforms: Tensor, config: ExpertConfig) -> Tensor:
    """Transform a batch of images, each with its own parameters.

    Args:
        images: model images `(B, 3, H, W)` in [−1, 1].
        uniforms: numbers in [0, 1), `(B, num_uniforms(config))`, as from `expert_uniforms`.
        config: strength of the transform.

    Returns:
        views, `(B, 3, H, W)` in [−1, 1].
    """
    # what is drawn on the CPU is decided there: no branch waits for the images' device
    optional = _optional(config)
    parts = uniforms.to(torch.float32).split([NUM_UNIFORMS, *optional.values()], dim=1)
    u, extra = parts[0], dict(zip(optional, parts[1:], strict=True))
    device = images.device
    crops, position, flip, jitter, strengths, order, gray = u.split(
        [2 * CROP_ATTEMPTS, 2, 1, 1, 4, 1, 1], dim=1
    )
    height, width = images.shape[2:]
    box_B4 = crop_boxes(crops, position, height, width, config)
    x = resized_crop(images, box_B4.to(device), (flip[:, 0] < config.flip_probability).to(device))
    x = (x + 1) / 2
    jittered = jitter[:, 0] < config.jitter_probability
    permutation = ORDERS.to(u.device)[(order[:, 0] * len(ORDERS)).long()]
    x = change_rows(x, jittered, lambda y, i: color_jitter(y, strengths[i], permutation[i], config))
    if "blur" in extra:
        applied, strength = extra["blur"].unbind(dim=1)
        low, high = config.blur_sigma
        sigma = low + (high - low) * strength
        num_taps = config.blur_taps(height, width)
        blurred = applied < config.blur_probability
        x = change_rows(x, blurred, lambda y, i: gaussian_blur(y, sigma[i], num_taps))
    if "randaugment" in extra:
        x = randaugment(x, extra["randaugment"], config)
    grayed = gray[:, 0] < config.grayscale_probability
    x = change_rows(x, grayed, lambda y, _: to_gray(y).expand(-1, 3, -1, -1))
    if "solarize" in extra:
        solarized = extra["solarize"][:, 0] < config.solarize_probability
        x = change_rows(x, solarized, lambda y, _: solarize(y, config.solarize_threshold))
    if "mask" in extra:
        masked = extra["mask"][:, 0] < config.mask_probability
        x = change_rows(x, masked, lambda y, i: cover_squares(y, extra["mask"][i, 1:], config))
    return x * 2 - 1


def cover_squares(x: Tensor, uniforms: Tensor, config: ExpertConfig) -> Tensor:
    """Return images with some squares of one colour.

    Args:
        x: images in [0, 1], `(B, 3, H, W)`, H = W.
        uniforms: numbers in [0, 1), `(B, 1 + 3·S)`, of at most S squares.
        config: number, sides and colour of the squares.

    Raises:
        UsageError: the largest side is larger than the images.
    """
    size = x.shape[-1]
    check_mask_side(config.mask_side, size)
    sides = config.mask_side or proportional_sides(size)
    masks = square_masks(uniforms, config.mask_count, sides, size)[:, None].to(x.device)
    return torch.where(masks, x.new_tensor(config.mask_fill).view(1, 3, 1, 1), x)


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
