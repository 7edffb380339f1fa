"""Colour spaces: conversions from RGB in [0, 1], batched; the constants are those of scikit-image.

Luma and chroma (YUV, YIQ, YDbDr, YPbPr, YCbCr) are linear in the encoded values of sRGB. XYZ, CIE RGB, Lab
and LUV start from linear light, under the illuminant D65 for the observer of 2°.

References:
    Contrastive Multiview Coding, Tian, Krishnan and Isola, 2020, https://arxiv.org/abs/1906.05849
    scikit-image: image processing in Python, van der Walt et al., 2014, https://doi.org/10.7717/peerj.453
    Quantification of histochemical staining by color deconvolution, Ruifrok and Johnston, 2001 (HED)

Shape legend: C channels.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from viewgen.views.color_settings import Space

__all__ = ["SPACES", "from_rgb", "gamut"]

_LUMA = (0.299, 0.587, 0.114)
_LINEAR = {
    "YUV": (
        _LUMA,
        (-0.14714119, -0.28886916, 0.43601035),
        (0.61497538, -0.51496512, -0.10001026),
    ),
    "YIQ": (_LUMA, (0.59590059, -0.27455667, -0.32134392), (0.21153661, -0.52273617, 0.31119955)),
    "YDbDr": (_LUMA, (-0.45, -0.883, 1.333), (-1.333, 1.116, 0.217)),
    "YPbPr": (_LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)),
    "YCbCr": ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)),
}
_OFFSETS = {"YCbCr": (16.0, 128.0, 128.0)}
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_XYZ_OF_CIE_RGB = (
    (0.49 / 0.17697, 0.31 / 0.17697, 0.20 / 0.17697),
    (1.0, 0.81240 / 0.17697, 0.01063 / 0.17697),
    (0.0, 0.01 / 0.17697, 0.99 / 0.17697),
)
_RGB_OF_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_WHITE = (0.95047, 1.0, 1.08883)
_DARK = 1e-6
_GRID = 17


def from_rgb(x: Tensor, space: Space) -> Tensor:
    """Convert images to a colour space.

    Args:
        x: encoded RGB in [0, 1], floating point, `(..., 3, H, W)`.
        space: name of the space.

    Returns:
        channels of the space in their usual units, `(..., 3, H, W)`: Lab's L from 0 to 100, HSV's H in turns.
    """
    return SPACES[space](x)


@cache
def gamut(space: Space) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the smallest and the largest value of each channel over a grid of the RGB cube."""
    level = torch.linspace(0, 1, _GRID, dtype=torch.float64)
    colors = torch.cartesian_prod(level, level, level).T[:, :, None]
    channels = from_rgb(colors, space).flatten(1)
    return tuple(channels.amin(dim=1).tolist()), tuple(channels.amax(dim=1).tolist())


def _mixed(x: Tensor, matrix: tuple[tuple[float, ...], ...], offset: tuple[float, ...] = (0, 0, 0)) -> Tensor:
    weights = torch.tensor(matrix, device=x.device, dtype=x.dtype)
    shift = torch.tensor(offset, device=x.device, dtype=x.dtype)[:, None, None]
    return torch.einsum("dc,...chw->...dhw", weights, x) + shift


def _linear(space: str) -> Callable[[Tensor], Tensor]:
    return lambda x: _mixed(x, _LINEAR[space], _OFFSETS.get(space, (0.0, 0.0, 0.0)))


def _xyz(x: Tensor) -> Tensor:
    light = torch.where(x > 0.04045, ((x.clamp_min(0) + 0.055) / 1.055) ** 2.4, x / 12.92)
    return _mixed(light, _XYZ)


def _cie_rgb(x: Tensor) -> Tensor:
    inverse = torch.linalg.inv(torch.tensor(_XYZ_OF_CIE_RGB, dtype=torch.float64))
    return _mixed(_xyz(x), tuple(tuple(row) for row in inverse.tolist()))


def _lab(x: Tensor) -> Tensor:
    white = torch.tensor(_WHITE, device=x.device, dtype=x.dtype)[:, None, None]
    t = _xyz(x) / white
    f = torch.where(t > 0.008856, t.clamp_min(_DARK) ** (1 / 3), 7.787 * t + 16 / 116)
    fx, fy, fz = f.unbind(dim=-3)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-3)


def _luv(x: Tensor) -> Tensor:
    x_, y, z = _xyz(x).unbind(dim=-3)
    lightness = torch.where(y > 0.008856, 116 * y.clamp_min(_DARK) ** (1 / 3) - 16, 903.3 * y)
    # black has no chromaticity, and a lightness of 0 anyway
    weight = (x_ + 15 * y + 3 * z).clamp_min(torch.finfo(x.dtype).eps)
    white = _WHITE[0] + 15 * _WHITE[1] + 3 * _WHITE[2]
    u = 13 * lightness * (4 * x_ / weight - 4 * _WHITE[0] / white)
    v = 13 * lightness * (9 * y / weight - 9 * _WHITE[1] / white)
    return torch.stack([lightness, u, v], dim=-3)


def _hsv(x: Tensor) -> Tensor:
    value, argmax = x.max(dim=-3)
    chroma = value - x.amin(dim=-3)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = x.unbind(dim=-3)
    hue = torch.where(
        argmax == 0,
        (green - blue) / safe,
        torch.where(argmax == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    saturation = chroma / torch.where(value > 0, value, torch.ones_like(value))
    return torch.stack([hue / 6 % 1, saturation, value], dim=-3)


def _hed(x: Tensor) -> Tensor:
    inverse = torch.linalg.inv(torch.tensor(_RGB_OF_HED, dtype=torch.float64)).T
    optical_density = x.clamp_min(_DARK).log() / torch.tensor(_DARK, dtype=x.dtype, device=x.device).log()
    return _mixed(optical_density, tuple(tuple(row) for row in inverse.tolist())).clamp_min(0)


SPACES: dict[str, Callable[[Tensor], Tensor]] = {
    "RGB": lambda x: x,
    "Lab": _lab,
    "LUV": _luv,
    "HSV": _hsv,
    "HED": _hed,
    **{space: _linear(space) for space in _LINEAR},
    "XYZ": _xyz,
    "CIE-RGB": _cie_rgb,
}
