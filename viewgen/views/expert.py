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
    from torch import Tensor

    from viewgen.datasets import ImageDataset
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "ExpertConfig", "ExpertSource"]


class ExpertSource:
    """Expert views of images.

    Args:
        config: strength of the transform.
        name: address of the draws.
        at_once: number of images transformed together, or None for all.
        second: strength of the transform of all views but the first; None for that of the first.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(
        self,
        config: ExpertConfig,
        *,
        name: str = "expert",
        at_once: int | None = None,
        second: ExpertConfig | None = None,
    ) -> None:
        self.config, self.name, self.at_once, self.second = config, name, at_once, second

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, C, H, W)`."""
        import torch

        from viewgen.images import to_model
        from viewgen.views.source import Views

        pixels = to_model(images.pixels)
        if num_views == 0:
            return Views(pixels=pixels.new_empty(0, *pixels.shape))
        if self.second is None or num_views == 1:
            return Views(pixels=self._under(self.config, pixels, images, num_views, slice(None)))
        first = self._under(self.config, pixels, images, num_views, slice(1))
        others = self._under(self.second, pixels, images, num_views, slice(1, None))
        return Views(pixels=torch.cat([first, others]))

    def _under(
        self, config: ExpertConfig, pixels: Tensor, images: Images, num_views: int, places: slice
    ) -> Tensor:
        """Return some of the views of model images `(B, C, H, W)`."""
        import torch

        from viewgen.views.augmentation import expert_uniforms, expert_views

        uniforms = expert_uniforms(
            lambda name, count: images.draws.uniform(name, num_views, count), self.name, config
        )
        chosen = uniforms[:, places].transpose(0, 1)
        flat = chosen.flatten(0, 1)
        repeated = pixels.repeat(len(chosen), 1, 1, 1)
        size = self.at_once or len(repeated)
        pairs = zip(repeated.split(size), flat.split(size), strict=True)
        views = torch.cat([expert_views(part, u, config) for part, u in pairs])
        return views.reshape(len(chosen), *pixels.shape)


def build(settings: ExpertConfig, resources: Resources) -> ExpertSource:
    """Return the source of a cache's expert views."""
    from viewgen.networks.batched import images_at_once

    models = resources.models
    size = 32 if models.encoder is None else models.encoder.config.image_size
    return ExpertSource(settings, at_once=images_at_once(size, models.device))


def fit(settings: ExpertConfig, dataset: ImageDataset) -> ExpertConfig:
    """Return the settings, if the squares that they cover fit into the images."""
    settings.check_size(dataset.image_size)
    return settings


ENTRY = ViewEntry(
    name="expert",
    summary="random crop, flip, colour jitter, grayscale; on request blur, RandAugment, solarise, masks",
    settings=ExpertConfig,
    needs=frozenset({"encoder"}),
    build=build,
    fit=fit,
)
