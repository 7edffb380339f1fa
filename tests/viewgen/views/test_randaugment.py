"""Each operation of RandAugment against Pillow's, with the parameters of InfoMin's code."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views.augmentation import NUM_UNIFORMS, expert_uniforms, expert_views
from viewgen.views.expert import ExpertConfig
from viewgen.views.randaugment import NUM_DRAWN, OPERATIONS, affine, randaugment, solarize

functional = import_torchvision("transforms.v2.functional")
BILINEAR, AFFINE = Image.Resampling.BILINEAR, Image.Transform.AFFINE
SIZE = (36, 28)  # height and width: neither is mistaken for the other
FILL = (0.4, 0.6, 0.2)
COLOR = tuple(round(255 * value) for value in FILL)
MAGNITUDES = torch.tensor([0.0, 0.12, 0.37, 0.5, 0.81, 0.96, 1.0])


def by_affine(*matrix):
    return lambda image: image.transform(image.size, AFFINE, matrix, resample=BILINEAR, fillcolor=COLOR)


def by_table(function):
    return lambda image: image.point([function(level) for level in range(256)] * 3)


# operation → Pillow's, as in PyContrast's datasets/RandAugment.py; the magnitude is in [0, 1]
PILLOW = {
    "autocontrast": lambda m: ImageOps.autocontrast,
    "equalize": lambda m: ImageOps.equalize,
    "invert": lambda m: ImageOps.invert,
    "rotate": lambda m: lambda image: image.rotate(30 * m, resample=BILINEAR, fillcolor=COLOR),
    "posterize": lambda m: by_table(lambda level: level & ~(2 ** (8 - int(4 * m)) - 1)),
    "solarize": lambda m: lambda image: ImageOps.solarize(image, int(256 * m)),
    "solarize-add": lambda m: by_table(
        lambda level: min(255, level + int(110 * m)) if level < 128 else level
    ),
    "color": lambda m: lambda image: ImageEnhance.Color(image).enhance(0.1 + 1.8 * m),
    "contrast": lambda m: lambda image: ImageEnhance.Contrast(image).enhance(0.1 + 1.8 * m),
    "brightness": lambda m: lambda image: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * m),
    "sharpness": lambda m: lambda image: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * m),
    "shear-x": lambda m: by_affine(1, 0.3 * m, 0, 0, 1, 0),
    "shear-y": lambda m: by_affine(1, 0, 0, 0.3 * m, 1, 0),
    "translate-x": lambda m: by_affine(1, 0, 0.45 * m * SIZE[1], 0, 1, 0),
    "translate-y": lambda m: by_affine(1, 0, 0, 0, 1, 0.45 * m * SIZE[0]),
}
# Pillow rounds, and cuts off, between the steps of an operation; the others have one rounding
GREY_LEVELS = {"color": 2, "contrast": 2, "sharpness": 2, "equalize": 0, "posterize": 0, "solarize": 0}


def pictures(count: int) -> np.ndarray:
    """Smooth pictures of many levels that do not fill the range, uint8 `(N, 3, H, W)`."""
    coarse = torch.rand(count, 3, 5, 4, generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 1)
    return (20 + smooth * 200).to(torch.uint8).numpy()


def applied(name: str, x: torch.Tensor, magnitudes: torch.Tensor, sign: float = 1) -> torch.Tensor:
    """Apply one operation to each of the images in [0, 1]."""
    operation = OPERATIONS[name]
    parameter = operation.parameter(magnitudes) * sign
    if operation.matrix is not None:
        return affine(x, operation.matrix(parameter, x.shape[-2:]), FILL)
    return operation.apply(x, parameter)


@pytest.mark.parametrize("name", PILLOW)
def test_operations_equal_pillow(name):
    images = pictures(len(MAGNITUDES))
    ours = applied(name, torch.from_numpy(images) / 255, MAGNITUDES) * 255
    for image, view, magnitude in zip(images, ours.numpy(), MAGNITUDES.tolist(), strict=True):
        theirs = PILLOW[name](magnitude)(Image.fromarray(image.transpose(1, 2, 0)))
        difference = np.abs(view - np.asarray(theirs).transpose(2, 0, 1).astype(np.float32))
        # float32 and float64 part where a position falls on the image's edge
        share = 0.005 if OPERATIONS[name].matrix is not None else 0
        assert (difference > GREY_LEVELS.get(name, 1) + 0.01).mean() <= share, (magnitude, difference.max())


def test_there_is_no_other_operation():
    assert set(OPERATIONS) == set(PILLOW)


def test_signs_mirror_the_geometry():
    x = torch.from_numpy(pictures(1)) / 255
    for name, axis in {"shear-x": 2, "translate-x": 3, "translate-y": 2, "rotate": 3}.items():
        once = applied(name, x, torch.tensor([0.8]))
        mirrored = applied(name, x.flip(axis), torch.tensor([0.8]), -1).flip(axis)
        if name == "shear-x":  # the shear is about the first row: another row is fixed in the mirror
            assert not torch.allclose(once, mirrored, atol=0.05)
        else:
            torch.testing.assert_close(once, mirrored, atol=1e-4, rtol=0)


def test_solarize_equals_torchvision():
    images = torch.from_numpy(pictures(2))
    expected = functional.solarize(images, 128)
    torch.testing.assert_close(solarize(images / 255, 0.5) * 255, expected.float(), atol=1e-4, rtol=0)


def uniforms(count: int, config: ExpertConfig, seed: int = 0) -> torch.Tensor:
    return torch.rand(
        count, NUM_DRAWN * config.randaugment_ops, generator=torch.Generator().manual_seed(seed)
    )


def test_each_image_has_its_own_operations():
    config = ExpertConfig(randaugment_ops=2, randaugment_magnitude=8.0)
    x, u = torch.from_numpy(pictures(48)) / 255, uniforms(48, config)
    together = randaugment(x, u, config)
    alone = torch.cat([randaugment(x[i : i + 1], u[i : i + 1], config) for i in range(48)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert float(together.amin()) >= 0
    assert float(together.amax()) <= 1


def test_operations_are_drawn_alike_and_applied_half_the_time():
    config = ExpertConfig(randaugment_ops=1, randaugment_magnitude=7.0, randaugment_deviation=0.0)
    picture = torch.from_numpy(pictures(1)) / 255
    numbers = uniforms(3000, config)
    views = randaugment(picture.expand(3000, -1, -1, -1), numbers, config)
    kept = (views == picture).flatten(1).all(dim=1)
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.04)  # 4 standard deviations
    for number, name in enumerate(OPERATIONS):
        chosen = (numbers[:, 0] * len(OPERATIONS)).long() == number
        assert chosen.float().mean() == pytest.approx(1 / 15, abs=0.019), name
        changed = views[chosen & ~kept]
        signs = (1, -1) if OPERATIONS[name].matrix is not None else (1,)
        expected = [
            affine(
                picture,
                OPERATIONS[name].matrix(
                    sign * OPERATIONS[name].parameter(torch.tensor([0.7])), picture.shape[-2:]
                ),
                config.randaugment_fill,
            )
            if OPERATIONS[name].matrix is not None
            else applied(name, picture, torch.tensor([0.7]))
            for sign in signs
        ]
        found = torch.stack([(changed - one).abs().amax(dim=(1, 2, 3)) for one in expected])
        assert float(found.amin(dim=0).max()) < 1e-4, name
        shares = found.argmin(dim=0).float().mean()
        assert shares == (0 if len(signs) == 1 else pytest.approx(0.5, abs=0.2)), name


def test_magnitudes_are_normal_and_cut():
    """Brightness multiplies by 0.1 + 0.18·m: the factor tells the magnitude."""
    config = ExpertConfig(
        randaugment_ops=1,
        randaugment_probability=1.0,
        randaugment_magnitude=9.0,
        randaugment_deviation=1.0,
    )
    numbers = uniforms(4000, config)
    numbers[:, 0] = (list(OPERATIONS).index("brightness") + 0.5) / len(OPERATIONS)
    numbers[0, 2] = 0  # the least number of all is five deviations below
    views = randaugment(torch.full((4000, 3, 1, 1), 0.5), numbers, config)
    magnitude = (views[:, 0, 0, 0] / 0.5 - 0.1) / 0.18
    magnitude[views[:, 0, 0, 0] >= 1] = 10
    assert float(magnitude.max()) <= 10 + 1e-4
    assert float(magnitude.median()) == pytest.approx(9, abs=0.08)
    assert float((magnitude > 10 - 1e-4).float().mean()) == pytest.approx(0.159, abs=0.024)
    assert 3.5 < float(magnitude[0]) < 4.5


def test_operations_have_addresses_of_their_own():
    asked = []

    def draw(name: str, count: int) -> torch.Tensor:
        asked.append((name, count))
        return torch.zeros(2, count)

    everything = ExpertConfig(blur_probability=0.5, solarize_probability=0.2, randaugment_ops=2)
    assert expert_uniforms(draw, "expert", ExpertConfig()).shape == (2, NUM_UNIFORMS)
    assert expert_uniforms(draw, "expert", everything).shape == (2, NUM_UNIFORMS + 2 + 8 + 1)
    assert asked == [
        ("expert", NUM_UNIFORMS),
        *(("expert", NUM_UNIFORMS), ("expert blur", 2), ("expert randaugment", 8), ("expert solarize", 1)),
    ]


def test_operations_come_in_the_published_order():
    """Crop to grayscale as before, blur and RandAugment before the grayscale, solarise last."""
    images = torch.from_numpy(pictures(12)).float() / 127.5 - 1
    config = ExpertConfig(
        blur_probability=1.0, blur_width=0.1, randaugment_ops=2, solarize_probability=1.0
    ).replace(grayscale_probability=1.0)
    u = torch.rand(12, NUM_UNIFORMS + 2 + 8 + 1, generator=torch.Generator().manual_seed(9))
    before = ExpertConfig(grayscale_probability=0.0)
    x = (expert_views(images, u[:, :NUM_UNIFORMS], before) + 1) / 2
    sigma = 0.1 + 1.9 * u[:, NUM_UNIFORMS + 1]
    x = torch.stack(
        [functional.gaussian_blur(y, [3, 3], [s, s]) for y, s in zip(x, sigma.tolist(), strict=True)]
    )
    x = randaugment(x, u[:, NUM_UNIFORMS + 2 : -1], config)
    x = functional.rgb_to_grayscale(x, num_output_channels=3)
    x = torch.stack([functional.solarize(y, 0.5) for y in x])
    views = (expert_views(images, u, config) + 1) / 2
    apart = (views - x).abs()
    # luma weights have other digits; where the rounding crosses the threshold, a pixel is inverted
    assert float((apart > 2e-3).float().mean()) < 0.002


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"blur_sigma": (1.0, 2.0)}, "blur_probability is 0"),
        ({"blur_width": 0.1}, "blur_probability is 0"),
        ({"solarize_threshold": 0.4}, "solarize_probability is 0"),
        ({"randaugment_magnitude": 5.0}, "randaugment_ops is 0"),
        ({"randaugment_fill": (0.0, 0.0, 0.0)}, "randaugment_ops is 0"),
    ],
)
def test_settings_without_effect_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        ExpertConfig(**given).refuse_ignored(given)


@pytest.mark.parametrize(
    "given",
    [
        {"blur_sigma": (0.0, 1.0)},
        {"blur_sigma": (2.0, 1.0)},
        {"blur_width": 0.0},
        {"randaugment_ops": -1},
        {"randaugment_magnitude": 11.0},
        {"randaugment_fill": (0.1, 0.2, 1.3)},
        {"solarize_threshold": 2.0},
    ],
)
def test_impossible_values_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        ExpertConfig(**given)


def test_later_settings_leave_the_record_of_earlier_ones():
    assert set(ExpertConfig().record()) == {
        *("crop_scale", "crop_ratio", "flip_probability", "jitter_probability"),
        *("brightness", "contrast", "saturation", "hue", "grayscale_probability"),
    }
    blurred = ExpertConfig(blur_probability=0.5)
    assert ExpertConfig.from_record(blurred.record()) == blurred
