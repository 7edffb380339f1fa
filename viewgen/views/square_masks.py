"""Masks of squares that cover parts of images, for inpainting and as an augmentation.

Their number is uniform in a range, and so are their side, in whole pixels, and their place in the image.

Shape legend: H = W side of an image, S squares.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, appendix C,
    https://arxiv.org/abs/2012.09962
"""

import torch
from torch import Tensor

__all__ = ["proportional_sides", "square_masks"]

# of an image of 64 px, Colorful-MNIST's; in proportion at other sizes
SIDES_AT_64 = (10, 16)


def proportional_sides(image_size: int) -> tuple[int, int]:
    """Return the smallest and the largest side of a square, in pixels, 10 and 16 at 64 px."""
    low, high = (max(1, round(side * image_size / 64)) for side in SIDES_AT_64)
    return low, high


def square_masks(numbers: Tensor, count: tuple[int, int], side: tuple[int, int], image_size: int) -> Tensor:
    """Return masks of squares, bool `(…, H, W)`, True where an image is covered.

    Args:
        numbers: uniform numbers in [0, 1), `(…, 1 + 3·S)`: the number of squares, then side, top and left of
            each of the S = `count[1]` squares.
        count: smallest and largest number of squares.
        side: smallest and largest side, in pixels.
        image_size: H = W.
    """
    used = count[0] + (numbers[..., 0] * (count[1] - count[0] + 1)).floor()
    drawn = numbers[..., 1:].unflatten(-1, (count[1], 3))
    sides = side[0] + (drawn[..., 0] * (side[1] - side[0] + 1)).floor()
    corners = (drawn[..., 1:] * (image_size - sides + 1)[..., None]).floor()
    pixels = torch.arange(image_size, device=numbers.device)
    inside = (pixels >= corners[..., None]) & (pixels < (corners + sides[..., None])[..., None])
    chosen = torch.arange(count[1], device=numbers.device) < used[..., None]
    squares = inside[..., 0, :, None] & inside[..., 1, None, :] & chosen[..., None, None]
    masks: Tensor = squares.any(dim=-3)
    return masks
