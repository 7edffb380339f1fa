"""Settings of the colour split."""

from typing import Literal, TypeAlias

from viewgen.settings import Settings, setting

__all__ = ["ColorConfig", "Space"]

Space: TypeAlias = Literal[
    "RGB", "Lab", "LUV", "HSV", "HED", "YUV", "YIQ", "YDbDr", "YPbPr", "YCbCr", "XYZ", "CIE-RGB"
]


class ColorConfig(Settings):
    """Colour space, and normalisation of its channels."""

    title = "color"

    space: Space = setting("Lab", "colour space: its first channel is one view, the other two are the second")
    span: float = setting(
        4.0, "standard deviations of a channel that the range of a view holds on either side", gt=0
    )
    mean: tuple[float, float, float] | None = setting(
        None,
        "mean of each channel; by default over the pixels of the training images, or without any the middle "
        "of the channel's range",
    )
    deviation: tuple[float, float, float] | None = setting(
        None,
        "standard deviation of each channel; by default over the pixels of the training images, or without "
        "any half of the channel's range divided by span",
    )
