"""The distribution of expert views against that of torchvision's transforms, image by image."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views.augmentation import NUM_UNIFORMS, crop_boxes, expert_views
from viewgen.views.expert import ExpertConfig

transforms = import_torchvision("transforms.v2")

# Two samples of one distribution are refused with this probability in each of the comparisons.
REFUSAL = 1e-4
CONFIG = ExpertConfig()


def uniforms(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, NUM_UNIFORMS, generator=torch.Generator().manual_seed(seed))


def test_crops_have_torchvisions_distribution():
    height = width = 32
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    draw = transforms.RandomResizedCrop(32, CONFIG.crop_scale, CONFIG.crop_ratio).make_params
    expected = [draw([image]) for _ in range(4000)]
    theirs = torch.tensor(
        [[d["top"], d["left"], d["height"], d["width"]] for d in expected], dtype=torch.float
    )
    u = uniforms(4000, 1)
    ours = crop_boxes(u[:, :20], u[:, 20:22], height, width, CONFIG)
    for name, measure in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "right edge": lambda box: box[:, 1] + box[:, 3],
    }.items():
        assert ks_2samp(measure(ours).numpy(), measure(theirs).numpy()).pvalue > REFUSAL, name


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """A smooth picture with a gradient, so that crop, flip and every colour operation leave a mark."""
    random = torch.Generator().manual_seed(2)
    coarse = torch.rand(1, 3, 4, 4, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")[0].clamp(0, 1)
    return smooth * torch.linspace(0.3, 1, 32)


def statistics(views: torch.Tensor) -> dict[str, np.ndarray]:
    """Return numbers of each view in [0, 1], `(N, 3, H, W)`, that some part of the transform changes."""
    red, green, blue = views.mean(dim=(2, 3)).unbind(1)
    value, least = views.amax(dim=1), views.amin(dim=1)
    left, right = views[..., :16].mean(dim=(1, 2, 3)), views[..., 16:].mean(dim=(1, 2, 3))
    found = {
        "brightness": views.mean(dim=(1, 2, 3)),
        "contrast": views.std(dim=(1, 2, 3)) / views.mean(dim=(1, 2, 3)),
        "saturation": (value - least).mean(dim=(1, 2)),
        "hue": torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue),
        "flip": left - right,
        "crop": (views[..., 1:] - views[..., :-1]).abs().mean(dim=(1, 2, 3)),
    }
    return {name: numbers.numpy() for name, numbers in found.items()}


def ours_of(picture: torch.Tensor, count: int, seed: int, config: ExpertConfig) -> dict[str, np.ndarray]:
    images = (picture * 2 - 1).expand(count, -1, -1, -1)
    return statistics((expert_views(images, uniforms(count, seed), config) + 1) / 2)


def test_views_have_torchvisions_distribution(picture):
    jitter = transforms.ColorJitter(CONFIG.brightness, CONFIG.contrast, CONFIG.saturation, CONFIG.hue)
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, CONFIG.crop_scale, CONFIG.crop_ratio),
            transforms.RandomHorizontalFlip(CONFIG.flip_probability),
            transforms.RandomApply([jitter], CONFIG.jitter_probability),
            transforms.RandomGrayscale(CONFIG.grayscale_probability),
        ]
    )
    torch.manual_seed(0)
    theirs = statistics(torch.stack([chain(picture) for _ in range(1200)]))
    ours = ours_of(picture, 6000, 3, CONFIG)
    for name in theirs:
        assert ks_2samp(ours[name], theirs[name]).pvalue > REFUSAL, name


def test_the_comparison_sees_a_weaker_transform(picture):
    whole = ours_of(picture, 6000, 3, CONFIG)
    changes = {
        "brightness": {"brightness": 0.2},
        "contrast": {"contrast": 0.0},
        "saturation": {"saturation": 0.0, "grayscale_probability": 0.1},
        "hue": {"hue": 0.03},
        "flip": {"flip_probability": 0.3},
        "crop": {"crop_scale": (0.4, 1.0)},
    }
    for name, change in changes.items():
        weaker = ours_of(picture, 1200, 4, ExpertConfig(**change))
        assert ks_2samp(weaker[name], whole[name]).pvalue < REFUSAL, name
