"""Settings of the expert transform."""

from __future__ import annotations

import math
from typing import Self

from pydantic import model_validator

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting

__all__ = ["MAX_MAGNITUDE", "ExpertConfig", "check_mask_side"]

MAX_MAGNITUDE = 10.0
# ImageNet's mean colour
MEAN_COLOR = (0.485, 0.456, 0.406)

# every operation but crop and flip turned off
_OFF = {
    "jitter_probability": 0.0,
    "grayscale_probability": 0.0,
    "blur_probability": 0.0,
    "solarize_probability": 0.0,
    "randaugment_ops": 0,
    "mask_probability": 0.0,
}


def check_mask_side(mask_side: tuple[int, int] | None, image_size: int) -> None:
    """Check that squares of the given sides fit into images.

    Args:
        mask_side: smallest and largest side, in pixels; None for sides in proportion to the images.
        image_size: side of the images, in pixels.

    Raises:
        UsageError: the largest is larger than they.
    """
    if mask_side is not None and mask_side[1] > image_size:
        raise UsageError(
            f"mask_side is {list(mask_side)}, and the views have {image_size} px; expected sides up to that"
        )


class ExpertConfig(Settings):
    """Strength of the expert transform; the defaults are SimCLR's for 32-px images.

    `viewgen.views.compositions` has the published combinations by name.
    """

    title = "the expert transform"

    crop_scale: tuple[float, float] = setting((0.2, 1.0), "range of the cropped share of the area")
    crop_ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "range of the crop's width over height")
    flip_probability: float = setting(0.5, "probability of a horizontal flip", ge=0, le=1)
    jitter_probability: float = setting(0.8, "probability of colour jitter", ge=0, le=1)
    brightness: float = setting(0.4, "half-width of the brightness factor's range around 1", ge=0)
    contrast: float = setting(0.4, "half-width of the contrast factor's range around 1", ge=0)
    saturation: float = setting(0.4, "half-width of the saturation factor's range around 1", ge=0)
    hue: float = setting(0.1, "half-width of the hue rotation, in turns", ge=0, le=0.5)
    grayscale_probability: float = setting(0.2, "probability of dropping the colour", ge=0, le=1)

    blur_probability: float = setting(0.0, "probability of a Gaussian blur", since=2, ge=0, le=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the blur's σ in pixels", since=2)
    blur_width: float | None = setting(
        None,
        "width of the blur's kernel as a share of the image's side, rounded to an odd number of pixels, 3 or "
        "more; by default 4 of the largest σ on either side",
        since=2,
        gt=0,
        le=1,
    )
    solarize_probability: float = setting(
        0.0, "probability of inverting the bright pixels", since=2, ge=0, le=1
    )
    solarize_threshold: float = setting(0.5, "lowest value that solarise inverts", since=2, ge=0, le=1)
    randaugment_ops: int = setting(
        0, "number of RandAugment's draws from its 15 operations; 0 turns it off", since=2, ge=0, le=15
    )
    randaugment_magnitude: float = setting(
        MAX_MAGNITUDE, "mean magnitude of RandAugment's operations", since=2, ge=0, le=MAX_MAGNITUDE
    )
    randaugment_deviation: float = setting(
        0.5, "standard deviation of the magnitude, which stays in [0, 10]", since=2, ge=0
    )
    randaugment_probability: float = setting(
        0.5, "probability that a drawn operation is applied", since=2, gt=0, le=1
    )
    randaugment_fill: tuple[float, float, float] = setting(
        MEAN_COLOR,
        "colour that rotations, shears and translations bring in: red, green, blue in [0, 1]; by default "
        "ImageNet's mean",
        since=2,
    )

    mask_probability: float = setting(0.0, "probability of covering squares", since=2, ge=0, le=1)
    mask_count: tuple[int, int] = setting((3, 5), "range of the number of covered squares", since=2)
    mask_side: tuple[int, int] | None = setting(
        None,
        "range of the squares' side in pixels; by default 10 to 16 at 64 px, in proportion",
        since=2,
    )
    mask_fill: tuple[float, float, float] = setting(
        MEAN_COLOR,
        "colour of the squares: red, green, blue in [0, 1]; by default ImageNet's mean",
        since=2,
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("crop_scale", "crop_ratio", "blur_sigma", "mask_count", "mask_side"):
            low, high = getattr(self, name) or (1, 1)
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}); expected 0 < low ≤ high")
        for name in ("randaugment_fill", "mask_fill"):
            if not all(0 <= value <= 1 for value in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; expected three numbers in [0, 1]")
        return self

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        switches = {
            "jitter_probability": ("brightness", "contrast", "saturation", "hue"),
            "blur_probability": ("blur_sigma", "blur_width"),
            "solarize_probability": ("solarize_threshold",),
            "mask_probability": ("mask_count", "mask_side", "mask_fill"),
            "randaugment_ops": tuple(
                f"randaugment_{name}" for name in ("magnitude", "deviation", "probability", "fill")
            ),
        }
        return {
            name: f"{switch} is 0"
            for switch, names in switches.items()
            if not getattr(self, switch)
            for name in names
        }

    def blur_taps(self, height: int, width: int) -> int:
        """Return the width of the blur's kernel in pixels, odd, for images of this size."""
        if self.blur_width is None:
            return 2 * math.ceil(4 * self.blur_sigma[1]) + 1
        return max(3, 2 * int(self.blur_width * min(height, width) / 2) + 1)

    def check_size(self, image_size: int) -> None:
        """Check that the transform can be applied to images with the given side, in pixels.

        Raises:
            UsageError: squares that it covers do not fit into them.
        """
        if self.mask_probability:
            check_mask_side(self.mask_side, image_size)

    def crop_only(self) -> Self:
        """Return the transform without any change of colour, blur, RandAugment and masks: crop and flip."""
        return self.replace(**_OFF)
