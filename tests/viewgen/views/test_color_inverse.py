"""Colour spaces and back, by published inverses written here: forward and inverse are the identity."""

import colorsys

import pytest
import torch

from viewgen.views.color_spaces import from_rgb

# of ITU-R BT.601 and BT.470; Y′ and the two differences to red, green and blue
INVERSES = {
    "YUV": ((1, 0, 1.13983), (1, -0.39465, -0.58060), (1, 2.03211, 0)),
    "YPbPr": ((1, 0, 1.402), (1, -0.344136, -0.714136), (1, 1.772, 0)),
    "YDbDr": (
        (1, 0.000092303716148, -0.525912630661865),
        (1, -0.129132898890509, 0.267899328207599),
        (1, 0.664679059978955, -0.000079202543533),
    ),
    "YIQ": ((1, 0.9563, 0.6210), (1, -0.2721, -0.6474), (1, -1.1070, 1.7046)),
}
# of IEC 61966-2-1: XYZ to linear red, green and blue
LINEAR_OF_XYZ = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
WHITE = (0.95047, 1.0, 1.08883)


@pytest.fixture(scope="module")
def rgb():
    random = torch.Generator().manual_seed(3)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double().T[None, :, :, None]
    inside = torch.rand(1, 3, 50, 1, generator=random, dtype=torch.float64)
    return torch.cat([corners, inside], dim=2)


def times(matrix, x):
    return torch.einsum("ij,njhw->nihw", torch.tensor(matrix, dtype=torch.float64), x)


def encoded(linear):
    """Return sRGB's transfer function."""
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(0) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("space", INVERSES)
def test_luma_and_chroma_and_back(rgb, space):
    torch.testing.assert_close(times(INVERSES[space], from_rgb(rgb, space)), rgb, rtol=0, atol=2e-3)


def test_digital_luma_and_chroma_and_back(rgb):
    y, cb, cr = from_rgb(rgb, "YCbCr").unbind(dim=1)
    found = torch.stack([(y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224], dim=1)
    torch.testing.assert_close(times(INVERSES["YPbPr"], found), rgb, rtol=0, atol=1e-5)


def test_hue_and_back(rgb):
    found = from_rgb(rgb, "HSV")[0, :, :, 0].T.tolist()
    back = torch.tensor([colorsys.hsv_to_rgb(*one) for one in found], dtype=torch.float64)
    torch.testing.assert_close(back.T[None, :, :, None], rgb, rtol=0, atol=1e-6)


def test_tristimulus_and_back(rgb):
    found = encoded(times(LINEAR_OF_XYZ, from_rgb(rgb, "XYZ")))
    torch.testing.assert_close(found, rgb, rtol=0, atol=1e-3)


def test_cie_rgb_and_back(rgb):
    """Its primaries, of equal energy, are sums of X, Y and Z with published weights."""
    matrix = torch.tensor(((0.49, 0.31, 0.2), (0.17697, 0.8124, 0.01063), (0, 0.01, 0.99))) / 0.17697
    xyz = times(matrix.tolist(), from_rgb(rgb, "CIE-RGB"))
    torch.testing.assert_close(encoded(times(LINEAR_OF_XYZ, xyz)), rgb, rtol=0, atol=1e-3)


def test_lightness_and_back(rgb):
    lightness, a, b = from_rgb(rgb, "Lab").unbind(dim=1)
    y = (lightness + 16) / 116
    parts = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    linear = torch.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29))
    xyz = linear * torch.tensor(WHITE, dtype=torch.float64)[None, :, None, None]
    torch.testing.assert_close(encoded(times(LINEAR_OF_XYZ, xyz)), rgb, rtol=0, atol=2e-3)
    lightness, u, v = from_rgb(rgb, "LUV").unbind(dim=1)
    bright = lightness > 8  # below, u′ and v′ are differences of small numbers
    y = ((lightness + 16) / 116) ** 3
    sum_of_white = WHITE[0] + 15 * WHITE[1] + 3 * WHITE[2]
    u, v = (
        u / (13 * lightness) + 4 * WHITE[0] / sum_of_white,
        v / (13 * lightness) + 9 * WHITE[1] / sum_of_white,
    )
    xyz = torch.stack([y * 9 * u / (4 * v), y, y * (12 - 3 * u - 20 * v) / (4 * v)], dim=1)
    found = encoded(times(LINEAR_OF_XYZ, xyz)).movedim(1, 0)[:, bright]
    torch.testing.assert_close(found, rgb.movedim(1, 0)[:, bright], rtol=0, atol=2e-3)
