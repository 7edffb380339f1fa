"""Learned views: an image under a flow of its colours, the first channel and the other two.

The flow is that of `viewgen pretrain views`, and does not change any more. Its channels are standardised like
those of a colour split. Caches and trainings record its weights, so that they need its file no longer.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 4.2, https://arxiv.org/abs/2005.10243
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viewgen.errors import DataError, ModelError, UsageError
from viewgen.networks.recorded import packed, packed_network, unpacked
from viewgen.roles import Role
from viewgen.settings import Settings, setting
from viewgen.views.color import check_deviation, color_channels, standardised
from viewgen.views.color_settings import Space
from viewgen.views.entry import Resources, ViewEntry

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from viewgen.datasets import ImageDataset
    from viewgen.networks.flow import Flow
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "LEAST_DEVIATION", "FlowSource", "FlowViewsConfig", "flow_channels"]

LEAST_DEVIATION = 1e-3
"""Standard deviation below which a channel has collapsed; those of the flow's input are 1."""


class FlowViewsConfig(Settings):
    """The flow, and normalisation of its channels."""

    title = "flow"

    file: str | None = setting(
        None, "weights file of the flow, of `viewgen pretrain views`, or its name in `viewgen models list`"
    )
    space: Space | None = setting(
        None, "colour space that the flow must have been trained in; by default that of any flow", since=2
    )
    span: float = setting(
        4.0, "standard deviations of a channel that the range of a view holds on either side", gt=0
    )
    weights: str | None = setting(
        None, "contents of the file in base64; read from it, and recorded in its place", min_length=1
    )
    mean: tuple[float, float, float] | None = setting(
        None,
        "mean of each channel of the flow; by default over the pixels of the training images, or without any "
        "0",
    )
    deviation: tuple[float, float, float] | None = setting(
        None,
        "standard deviation of each channel of the flow; by default over the pixels of the training images, "
        "or without any 1",
    )

    def record(self) -> dict[str, Any]:
        """Return the identity: the weights, wherever their file is, in whose space they were trained."""
        found = super().record()
        if self.weights is None:
            return found
        found.pop("space", None)
        return {**found, "file": None}

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON values, without weights whose file is named."""
        found = super().to_json()
        return found if self.file is None else {**found, "weights": None}


class FlowSource:
    """The image under a flow, once for each role; a role has the channels that count.

    Args:
        config: the flow and normalisation.
    """

    roles: tuple[str, ...] = ("first", "rest")

    def __init__(self, config: FlowViewsConfig) -> None:
        import copy

        import torch

        self.config = config
        # a copy, as the source moves it to the device of its images
        self.flow: Flow = copy.deepcopy(unpacked(_weights(config), "flow"))
        # without statistics those of the flow's input, which a new flow returns as it is
        self.mean = torch.tensor(config.mean or (0.0, 0.0, 0.0))
        self.deviation = torch.tensor(config.deviation or (1.0, 1.0, 1.0))

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, 3, H, W)`, all V equal."""
        import torch

        from viewgen.views.source import Views

        with torch.no_grad():
            channels = flow_channels(images.pixels, self.flow.to(images.pixels.device))
            views = standardised(channels, self.mean, self.deviation, self.config.span)
        return Views(pixels=views.expand(num_views, *views.shape))


def flow_channels(pixels: Tensor, flow: Flow) -> Tensor:
    """Return storage images `(B, 3, H, W)` under a flow."""
    channels: Tensor = flow(flow.normalised(color_channels(pixels, flow.config.space)))
    return channels


def check(settings: FlowViewsConfig) -> None:
    """Check that the settings hold a flow, or name a file that is there."""
    if settings.weights is None:
        _file(settings)


def _file(settings: FlowViewsConfig) -> Path:
    """Return the file of the flow.

    Raises:
        UsageError: none is named.
        MissingFileError: there is none of that name.
    """
    from viewgen.networks.weights import network_file

    if settings.file is None:
        raise UsageError(
            "flow views need a flow: `viewgen pretrain views --dataset D --out DIR` trains one, "
            "--set file=DIR/flow.safetensors (of a training: views.file) names it"
        )
    return network_file(settings.file, "flow")


def _weights(settings: FlowViewsConfig) -> str:
    return settings.weights or packed(_file(settings))


def _check_space(settings: FlowViewsConfig, space: Space) -> None:
    """Check that the flow is of the colour space that the settings have, if they have one.

    Raises:
        ModelError: it is of another.
    """
    if settings.space not in (None, space):
        raise ModelError(
            f"{settings.file or 'the recorded flow'} was trained in {space}, and flow views in "
            f"{settings.space} were asked for; name a flow of {settings.space} (`viewgen pretrain views "
            f"--space {settings.space}` trains one), set space to {space}, or leave it out"
        )


def build(settings: FlowViewsConfig, resources: Resources) -> FlowSource:
    """Return the source."""
    check_deviation("flow", settings.deviation)
    return FlowSource(settings)


def fit(settings: FlowViewsConfig, dataset: ImageDataset) -> FlowViewsConfig:
    """Return the settings with the flow's weights and the statistics of its channels over the images.

    Raises:
        UsageError: no flow is named.
        MissingFileError, ModelError: there is none of that name, or another network, or one of another
            colour space than the settings have.
        DataError: the images are grey, or a channel of the flow is constant.
    """
    from viewgen.views.channel_statistics import channel_statistics, check_colored

    weights = _weights(settings)
    settings, flow = settings.replace(weights=weights), unpacked(weights, "flow")
    _check_space(settings, flow.config.space)
    if settings.mean is not None and settings.deviation is not None:
        return settings
    found = channel_statistics(dataset, lambda images: flow_channels(images, flow))
    check_colored(dataset, found, flow.config.space)
    if (least := min(found.deviation)) < LEAST_DEVIATION:
        raise DataError(
            f"channel {found.deviation.index(least) + 1} of the flow has standard deviation {least:.2g} over "
            f"{dataset.name}, below {LEAST_DEVIATION}: a view of it would be constant; train another flow "
            "(`viewgen pretrain views`)"
        )
    # of a flow that changes little the mean is rounding, which differs between processors
    mean, deviation = (tuple(round(one, 5) for one in values) for values in (found.mean, found.deviation))
    return settings.replace(mean=settings.mean or mean, deviation=settings.deviation or deviation)


def stand_in(settings: FlowViewsConfig) -> FlowViewsConfig:
    """Return settings with a new flow of the usual shape in place of a file."""
    from viewgen.networks.flow import Flow, FlowConfig

    flow = Flow(FlowConfig(image_size=1, space=settings.space or "RGB"))
    return settings.replace(file=None, weights=packed_network(flow))


ENTRY = ViewEntry(
    name="flow",
    summary="two learned views: the first channel of an image under a trained flow, and the other two",
    settings=FlowViewsConfig,
    build=build,
    fit=fit,
    random=False,
    check=check,
    stand_in=stand_in,
    roles=(Role(name="first", channels=(0,), signed=True), Role(name="rest", channels=(1, 2), signed=True)),
)
