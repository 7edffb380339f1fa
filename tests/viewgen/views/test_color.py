"""Colour spaces against kornia's and published facts; the split's statistics and refusals."""

import warnings

import numpy as np
import pytest
import torch
from image_dataset import dataset_of

from viewgen.errors import DataError, UsageError
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.views import VIEWS
from viewgen.views.color_settings import ColorConfig
from viewgen.views.color_spaces import SPACES, from_rgb, gamut

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports
    kornia = pytest.importorskip("kornia.color")


@pytest.fixture(scope="module")
def rgb():
    return torch.rand(4, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (70, 3, 6, 6)).astype(np.uint8)


# their published constants have 3 to 6 digits
@pytest.mark.parametrize(
    ("space", "reference", "atol"),
    [
        ("Lab", kornia.rgb_to_lab, 2e-2),
        ("LUV", kornia.rgb_to_luv, 2e-2),
        ("XYZ", lambda x: kornia.rgb_to_xyz(kornia.rgb_to_linear_rgb(x)), 1e-5),
        ("YUV", kornia.rgb_to_yuv, 1e-3),
        ("HSV", lambda x: kornia.rgb_to_hsv(x) / torch.tensor([2 * np.pi, 1, 1])[:, None, None], 1e-6),
    ],
)
def test_spaces_equal_kornias(rgb, space, reference, atol):
    torch.testing.assert_close(from_rgb(rgb, space), reference(rgb).double(), atol=atol, rtol=0)


def test_digital_luma_and_chroma_are_scaled_analogue_ones(rgb):
    analogue, digital = from_rgb(rgb, "YPbPr"), from_rgb(rgb, "YCbCr")
    scale, offset = torch.tensor([219.0, 224.0, 224.0]), torch.tensor([16.0, 128.0, 128.0])
    expected = analogue * scale[:, None, None] + offset[:, None, None]
    torch.testing.assert_close(digital, expected.double(), atol=1e-3, rtol=0)


def test_inphase_and_quadrature_are_turned_chroma(rgb):
    """I and Q are U and V, exchanged and turned by 33°."""
    u, v = from_rgb(rgb, "YUV")[:, 1:].unbind(dim=1)
    angle = np.deg2rad(33)
    inphase, quadrature = v * np.cos(angle) - u * np.sin(angle), v * np.sin(angle) + u * np.cos(angle)
    expected = torch.stack([inphase, quadrature], dim=1)
    torch.testing.assert_close(from_rgb(rgb, "YIQ")[:, 1:], expected, atol=2e-3, rtol=0)


def test_stains_are_separated():
    """Light that passed an amount of one stain alone has that stain's optical density only."""
    stains = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=torch.float64)
    for stain in range(3):
        amount = 0.05
        light = 1e-6 ** (amount * stains[stain])
        found = from_rgb(light[:, None, None], "HED").flatten()
        expected = torch.zeros(3, dtype=torch.float64)
        expected[stain] = amount
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("space", ["YUV", "YIQ", "YDbDr", "YPbPr", "Lab", "LUV"])
def test_grey_has_no_chroma(space):
    grey = torch.linspace(0, 1, 11, dtype=torch.float64).expand(3, 11)[:, :, None]
    tolerance = 1e-6 if space.startswith("Y") else 0.02  # six digits of the white point
    assert float(from_rgb(grey, space)[1:].abs().max()) < tolerance


def test_known_colours():
    def of(space, *color):
        return from_rgb(torch.tensor(color, dtype=torch.float64)[:, None, None], space).flatten().tolist()

    assert of("YDbDr", 1, 1, 1) == pytest.approx([1, 0, 0], abs=1e-9)
    assert of("YDbDr", 0, 0, 1) == pytest.approx([0.114, 1.333, 0.217])
    matrix = torch.stack([torch.tensor(of("YDbDr", *row)) for row in torch.eye(3).tolist()])
    assert float(torch.det(matrix)) == pytest.approx(-1.679, abs=1e-3)
    assert of("Lab", 1, 1, 1) == pytest.approx([100, 0, 0], abs=0.02)
    assert of("Lab", 0, 0, 1) == pytest.approx([32.30, 79.20, -107.86], abs=0.02)
    assert of("HSV", 0, 0, 0) == [0, 0, 0]
    assert of("HSV", 0.5, 0, 0.5) == pytest.approx([5 / 6, 1, 0.5])
    # of equal energy, CIE's primaries have equal parts
    equal = torch.linalg.solve(
        torch.tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                      [0.019334, 0.119193, 0.950227]], dtype=torch.float64),
        torch.full((3,), 0.5, dtype=torch.float64),
    )  # fmt: skip
    encoded = torch.where(equal > 0.0031308, 1.055 * equal.clamp_min(0) ** (1 / 2.4) - 0.055, 12.92 * equal)
    first, second, third = of("CIE-RGB", *encoded.tolist())
    assert first == pytest.approx(second, abs=1e-6)
    assert second == pytest.approx(third, abs=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_grey_images_have_no_colours_to_split(images, space):
    entry = VIEWS.entry("color")
    with pytest.raises(DataError, match="Grey images have no colours to split"):
        entry.fit(ColorConfig(space=space), dataset_of(images[:, :1].repeat(3, axis=1)))
    assert entry.fit(ColorConfig(space=space), dataset_of(images)).mean is not None


def test_ranges_hold_all_colours(rgb):
    for space in SPACES:
        low, high = (torch.tensor(side, dtype=torch.float64)[:, None, None] for side in gamut(space))
        found = from_rgb(rgb, space)
        room = 0.02 * (high - low)
        assert bool(((found >= low - room) & (found <= high + room)).all()), space


@pytest.mark.parametrize("space", sorted(SPACES))
def test_channels_have_the_recorded_mean_and_deviation(space, images, image_of):
    entry = VIEWS.entry("color")
    settings = entry.fit(ColorConfig(space=space, span=200.0), dataset_of(images))
    assert ColorConfig.from_record(settings.record()) == settings
    source = entry.build(settings, None)
    views = source.views(image_of(images), 2).pixels
    assert views.shape == (2, 70, 3, 6, 6)
    channels = views[0].transpose(0, 1).flatten(1)
    assert channels.mean(dim=1).abs().max() < 1e-5
    torch.testing.assert_close(200 * channels.std(dim=1), torch.ones(3), atol=1e-3, rtol=0)
    assert Choice(entry, settings).record()["settings"]["mean"] == list(settings.mean)


@pytest.fixture
def image_of():
    return lambda images: type("Batch", (), {"pixels": torch.from_numpy(images)})()


def test_roles_have_one_and_two_channels(images, image_of):
    entry = VIEWS.entry("color")
    views = entry.build(ColorConfig(space="YDbDr"), None).views(image_of(images), 2).model
    assert [role.of(view).shape[1] for role, view in zip(entry.roles, views, strict=True)] == [1, 2]
    assert entry.roles[0] == Role(name="first", channels=(0,), signed=True)


def test_given_statistics_stay_and_others_are_measured(images):
    fit = VIEWS.entry("color").fit
    half = fit(ColorConfig(mean=(1.0, 2.0, 3.0)), dataset_of(images))
    assert half.mean == (1.0, 2.0, 3.0)
    assert half.deviation == fit(ColorConfig(), dataset_of(images)).deviation


def test_grey_images_and_impossible_settings_are_refused(images):
    entry = VIEWS.entry("color")
    grey = np.repeat(images[:, :1], 3, axis=1)
    with pytest.raises(DataError, match=r"channel 2 of 3 of YDbDr is the same in all pixels of some: a view"):
        entry.fit(ColorConfig(space="YDbDr"), dataset_of(grey))
    with pytest.raises(UsageError, match="did you mean 'YDbDr'"):
        ColorConfig(space="YdbDr")
    with pytest.raises(UsageError, match="expected three numbers above 0"):
        entry.build(ColorConfig(deviation=(1.0, 0.0, 1.0)), None)
    with pytest.raises(DataError, match="3 channels; these have 1"):
        entry.fit(ColorConfig(), dataset_of(images[:, :1]))
