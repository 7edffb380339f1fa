"""The batched Gaussian blur against torchvision's and SciPy's, image by image."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views.blur import gaussian_blur
from viewgen.views.expert import ExpertConfig

functional = import_torchvision("transforms.v2.functional")


@pytest.mark.parametrize(("size", "num_taps"), [((32, 32), 3), ((32, 24), 9), ((16, 40), 17)])
def test_blur_equals_torchvision(size, num_taps):
    images = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.1, 2, 6)
    ours = gaussian_blur(images, sigma, num_taps)
    for image, blurred, value in zip(images, ours, sigma.tolist(), strict=True):
        expected = functional.gaussian_blur(image, [num_taps, num_taps], [value, value])
        torch.testing.assert_close(blurred, expected, atol=1e-6, rtol=0)  # float32 sums


def test_a_kernel_of_four_deviations_is_a_gaussian():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    num_taps = ExpertConfig(blur_probability=1.0, blur_sigma=(0.5, 1.5)).blur_taps(32, 32)
    assert num_taps == 13
    ours = gaussian_blur(images, torch.tensor([0.7, 1.5]), num_taps)
    for image, blurred, sigma in zip(images.numpy(), ours.numpy(), (0.7, 1.5), strict=True):
        expected = np.stack([gaussian_filter(channel, sigma, mode="mirror", radius=6) for channel in image])
        np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_blur_keeps_constants_and_small_images():
    constant = torch.full((1, 3, 4, 5), 0.25)
    for num_taps in (3, 17):  # the kernel is cut where a reflection would leave the image
        blurred = gaussian_blur(constant, torch.tensor([2.0]), num_taps)
        torch.testing.assert_close(blurred, constant)


def test_kernel_widths():
    published = ExpertConfig(blur_probability=0.5, blur_width=0.1)
    assert [published.blur_taps(side, side) for side in (224, 96, 64, 32, 8)] == [23, 9, 7, 3, 3]
