"""Transform of generated views; expert views replace missing ones.

Shape legend: B images, V views per image, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
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
        transform: name of the transform: ``"flip"``, ``"weak-crop"`` or ``"expert"``.
        expert: strength of the expert transform.
        missing: mask of images without a code or view, bool `(num_images,)`; None if not known beforehand.
    """

    def __init__(
        self, source: ViewSource, transform: str, expert: ExpertConfig, missing: Tensor | None = None
    ) -> None:
        self.source, self.expert, self.missing = source, expert, missing
        self.transform = transform
        self.roles = source.roles
        self._instead = ExpertSource(expert, name="missing")
        self._weak = ExpertConfig(
            crop_scale=WEAK_CROP_SCALE,
            crop_ratio=WEAK_CROP_RATIO,
            flip_probability=expert.flip_probability,
            jitter_probability=0.0,
            grayscale_probability=0.0,
        )

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, C, H, W)` in [−1, 1]."""
        made = self.source.views(images, num_views)
        absent = self._absent(images, made.status)
        columns = {}
        if "score" in made.columns:
            # the score is that of a view that an expert view replaces
            columns["score"] = made.columns["score"].masked_fill(absent[:, None], torch.nan)
        return Views(pixels=self._finished(made.model, images, absent), columns=columns)

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
        uniforms = images.draws.uniform("generated transform", len(views), NUM_UNIFORMS)
        uniforms, flat = uniforms.transpose(0, 1).flatten(0, 1), views.flatten(0, 1)
        flip = self.expert.flip_probability
        if self.transform == "expert":
            flat = expert_views(flat, uniforms, self.expert)
        elif self.transform == "weak-crop":
            flat = expert_views(flat, uniforms, self._weak)
        elif flip > 0:
            flipped = (uniforms[:, 0] < flip).to(flat.device)
            flat = torch.where(flipped[:, None, None, None], flat.flip(3), flat)
        return flat.reshape(views.shape)
