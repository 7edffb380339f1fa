"""Transform of generated views; expert views replace missing ones.

Views of different roles share one transform of their image: a source that makes them in the step gets the
transformed image; cached ones are cropped and flipped alike, as are views whose source asks for it (patches).

Shape legend: B images, V views per image, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewgen.errors import DataError
from viewgen.images import to_model, to_storage
from viewgen.views.augmentation import expert_uniforms, expert_views
from viewgen.views.expert import ExpertConfig, ExpertSource
from viewgen.views.source import Images, LearnedSource, Status, Views, ViewSource

__all__ = ["TransformedSource"]

WEAK_CROP_SCALE = (0.9, 1.0)
WEAK_CROP_RATIO = (0.9, 1.1)


class TransformedSource:
    """Transformed views of another source; implements `viewgen.views.source.LearnedSource`.

    An image without a view (after a failed search, for example) gets an expert view instead.

    Args:
        source: source of the untransformed views.
        transform: name of the transform: ``"none"``, ``"flip"``, ``"weak-crop"`` or ``"expert"``.
        expert: strength of the expert transform.
        missing: mask of images without a code or view, bool `(num_images,)`; None if not known beforehand.
        before: True if images are transformed before the source makes views of different roles of them.
        alike: True if all views of an image are transformed alike; those of different roles always are.
        second: strength of the expert transform of all views but the first; None for that of the first.
    """

    def __init__(
        self,
        source: ViewSource,
        transform: str,
        expert: ExpertConfig,
        missing: Tensor | None = None,
        *,
        before: bool = False,
        alike: bool = False,
        second: ExpertConfig | None = None,
    ) -> None:
        self.source, self.expert, self.missing, self.before = source, expert, missing, before
        self.second = second
        self.transform = transform
        self.roles = source.roles
        self.alike = alike or self.roles != ("view",)
        self._instead = ExpertSource(expert, name="missing", second=second)
        self._weak = expert.crop_only().replace(crop_scale=WEAK_CROP_SCALE, crop_ratio=WEAK_CROP_RATIO)

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, C, H, W)` in [−1, 1].

        Raises:
            DataError: an image lacks the view of a role, which no expert view can replace.
        """
        if self.roles != ("view",):
            return Views(pixels=self._of_roles(images, num_views))
        made = self.source.views(images, num_views)
        absent = self._absent(images, made.status)
        columns = {}
        if "score" in made.columns:
            # the score is that of a view that an expert view replaces
            columns["score"] = made.columns["score"].masked_fill(absent[:, None], torch.nan)
        return Views(pixels=self._finished(made.model, images, absent), columns=columns)

    def _of_roles(self, images: Images, num_views: int) -> Tensor:
        if self.before:
            whole = self.transformed(to_model(images.pixels)[None], images)[0]
            images = replace(images, pixels=to_storage(whole))
        made = self.source.views(images, num_views)
        absent = self._absent(images, made.status)
        if bool(absent.any()):
            raise DataError(
                f"image {int(images.source_index[absent][0])} has no view of the roles "
                + ", ".join(self.roles)
            )
        return made.model if self.before else self.transformed(made.model, images)

    def expect(self, rows: Any) -> None:
        """Prepare the source for the rows, int64 `(B,)`, of an upcoming batch."""
        expect = getattr(self.source, "expect", None)
        if expect is not None:
            expect(rows)

    def networks(self) -> Mapping[str, Any]:
        """Return the networks that the source trains; empty if it trains none."""
        return self.source.networks() if isinstance(self.source, LearnedSource) else {}

    def after_step(self, images: Images, loss_of: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Train the source, if it has networks, on the loss of its transformed views; return its metrics."""
        if not isinstance(self.source, LearnedSource):
            return {}
        absent = self._absent(images, None)
        return self.source.after_step(images, lambda views: loss_of(self._finished(views, images, absent)))

    def _absent(self, images: Images, status: Tensor | None) -> Tensor:
        """Return the mask of images without a view, bool `(B,)`."""
        absent = torch.zeros(len(images), dtype=torch.bool)
        if self.missing is not None:
            absent |= self.missing[images.source_index]
        return absent if status is None else absent | (status.cpu() != Status.OK)

    def _finished(self, views: Tensor, images: Images, absent: Tensor) -> Tensor:
        views = self.transformed(views, images)
        if not bool(absent.any()):
            return views
        instead = self._instead.views(images, len(views)).pixels
        return torch.where(absent.to(views.device)[:, None, None, None], instead, views)

    def transformed(self, views: Tensor, images: Images) -> Tensor:
        """Return transformed model images `(V, B, C, H, W)`, differentiable in the views."""
        if self.transform == "none":
            return views
        if self.transform != "expert":
            return self._under(self._weak, views, images)
        if self.second is None:
            return self._under(self.expert, views, images)
        return torch.cat(
            [
                self._under(self.expert, views, images, slice(1)),
                self._under(self.second, views, images, slice(1, None)),
            ]
        )

    def _under(
        self, config: ExpertConfig, views: Tensor, images: Images, places: slice = slice(None)
    ) -> Tensor:
        """Return some of the views, transformed."""
        num_drawn = 1 if self.alike else len(views)
        uniforms = expert_uniforms(
            lambda name, count: images.draws.uniform(name, num_drawn, count), "generated transform", config
        )
        if self.alike:
            uniforms = uniforms.expand(-1, len(views), -1)
        uniforms = uniforms[:, places].transpose(0, 1).flatten(0, 1)
        views = views[places]
        flat = views.flatten(0, 1)
        if self.transform != "flip":
            flat = expert_views(flat, uniforms, config)
        elif config.flip_probability > 0:
            flipped = (uniforms[:, 0] < config.flip_probability).to(flat.device)
            flat = torch.where(flipped[:, None, None, None], flat.flip(3), flat)
        return flat.reshape(views.shape)
