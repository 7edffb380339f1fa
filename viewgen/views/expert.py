"""Expert views: hand-made transforms, by default SimCLR's, with separate random numbers for each image.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen et al., 2020,
    https://arxiv.org/abs/2002.05709
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.expert_settings import ExpertConfig

if TYPE_CHECKING:
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "ExpertConfig", "ExpertSource"]


class ExpertSource:
    """Expert views of images.

    Args:
        config: strength of the transform.
        name: address of the draws.
        at_once: number of images transformed together, or None for all.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: ExpertConfig, *, name: str = "expert", at_once: int | None = None) -> None:
        self.config, self.name, self.at_once = config, name, at_once

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, C, H, W)`."""
        import torch

        from viewgen.images import to_model
        from viewgen.views.augmentation import expert_uniforms, expert_views
        from viewgen.views.source import Views

        pixels = to_model(images.pixels)
        if num_views == 0:
            return Views(pixels=pixels.new_empty(0, *pixels.shape))
        uniforms = expert_uniforms(
            lambda name, count: images.draws.uniform(name, num_views, count), self.name, self.config
        )
        uniforms = uniforms.transpose(0, 1).flatten(0, 1)
        repeated = pixels.repeat(num_views, 1, 1, 1)
        size = self.at_once or len(repeated)
        pairs = zip(repeated.split(size), uniforms.split(size), strict=True)
        views = torch.cat([expert_views(part, u, self.config) for part, u in pairs])
        return Views(pixels=views.reshape(num_views, *pixels.shape))


def build(settings: ExpertConfig, resources: Resources) -> ExpertSource:
    """Return the source of a cache's expert views."""
    from viewgen.networks.batched import images_at_once

    models = resources.models
    size = 32 if models.encoder is None else models.encoder.config.image_size
    return ExpertSource(settings, at_once=images_at_once(size, models.device))


ENTRY = ViewEntry(
    name="expert",
    summary="random crop, flip, colour jitter, grayscale; on request blur, RandAugment, solarise, masks",
    settings=ExpertConfig,
    needs=frozenset({"encoder"}),
    build=build,
)
