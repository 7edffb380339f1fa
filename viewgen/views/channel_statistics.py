"""Statistics of converted channels over the pixels of a data set's images, for views by channel.

Shape legend: B images, H, W space.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.errors import DataError

__all__ = ["ChannelStatistics", "Triple", "channel_statistics", "check_colored"]

Triple = tuple[float, float, float]
# images whose pixels give the statistics, evenly spread
STATISTICS_IMAGES, IMAGES_AT_ONCE = 2048, 64
# significant digits of the statistics: sums in another order differ beyond them
DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelStatistics:
    """Statistics of three channels.

    Attributes:
        mean: mean of each channel.
        deviation: standard deviation of each channel.
        grey: True if red, green and blue are equal in all pixels.
    """

    mean: Triple
    deviation: Triple
    grey: bool


@torch.no_grad()
def channel_statistics(dataset: ImageDataset, channels: Callable[[Tensor], Tensor]) -> ChannelStatistics:
    """Return the statistics of up to 2,048 images, evenly spread, to six digits.

    Args:
        dataset: the images.
        channels: conversion of storage images `(B, 3, H, W)` to three channels, of the same shape.
    """
    count = min(STATISTICS_IMAGES, len(dataset))
    rows = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64)
    total, squares, pixels = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    grey = True
    for start in range(0, count, IMAGES_AT_ONCE):
        images = torch.from_numpy(dataset.images(rows[start : start + IMAGES_AT_ONCE]))
        converted = channels(images).double().transpose(0, 1).flatten(1)
        grey &= bool((images == images[:, :1]).all())
        total += converted.sum(dim=1)
        squares += converted.square().sum(dim=1)
        pixels += converted.shape[1]
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp_min(0).sqrt()
    return ChannelStatistics(mean=_rounded(mean), deviation=_rounded(deviation), grey=grey)


def _rounded(values: Tensor) -> Triple:
    first, second, third = (float(f"{value:.{DIGITS}g}") for value in values.tolist())
    return first, second, third


def check_colored(dataset: ImageDataset, found: ChannelStatistics, space: str) -> None:
    """Check that a split by colour does not show the whole image in each view.

    Raises:
        DataError: all images are grey.
    """
    if found.grey:
        raise DataError(
            f"red, green and blue are the same in all pixels of {dataset.name}: either view in {space} would "
            "show the whole image. Grey images have no colours to split; choose frequency views, or another "
            "data set"
        )
