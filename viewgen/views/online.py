"""Online W-search: one signed-gradient step on eq. 2 against the encoder in training.

Shape legend: B images, V views of each, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2 and appendix F, https://arxiv.org/abs/2304.00601
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry, in_training
from viewgen.views.wsearch.settings import WSearchConfig

if TYPE_CHECKING:
    from torch import Tensor

    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "OnlineConfig", "OnlineSource"]


class OnlineConfig(Settings):
    """Settings of online W-search."""

    title = "online"

    step: float = setting(0.1, "length of the signed-gradient step, per element of a code", gt=0)
    epsilon_boundary: float = setting(0.3, "ε₁, distance of a view from its anchor", gt=0)


class OnlineSource:
    """Views of codes after one step.

    Args:
        config: settings of the step.
        generator: g, frozen.
        encoder: f, in training.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: OnlineConfig, generator: Any, encoder: Any) -> None:
        self.config, self.generator, self.encoder = config, generator, encoder
        self.search = WSearchConfig(epsilon_boundary=config.epsilon_boundary)

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, C, H, W)`, with their codes as column ``w_plus``."""
        import torch

        from viewgen.diagnostics.features import evaluation_mode
        from viewgen.networks.batched import decoded
        from viewgen.views.source import Views, required_codes
        from viewgen.views.wsearch.problem import clamp_to_range

        codes = required_codes(images)
        noise = images.draws.normal("codes", num_views, *codes.shape[1:]).to(codes)
        start = codes + self.search.init_noise * (self.generator.code_scale * noise.transpose(0, 1))
        with evaluation_mode(self.encoder):
            with torch.no_grad():
                anchors = self.encoder(clamp_to_range(self.generator.decode(codes)))
            with torch.enable_grad():
                w = start.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.loss(w, anchors).sum(), w)
        with torch.no_grad():
            stepped = start - self.config.step * (self.generator.code_scale * gradient.sign())
            return Views(pixels=decoded(self.generator, stepped), columns={"w_plus": stepped.transpose(0, 1)})

    def loss(self, w: Tensor, anchors: Tensor) -> Tensor:
        """Return eq. 2 of every image, `(B,)`, for codes `(V, B, *code_shape)` and anchors `(B, K)`."""
        from viewgen.views.distances import mean_pairwise_distance
        from viewgen.views.wsearch.loss import boundary_uniformity_loss
        from viewgen.views.wsearch.problem import clamp_to_range

        images = clamp_to_range(self.generator.decode(w.flatten(0, 1)))
        z = self.encoder(images).unflatten(0, (len(w), -1)).transpose(0, 1)
        distance = (z - anchors[:, None]).square().sum(dim=2).clamp_min(1e-12).sqrt()
        return boundary_uniformity_loss(distance, mean_pairwise_distance(z), self.search)


def build(settings: OnlineConfig, resources: Resources) -> OnlineSource:
    """Return the source of a training step."""
    found = in_training(resources, "online")
    return OnlineSource(settings, found.network("generator"), found.models.encoder)


ENTRY = ViewEntry(
    name="online",
    summary="one signed-gradient step of W-search against the encoder as it trains",
    settings=OnlineConfig,
    needs=frozenset({"generator", "inversions", "training"}),
    build=build,
)
