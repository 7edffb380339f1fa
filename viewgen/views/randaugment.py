"""RandAugment as in InfoMin's recipe, batched: operations drawn at random, a magnitude for each image.

Of the 15 operations, each of `randaugment_ops` steps draws one for every image and applies it with a
probability. The magnitude is normal, clipped to [0, 10]; rotations, shears and translations have a random
sign. `OPERATIONS` gives the parameter of each in Pillow's units. All equal Pillow's on images of 256 levels;
between operations nothing is rounded to levels.

The authors' code interpolates rotations, shears and translations bilinearly or bicubically at random; here it
is always bilinear.

Shape legend: B batch, H, W space, R rows that an operation changes.

References:
    RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, Cubuk, Zoph, Shlens and
    Le, 2019, https://arxiv.org/abs/1909.13719
    What Makes for Good Views for Contrastive Learning?, Tian et al., 2020,
    https://arxiv.org/abs/2005.10243; the operations' ranges are those of its code,
    https://github.com/HobbitLong/PyContrast
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.views.color_jitter import to_gray
from viewgen.views.expert_settings import MAX_MAGNITUDE, ExpertConfig
from viewgen.views.rows import change_rows

__all__ = ["NUM_DRAWN", "OPERATIONS", "Operation", "affine", "randaugment", "solarize"]

# uniform numbers of a step: operation, applied?, magnitude, sign
NUM_DRAWN = 4
LEVELS = 255
SOLARIZE_ADD_BELOW = 128


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of RandAugment.

    Attributes:
        parameter: magnitudes in [0, 1], `(R,)` → parameters, `(R,)`.
        apply: images in [0, 1] `(R, 3, H, W)`, parameters → images.
        matrix: parameters, height and width → matrices `(R, 2, 3)` for `affine`, in the place of `apply`;
            the parameter's sign is random.
    """

    parameter: Callable[[Tensor], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor] | None = None
    matrix: Callable[[Tensor, torch.Size], Tensor] | None = None


def randaugment(x: Tensor, uniforms: Tensor, config: ExpertConfig) -> Tensor:
    """Apply `randaugment_ops` random operations to each image.

    Args:
        x: images in [0, 1], `(B, 3, H, W)`.
        uniforms: numbers in [0, 1), `(B, NUM_DRAWN·randaugment_ops)`, on the CPU.
        config: number of operations, magnitude, probability and fill.
    """
    for step_B4 in uniforms.unflatten(1, (-1, NUM_DRAWN)).unbind(dim=1):
        which, applied, magnitude, sign = step_B4.unbind(dim=1)
        drawn = (which * len(OPERATIONS)).long()
        applied = applied < config.randaugment_probability
        normal = math.sqrt(2) * torch.erfinv((2 * magnitude - 1).clamp_min(-1 + 1e-7))
        magnitude = config.randaugment_magnitude + config.randaugment_deviation * normal
        share = magnitude.clamp(0, MAX_MAGNITUDE) / MAX_MAGNITUDE
        sign = torch.where(sign < 0.5, -1.0, 1.0)
        matrices = torch.zeros(len(x), 2, 3)
        moved = torch.zeros(len(x), dtype=torch.bool)
        for number, operation in enumerate(OPERATIONS.values()):
            chosen = applied & (drawn == number)
            parameter = operation.parameter(share)
            if operation.matrix is not None:
                moved |= chosen
                matrices[chosen] = operation.matrix((parameter * sign)[chosen], x.shape[-2:])
            elif operation.apply is not None:
                x = change_rows(x, chosen, partial(_applied, operation.apply, parameter))
        x = change_rows(x, moved, partial(_moved, matrices, config.randaugment_fill))
    return x


def _applied(apply: Callable[[Tensor, Tensor], Tensor], parameter: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    return apply(x, parameter[rows].to(x.device))


def _moved(matrices: Tensor, fill: tuple[float, float, float], x: Tensor, rows: Tensor) -> Tensor:
    return affine(x, matrices[rows], fill)


def affine(x: Tensor, matrix_R23: Tensor, fill: tuple[float, float, float]) -> Tensor:
    """Resample images bilinearly; as in Pillow, what comes from outside of the image has the fill's colour.

    Args:
        x: images, `(R, 3, H, W)`.
        matrix_R23: maps from output to input positions in pixels, (x, y, 1) → (x, y); a pixel's centre is at
            half numbers.
        fill: colour, red, green, blue.
    """
    size_HW = x.shape[2:]
    matrix = matrix_R23.to(x.device, x.dtype)
    y_H, x_W = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5 for size in size_HW)
    x_x, x_y, x_1, y_x, y_y, y_1 = matrix.flatten(1)[:, :, None, None].unbind(dim=1)
    at_x = x_x * x_W + (x_y * y_H[:, None] + x_1)
    at_y = y_x * x_W + (y_y * y_H[:, None] + y_1)
    inside = (at_x >= 0) & (at_x < size_HW[1]) & (at_y >= 0) & (at_y < size_HW[0])
    grid = torch.stack([2 * at_x / size_HW[1] - 1, 2 * at_y / size_HW[0] - 1], dim=-1)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    outside = torch.tensor(fill, device=x.device, dtype=x.dtype)[:, None, None]
    return torch.where(inside[:, None], moved, outside)


def _rotation(degrees: Tensor, size: torch.Size) -> Tensor:
    """Counter-clockwise about the centre."""
    height, width = size
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _shear_x(slope: Tensor, size: torch.Size) -> Tensor:
    return _matrix(1, slope, 0, 0, 1, 0)


def _shear_y(slope: Tensor, size: torch.Size) -> Tensor:
    return _matrix(1, 0, 0, slope, 1, 0)


def _translation_x(share: Tensor, size: torch.Size) -> Tensor:
    return _matrix(1, 0, share * size[1], 0, 1, 0)


def _translation_y(share: Tensor, size: torch.Size) -> Tensor:
    return _matrix(1, 0, 0, 0, 1, share * size[0])


def _matrix(*entries: Tensor | float) -> Tensor:
    """Return matrices `(R, 2, 3)` of entries `(R,)`, row by row."""
    count = next(len(entry) for entry in entries if isinstance(entry, Tensor))
    filled = [torch.as_tensor(entry, dtype=torch.float32).expand(count) for entry in entries]
    matrices: Tensor = torch.stack(filled, dim=1).unflatten(1, (2, 3))
    return matrices


def solarize(x: Tensor, threshold: Tensor | float) -> Tensor:
    """Invert the values that reach a threshold."""
    return torch.where(x >= threshold, 1 - x, x)


def _autocontrast(x: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; a channel of one value stays."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-12), x)


def _equalize(x: Tensor, _: Tensor) -> Tensor:
    """Equalise the histogram of each channel's 256 levels."""
    levels = _levels(x).long().flatten(2)
    ones = torch.ones_like(levels)
    counts = torch.zeros(*levels.shape[:2], LEVELS + 1, dtype=torch.int64, device=x.device)
    counts = counts.scatter_add(2, levels, ones)
    highest = levels.amax(dim=2, keepdim=True)
    # Pillow leaves the pixels of the highest level out of the step
    step = (levels.shape[2] - counts.gather(2, highest)) // LEVELS
    below = counts.cumsum(dim=2) - counts
    table = ((below + step // 2) // step.clamp_min(1)).clamp_max(LEVELS)
    found = table.gather(2, levels).view_as(x).to(x.dtype) / LEVELS
    return torch.where((step > 0)[..., None], found, x)


def _posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of the 256 levels."""
    step = 2 ** (8 - bits)[:, None, None, None]
    return (_levels(x) / step).floor() * step / LEVELS


def _solarize_levels(x: Tensor, threshold: Tensor) -> Tensor:
    return solarize(x, (threshold[:, None, None, None] - 0.5) / LEVELS)


def _solarize_add(x: Tensor, added: Tensor) -> Tensor:
    """Brighten the levels below 128."""
    brighter = (x + added[:, None, None, None] / LEVELS).clamp_max(1)
    return torch.where(x < (SOLARIZE_ADD_BELOW - 0.5) / LEVELS, brighter, x)


def _color(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(to_gray(x), x, factor)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    # the mean of the grey image is the grey of the mean
    return _blend(to_gray(x.mean(dim=(2, 3), keepdim=True)), x, factor)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor[:, None, None, None]).clamp(0, 1)


def _sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image, whose border of one pixel is not smoothed."""
    if min(x.shape[2:]) < 3:
        return x
    centre = x[:, :, 1:-1, 1:-1]
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * centre) / 13
    sharpened = x.clone()
    sharpened[:, :, 1:-1, 1:-1] = _blend(smooth, centre, factor)
    return sharpened


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(start, end, factor[:, None, None, None]).clamp(0, 1)


def _levels(x: Tensor) -> Tensor:
    return (x * LEVELS).round()


def _factor(share: Tensor) -> Tensor:
    return 0.1 + 1.8 * share


def _share(share: Tensor) -> Tensor:
    return share


# Operations in the order of the authors' code.
OPERATIONS: dict[str, Operation] = {
    "autocontrast": Operation(_share, _autocontrast),
    "equalize": Operation(_share, _equalize),
    "invert": Operation(_share, lambda x, _: 1 - x),
    "rotate": Operation(lambda share: 30 * share, matrix=_rotation),  # degrees
    "posterize": Operation(lambda share: (4 * share).floor(), _posterize),  # bits kept
    # at the largest magnitude the threshold is 256, which no level reaches
    "solarize": Operation(lambda share: (256 * share).floor(), _solarize_levels),  # level
    "solarize-add": Operation(lambda share: (110 * share).floor(), _solarize_add),  # levels
    "color": Operation(_factor, _color),
    "contrast": Operation(_factor, _contrast),
    "brightness": Operation(_factor, _brightness),
    "sharpness": Operation(_factor, _sharpness),
    "shear-x": Operation(lambda share: 0.3 * share, matrix=_shear_x),  # slope
    "shear-y": Operation(lambda share: 0.3 * share, matrix=_shear_y),
    "translate-x": Operation(lambda share: 0.45 * share, matrix=_translation_x),  # share of the side
    "translate-y": Operation(lambda share: 0.45 * share, matrix=_translation_y),
}
