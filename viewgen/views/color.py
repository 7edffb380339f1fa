"""Colour split: the first channel of a colour space as one view, the other two as the second.

Channels are shifted by their mean and divided by `span` of their standard deviations, over the pixels of the
training images; what lies beyond is clipped. The statistics are settings, recorded with caches and trainings.

References:
    Contrastive Multiview Coding, Tian, Krishnan and Isola, 2020, https://arxiv.org/abs/1906.05849
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 3.2, https://arxiv.org/abs/2005.10243
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.errors import DataError, UsageError
from viewgen.roles import Role
from viewgen.views.color_settings import ColorConfig, Space
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from torch import Tensor

    from viewgen.datasets import ImageDataset
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "ColorConfig", "ColorSource", "check_deviation", "color_channels", "standardised"]

# A channel varies less than this share of its range only if it is constant up to rounding.
CONSTANT = 1e-4


class ColorSource:
    """The converted image, once for each role; a role has the channels that count.

    Args:
        config: colour space and normalisation.
    """

    roles: tuple[str, ...] = ("first", "rest")

    def __init__(self, config: ColorConfig) -> None:
        import torch

        from viewgen.views.color_spaces import gamut

        self.config = config
        low, high = (torch.tensor(side) for side in gamut(config.space))
        self.mean = (low + high) / 2 if config.mean is None else torch.tensor(config.mean)
        usual = (high - low) / 2 / config.span
        self.deviation = usual if config.deviation is None else torch.tensor(config.deviation)

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, 3, H, W)`, all V equal."""
        from viewgen.views.source import Views

        channels = color_channels(images.pixels, self.config.space)
        views = standardised(channels, self.mean, self.deviation, self.config.span)
        return Views(pixels=views.expand(num_views, *views.shape))


def color_channels(pixels: Tensor, space: Space) -> Tensor:
    """Return storage images `(B, 3, H, W)` in a colour space, in its usual units."""
    from viewgen.views.color_spaces import from_rgb

    if pixels.shape[1] != 3:
        raise DataError(f"a colour split needs images of 3 channels; these have {pixels.shape[1]}")
    return from_rgb(pixels.float() / 255, space)


def standardised(channels: Tensor, mean: Tensor, deviation: Tensor, span: float) -> Tensor:
    """Return channels `(B, 3, H, W)` in [−1, 1], which stands for `span` deviations on either side."""
    mean, deviation = (one.to(channels)[:, None, None] for one in (mean, deviation))
    return ((channels - mean) / (span * deviation)).clamp(-1, 1)


def check_deviation(name: str, deviation: tuple[float, ...] | None) -> None:
    """Check the given standard deviations of a source's channels.

    Raises:
        UsageError: one is not positive.
    """
    if deviation is not None and not all(value > 0 for value in deviation):
        raise UsageError(f"{name}: deviation is {deviation}; expected three numbers above 0")


def build(settings: ColorConfig, resources: Resources) -> ColorSource:
    """Return the source."""
    check_deviation("color", settings.deviation)
    return ColorSource(settings)


def fit(settings: ColorConfig, dataset: ImageDataset) -> ColorConfig:
    """Return the settings with the statistics of the training images' channels.

    Raises:
        DataError: a channel is constant, as the chroma of grey images is, or all images are grey: their
            channels are equal, and each view would show the whole image.
    """
    from viewgen.views.channel_statistics import channel_statistics, check_colored
    from viewgen.views.color_spaces import gamut

    if settings.mean is not None and settings.deviation is not None:
        return settings
    found = channel_statistics(dataset, lambda images: color_channels(images, settings.space))
    low, high = gamut(settings.space)
    for channel, deviation in enumerate(found.deviation):
        if deviation <= CONSTANT * (high[channel] - low[channel]):
            raise DataError(
                f"channel {channel + 1} of 3 of {settings.space} is the same in all pixels of "
                f"{dataset.name}: a view of it would be constant. Grey images have no colours to split; "
                "choose frequency views, or another data set"
            )
    check_colored(dataset, found, settings.space)
    return settings.replace(mean=settings.mean or found.mean, deviation=settings.deviation or found.deviation)


ENTRY = ViewEntry(
    name="color",
    summary="two views by colour: the first channel of a colour space, and the other two",
    settings=ColorConfig,
    build=build,
    fit=fit,
    random=False,
    roles=(Role(name="first", channels=(0,), signed=True), Role(name="rest", channels=(1, 2), signed=True)),
)
