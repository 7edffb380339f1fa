"""Settings of the expert transform."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from viewgen.settings import Settings, setting

__all__ = ["ExpertConfig"]


class ExpertConfig(Settings):
    """Strength of the expert transform; the defaults are SimCLR's for 32-px images."""

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

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is ({low}, {high}); expected 0 < low ≤ high")
        return self

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        names = [] if self.jitter_probability else ["brightness", "contrast", "saturation", "hue"]
        return dict.fromkeys(names, "jitter_probability is 0")
