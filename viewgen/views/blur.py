"""Gaussian blur, batched, each image with its own σ.

Shape legend: B batch, C channels, H, W space, K taps of the kernel, S length of a side in pixels.
"""

import torch
from torch import Tensor

__all__ = ["gaussian_blur"]


def gaussian_blur(x: Tensor, sigma: Tensor, num_taps: int) -> Tensor:
    """Blur images with normalised kernels; the image continues by reflection, as in torchvision.

    Args:
        x: images, `(B, C, H, W)`.
        sigma: standard deviations of the kernels in pixels, above 0, `(B,)`.
        num_taps: K, width of the kernels in pixels, odd; on a short side at most 2·S − 1.
    """
    sigma = sigma.to(x.device, x.dtype)
    for axis in (2, 3):
        # the blur of a side is a banded matrix: faster than a convolution with a kernel for each image
        matrix_BSS = _matrices(sigma, min(num_taps, 2 * x.shape[axis] - 1), x.shape[axis])[:, None]
        x = matrix_BSS @ x if axis == 2 else x @ matrix_BSS.mT
    return x


def _matrices(sigma: Tensor, num_taps: int, size: int) -> Tensor:
    """Return the blur of one side as matrices `(B, S, S)`, whose rows sum to 1."""
    offsets = torch.arange(num_taps, device=sigma.device) - num_taps // 2
    weights_BK = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)
    source = (torch.arange(size, device=sigma.device) + offsets[:, None]).abs()
    source = torch.minimum(source, 2 * (size - 1) - source).abs()
    taps_KSS = torch.nn.functional.one_hot(source, size).to(sigma.dtype)
    matrices: Tensor = (weights_BK @ taps_KSS.flatten(1)).unflatten(1, (size, size))
    return matrices
