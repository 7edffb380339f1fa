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
from viewgen.views.color_settings import ColorConfig
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from torch import Tensor

    from viewgen.datasets import ImageDataset
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "ColorConfig", "ColorSource"]

# training images whose pixels give the statistics, evenly spread
STATISTICS_IMAGES, IMAGES_AT_ONCE = 2048, 64
# significant digits of the statistics: sums in another order differ beyond them
DIGITS = 6
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

        channels = _channels(images.pixels, self.config)
        mean, deviation = (one.to(channels)[:, None, None] for one in (self.mean, self.deviation))
        views = ((channels - mean) / (self.config.span * deviation)).clamp(-1, 1)
        return Views(pixels=views.expand(num_views, *views.shape))


def _channels(pixels: Tensor, config: ColorConfig) -> Tensor:
    """Return storage images `(B, 3, H, W)` in the colour space."""
    from viewgen.views.color_spaces import from_rgb

    if pixels.shape[1] != 3:
        raise DataError(f"a colour split needs images of 3 channels; these have {pixels.shape[1]}")
    return from_rgb(pixels.float() / 255, config.space)


def build(settings: ColorConfig, resources: Resources) -> ColorSource:
    """Return the source."""
    if settings.deviation is not None and not all(value > 0 for value in settings.deviation):
        raise UsageError(f"color: deviation is {settings.deviation}; expected three numbers above 0")
    return ColorSource(settings)


def fit(settings: ColorConfig, dataset: ImageDataset) -> ColorConfig:
    """Return the settings with the statistics of the training images' channels.

    Raises:
        DataError: a channel is constant, as the chroma of grey images is, or all images are grey: their
            channels are equal, and each view would show the whole image.
    """
    import numpy as np
    import torch

    from viewgen.views.color_spaces import gamut

    if settings.mean is not None and settings.deviation is not None:
        return settings
    count = min(STATISTICS_IMAGES, len(dataset))
    rows = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64)
    total, squares, pixels = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    grey = True
    for start in range(0, count, IMAGES_AT_ONCE):
        images = torch.from_numpy(dataset.images(rows[start : start + IMAGES_AT_ONCE]))
        channels = _channels(images, settings).double().transpose(0, 1).flatten(1)
        grey &= bool((images == images[:, :1]).all())
        total += channels.sum(dim=1)
        squares += channels.square().sum(dim=1)
        pixels += channels.shape[1]
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp_min(0).sqrt()
    low, high = (torch.tensor(side, dtype=torch.float64) for side in gamut(settings.space))
    constant = (deviation <= CONSTANT * (high - low)).nonzero().flatten().tolist()
    if constant or grey:
        reason = (
            f"channel {constant[0] + 1} of 3 of {settings.space} is the same in all pixels of "
            f"{dataset.name}: a view of it would be constant"
            if constant
            else f"red, green and blue are the same in all pixels of {dataset.name}: either view in "
            f"{settings.space} would show the whole image"
        )
        raise DataError(
            f"{reason}. Grey images have no colours to split; choose frequency views, or another data set"
        )
    rounded = {
        name: tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
        for name, values in (("mean", mean), ("deviation", deviation))
    }
    return settings.replace(**{name: getattr(settings, name) or value for name, value in rounded.items()})


ENTRY = ViewEntry(
    name="color",
    summary="two views by colour: the first channel of a colour space, and the other two",
    settings=ColorConfig,
    build=build,
    fit=fit,
    random=False,
    roles=(Role(name="first", channels=(0,), signed=True), Role(name="rest", channels=(1, 2), signed=True)),
)
