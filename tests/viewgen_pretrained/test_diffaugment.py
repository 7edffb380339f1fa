"""DiffAugment: what each transform may do to an image, and that gradients pass."""

import pytest
import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen_pretrained.diffaugment import POLICIES, diffaugment


def images(count: int, size: int = 16) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=random, dtype=torch.float64) * 2 - 1


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("size", [8, 16, 32])
def test_translation_is_a_shift_of_up_to_an_eighth_that_repeats_the_border(size):
    x = images(1, size).expand(300, -1, -1, -1)
    reach = size // 8
    padded = torch.nn.functional.pad(x[:1], (reach,) * 4, mode="replicate")[0]
    possible = {
        (down, right): padded[:, reach + down : reach + down + size, reach + right : reach + right + size]
        for down in range(-reach, reach + 1)
        for right in range(-reach, reach + 1)
    }
    met = set()
    for view in diffaugment(x, ("translation",)):
        (shift,) = [shift for shift, expected in possible.items() if torch.equal(view, expected)]
        met.add(shift)
    assert len(met) > 0.9 * len(possible)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_cutout_greys_a_square_of_half_the_side(size):
    y = diffaugment(torch.ones(400, 3, size, size, dtype=torch.float64), ("cutout",))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    extents = set()
    for view in y:
        assert torch.equal(view[0], view[1])
        assert torch.equal(view[0], view[2])
        rows, columns = (view[0] == 0).any(dim=1), (view[0] == 0).any(dim=0)
        assert torch.equal(view[0] == 0, rows[:, None] & columns)
        for line in (rows, columns):
            places = line.nonzero()[:, 0]
            assert places[-1] - places[0] + 1 == len(places)  # without a gap
            extents.add(len(places))
    # whole inside the image, cut off at its border
    assert max(extents) == size // 2
    assert min(extents) == size // 4


def test_brightness_adds_one_number_to_an_image():
    x = images(500)
    shift = diffaugment(x, ("brightness",)) - x
    per_image = shift.flatten(1)
    torch.testing.assert_close(per_image, per_image[:, :1].expand_as(per_image))
    assert -0.5 <= per_image.min() < -0.45
    assert 0.45 < per_image.max() <= 0.5


def test_color_is_an_affine_map_of_an_images_pixels():
    x = images(400)
    y = diffaugment(x, ("color",))
    # every change of a grey image is one number: contrast about its mean, which brightness has moved
    grey = torch.linspace(-1, 1, 256, dtype=torch.float64).view(1, 1, 16, 16).expand(400, 3, -1, -1)
    z = diffaugment(grey, ("color",))
    torch.testing.assert_close(z[:, 0], z[:, 1])
    contrast = (z[:, 0, -1, -1] - z[:, 0, 0, 0]) / 2
    assert 0.5 <= contrast.min() < 0.55
    assert 1.45 < contrast.max() <= 1.5
    # the mean over pixels and colours only moves by the brightness
    moved = y.mean(dim=(1, 2, 3)) - x.mean(dim=(1, 2, 3))
    assert moved.abs().max() <= 0.5
    # saturation: distances from the grey axis shrink or grow by up to twice, contrast included
    spread = (y - y.mean(dim=1, keepdim=True)).flatten(1).norm(dim=1)
    factor = spread / (x - x.mean(dim=1, keepdim=True)).flatten(1).norm(dim=1)
    assert factor.min() < 0.2
    assert 2 < factor.max() <= 3


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_pass_and_every_image_has_its_own_draw(name):
    x = images(1).expand(8, -1, -1, -1).clone().requires_grad_()
    y = diffaugment(x, (name,))
    assert y.shape == x.shape
    assert len({tuple(view.flatten().tolist()) for view in y}) > 4
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert bool(torch.isfinite(gradient).all())
    assert gradient.flatten(1).norm(dim=1).min() > 0
    # the transforms are linear but for brightness: the gradient of their sum is that of finite differences
    one = images(1).requires_grad_()
    torch.manual_seed(3)
    (slope,) = torch.autograd.grad(diffaugment(one, (name,)).square().sum(), one)
    step = 1e-6 * torch.randn(one.shape, dtype=torch.float64)
    values = []
    for sign in (1, -1):
        torch.manual_seed(3)
        values.append(diffaugment(one.detach() + sign * step, (name,)).square().sum().item())
    assert (values[0] - values[1]) / 2 == pytest.approx((slope * step).sum().item(), rel=1e-5)


def test_policies_are_applied_in_order_and_none_leaves_the_images():
    x = images(4)
    assert torch.equal(diffaugment(x, ()), x)
    torch.manual_seed(1)
    both = diffaugment(x, ("translation", "cutout"))
    torch.manual_seed(1)
    assert torch.equal(both, diffaugment(diffaugment(x, ("translation",)), ("cutout",)))


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match=r"no augmentation 'colour'.*color"):
        diffaugment(images(1), ("translation", "colour"))


def test_a_probability_applies_each_transform_to_that_share_of_the_images():
    x = torch.rand(4000, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    shares = [
        (diffaugment(x, ("brightness",), p) != x).flatten(1).any(dim=1).double().mean().item()
        for p in (0.0, 0.3, 1.0)
    ]
    assert shares[0] == 0
    assert shares[2] == 1
    assert abs(shares[1] - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    twice = (
        (diffaugment(x, ("brightness", "brightness"), 0.5) != x).flatten(1).any(dim=1).double().mean().item()
    )
    assert abs(twice - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5


def test_without_a_probability_every_image_is_transformed_by_the_same_draws_as_ever():
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    expected = POLICIES["translation"](POLICIES["color"](x))
    torch.manual_seed(3)
    assert torch.equal(diffaugment(x, ("color", "translation")), expected)
