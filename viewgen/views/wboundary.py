"""W-boundary: random directions of codes, each followed to the distance ε₁ from its anchor.

The view k of an image is g(e(x) + s_k·u_k) with u_k ~ N(0, I) and the s_k at which its distance
‖f(g(e(x) + s_k·u_k)) − f(x₀)‖ is ε₁: W-perturb with one σ per view, chosen by the encoder. It takes forward
passes only, and no gradient of the encoder decides a direction: all of the distance is seen by other encoders
too, and views are farther from their anchor in pixels than those of W-search at the same ε₁. This was the
default of what 0.1.0 called W-search.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, https://arxiv.org/abs/2304.00601
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.wsearch.entry import settle

if TYPE_CHECKING:
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "WBoundaryConfig", "WBoundarySource"]

# Images whose directions are followed together: it bounds the memory.
IMAGES_AT_ONCE = 64


class WBoundaryConfig(Settings):
    """Settings of W-boundary; distances are between unit vectors, in [0, 2]."""

    title = "wboundary"

    epsilon_boundary: Annotated[float, Field(gt=0, le=2)] | Literal["auto"] = setting(
        0.3, "ε₁, distance of a view from its anchor; auto measures it on expert views", flag=True
    )
    anchor: Literal["reconstruction", "image"] = setting(
        "reconstruction", "x₀, what ε₁ counts from: the reconstruction g(e(x)) or the image itself", flag=True
    )
    tolerance: float = setting(0.015, "distance from ε₁ at which a view is found", gt=0, le=2)
    max_passes: int = setting(12, "evaluations of a view, after which it counts as not converged", ge=1)


class WBoundarySource:
    """Views at ε₁ in random directions.

    Args:
        config: settings, with ε₁ a number.
        resources: generator, encoder, and their execution settings.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: WBoundaryConfig, resources: Resources) -> None:
        from viewgen.networks.batched import images_at_once

        self.config = config
        self.generator: Any = resources.network("generator")
        self.encoder: Any = resources.network("encoder")
        self.at_once = images_at_once(self.generator.image_size, resources.models.device)

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`, with codes, distances, steps and status as columns.

        An image's steps are the evaluations of its slowest view.
        """
        import torch

        from viewgen.networks.batched import project, render
        from viewgen.status import Status
        from viewgen.views.boundary_start import boundary_scales
        from viewgen.views.distances import view_distances
        from viewgen.views.source import Views, required_codes

        config, anchors = self.config, required_codes(images)
        assert not isinstance(config.epsilon_boundary, str), "auto stands for a number that is measured first"
        image_features = project(self.encoder, images.pixels, self.at_once)
        features = project(self.encoder, render(self.generator, anchors, self.at_once), self.at_once)
        targets = image_features if config.anchor == "image" else features
        drawn = images.draws.normal("wboundary", num_views, *anchors.shape[1:]).to(anchors)
        directions = self.generator.code_scale * drawn
        found, passes = [], []
        for rows in torch.arange(len(images), device=anchors.device).split(IMAGES_AT_ONCE):
            scales, used = boundary_scales(
                self.generator,
                self.encoder,
                anchors[rows],
                targets[rows],
                directions[rows],
                config.epsilon_boundary,
                tolerance=config.tolerance,
                max_passes=config.max_passes,
                batch_size=self.at_once,
            )
            found.append(scales)
            passes.append(used.amax(dim=1))
        codes = anchors[:, None] + torch.cat(found)[(..., *(None,) * (anchors.ndim - 1))] * directions
        flat = render(self.generator, codes.flatten(0, 1), self.at_once)
        views = flat.unflatten(0, (-1, num_views))
        measured = view_distances(self.encoder, views, targets, self.at_once)
        # rounding to 8 bits moves a view a little
        near = (measured["distance"] - config.epsilon_boundary).abs() <= 2 * config.tolerance
        status = torch.where(near.all(dim=1), int(Status.OK), int(Status.NOT_CONVERGED)).to(torch.uint8)
        columns = {
            "steps": torch.cat(passes),
            "status": status,
            "w_plus": codes,
            **measured,
            "anchor_distance": (features - image_features).norm(dim=1),
        }
        return Views(pixels=views.transpose(0, 1), status=status, columns=columns)


def build(settings: WBoundaryConfig, resources: Resources) -> WBoundarySource:
    """Return the source of views at ε₁."""
    return WBoundarySource(settings, resources)


ENTRY = ViewEntry(
    name="wboundary",
    summary="random directions of codes followed to a set distance in the encoder's space (no search)",
    settings=WBoundaryConfig,
    needs=frozenset({"generator", "encoder", "inversions"}),
    build=build,
    keeps_codes=True,
    settle=settle,
)
