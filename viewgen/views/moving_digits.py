"""Frames of moving digits: frames 1 to 10 of a clip, and an image that shares chosen factors with frame 20.

The factors are the digit, its position and the background. Those that are named are those of the clip's frame
20; the others are drawn anew at each use. A shared digit or background is the same picture, or with
``same="class"`` any of its class.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 4.1 and appendix B.4, https://arxiv.org/abs/2005.10243
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from viewgen.errors import DataError, nearest_name
from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry, in_training

if TYPE_CHECKING:
    from viewgen.datasets import ImageDataset
    from viewgen.datasets.moving_digits import RenderedClips
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "FACTORS", "MovingDigitsConfig", "MovingDigitsSource"]

FACTORS = ("digit", "position", "background")
NUM_FRAMES = 10


class MovingDigitsConfig(Settings):
    """Factors that the image shares with the clip."""

    title = "moving-digits"

    share: str = setting(
        "digit", "factors that the image shares with the clip, joined by commas: " + ", ".join(FACTORS)
    )
    same: Literal["picture", "class"] = setting(
        "picture", "what a shared digit or background is: the same picture, or one of the same class"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        named = self.factors
        unknown = [name for name in named if name not in FACTORS]
        if unknown or not named or len(set(named)) < len(named):
            near = nearest_name(unknown[0], FACTORS) if unknown else ""
            raise ValueError(
                f"share is {self.share!r}{near}; expected one or more of {', '.join(FACTORS)}, each once"
            )
        return self

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the shared factors."""
        return tuple(name.strip() for name in self.share.split(",") if name.strip())

    def ignored(self) -> dict[str, str]:
        """Return `same` if neither digit nor background is shared."""
        return {"same": "share has neither digit nor background"} if self.factors == ("position",) else {}


class MovingDigitsSource:
    """Frames of a clip, then the image.

    Args:
        config: factors that the image shares with the clip.
        clips: renderer of the clips, by source index.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: MovingDigitsConfig, clips: RenderedClips) -> None:
        self.config, self.clips = config, clips

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(11, B, 3, 64, 64)`."""
        from dataclasses import replace

        import numpy as np
        import torch

        from viewgen.datasets.moving_digits import IMAGE_FRAME, NUM_DRAWN, corners
        from viewgen.views.source import Views

        clips = self.clips.clips(images.source_index.numpy())
        frames = self.clips.render(clips, corners(clips, np.arange(1, NUM_FRAMES + 1)))
        numbers = images.draws.uniform("moving digits", 1, NUM_DRAWN + 2)[:, 0].double().numpy()
        other, shared = self.clips.of_numbers(numbers[:, :NUM_DRAWN]), self.config.factors
        kept = self.clips.of_class(clips, numbers[:, NUM_DRAWN:]) if self.config.same == "class" else clips
        if "digit" in shared:
            other = replace(other, digit=kept.digit)
        if "background" in shared:
            crop, tint = (
                (clips.crop, clips.tint) if self.config.same == "picture" else (other.crop, other.tint)
            )
            other = replace(other, background=kept.background, crop=crop, tint=tint)
        places = corners(clips, np.array([IMAGE_FRAME])) if "position" in shared else other.start[:, None]
        views = np.concatenate([frames, self.clips.render(other, places)], axis=1)
        return Views(pixels=torch.from_numpy(views).transpose(0, 1).to(images.pixels.device))


def _clips(dataset: Any) -> RenderedClips:
    from viewgen.datasets.moving_digits import RenderedClips

    pixels = getattr(dataset, "pixels", None)
    if not isinstance(pixels, RenderedClips):
        name = getattr(dataset, "name", "this data set")
        raise DataError(
            f"moving-digits views are frames of clips, and {name} has none; give --dataset moving-digits, or "
            "moving-digits:BACKGROUND"
        )
    return pixels


def _check_classes(settings: MovingDigitsConfig, clips: RenderedClips) -> None:
    pictures = clips.pictures
    if settings.same == "class" and "background" in settings.factors and not pictures.has_classes:
        raise DataError(
            f"same is 'class', and the pictures of {pictures.name} have no classes; give same=picture, or "
            "leave background out of share"
        )


def build(settings: MovingDigitsConfig, resources: Resources) -> MovingDigitsSource:
    """Return the source of a training step."""
    clips = _clips(in_training(resources, "moving-digits").dataset)
    _check_classes(settings, clips)
    return MovingDigitsSource(settings, clips)


def fit(settings: MovingDigitsConfig, dataset: ImageDataset) -> MovingDigitsConfig:
    """Return the settings, after checking that the data set has clips, and the classes that they need."""
    _check_classes(settings, _clips(dataset))
    return settings


ENTRY = ViewEntry(
    name="moving-digits",
    summary="frames of a clip of moving digits, and an image that shares chosen factors with it",
    settings=MovingDigitsConfig,
    needs=frozenset({"clips", "training"}),
    build=build,
    fit=fit,
    num_views=NUM_FRAMES + 1,
    transform="none",
)
