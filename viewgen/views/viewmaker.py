"""Viewmaker: views of a network trained against the encoder, with one step after each encoder step.

References:
    Viewmaker Networks: Learning Views for Unsupervised Representation Learning, Tamkin et al., 2021,
    https://arxiv.org/abs/2010.07432
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry, in_training

if TYPE_CHECKING:
    from torch import Tensor

    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "ViewmakerSettings", "ViewmakerSource", "copies_and_noise"]


class ViewmakerSettings(Settings):
    """Settings of a Viewmaker and its training."""

    title = "viewmaker"

    budget: float = setting(0.05, "mean absolute change of a pixel, as a share of its range", gt=0, le=1)
    learning_rate: float = setting(1e-3, "learning rate of the Viewmaker's Adam", gt=0)
    width: int = setting(
        32, "channels after the first layer; later layers have two or four times as many", since=2, ge=1
    )


class ViewmakerSource:
    """Views of a Viewmaker, a `viewgen.views.source.LearnedSource`.

    Args:
        settings: strength and training.
        device: device of the network.
        average_gradients: function that replaces gradients by their means over the training's processes.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(
        self, settings: ViewmakerSettings, device: Any, average_gradients: Callable[[list[Any]], None]
    ) -> None:
        import torch

        from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig

        self.viewmaker = Viewmaker(ViewmakerConfig(budget=settings.budget, width=settings.width)).to(device)
        self.optimiser = torch.optim.Adam(self.viewmaker.parameters(), lr=settings.learning_rate)
        self._average_gradients = average_gradients
        self._num_views = 1

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, C, H, W)`, with gradients to the network if requested."""
        from viewgen.views.source import Views

        self._num_views = num_views
        flat: Tensor = self.viewmaker(*copies_and_noise(images, num_views))
        return Views(pixels=flat.view(num_views, *images.pixels.shape))

    def networks(self) -> Mapping[str, Any]:
        """Return the network and its optimiser."""
        return {"viewmaker": self.viewmaker, "viewmaker optimiser": self.optimiser}

    def after_step(self, images: Images, loss_of: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Take one ascent step on the loss that the encoder has just descended."""
        import torch

        parameters = list(self.viewmaker.parameters())
        loss = -loss_of(self.views(images, self._num_views).pixels)
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._average_gradients(parameters)
        self.optimiser.step()
        return {"viewmaker_loss": loss.detach()}


def copies_and_noise(images: Images, num_views: int) -> tuple[Tensor, Tensor]:
    """Return a Viewmaker's input, view by view.

    Returns:
        model images `(V·B, C, H, W)`, and uniform numbers in [0, 1), `(V·B, num_noise_channels(), H, W)`.
    """
    from viewgen.images import to_model
    from viewgen.networks.viewmaker import num_noise_channels

    pixels = to_model(images.pixels)
    noise = images.draws.uniform(
        "viewmaker", num_views, num_noise_channels(), *pixels.shape[2:], device=pixels.device
    )
    return pixels.repeat(num_views, 1, 1, 1), noise.transpose(0, 1).flatten(0, 1)


def build(settings: ViewmakerSettings, resources: Resources) -> ViewmakerSource:
    """Return the source of a training step."""
    found = in_training(resources, "viewmaker")
    return ViewmakerSource(settings, found.models.device, found.average_gradients)


ENTRY = ViewEntry(
    name="viewmaker",
    summary="a network trained against the encoder makes bounded changes (Viewmaker)",
    settings=ViewmakerSettings,
    needs=frozenset({"training"}),
    build=build,
)
