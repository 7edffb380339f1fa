"""Views of a trained Viewmaker, which does not change any more.

The network is that of a finished training with views of `viewmaker`, whose folder has its weights. Caches and
trainings record them, in half precision, so that they need the file no longer; that precision is what makes
the views, whether they are recorded yet or not.

References:
    Viewmaker Networks: Learning Views for Unsupervised Representation Learning, Tamkin, Wu and Goodman, 2021,
    https://arxiv.org/abs/2010.07432
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viewgen.errors import DataError, MissingFileError, ModelError, UsageError
from viewgen.networks.recorded import packed_network, unpacked
from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.viewmaker import copies_and_noise

if TYPE_CHECKING:
    from pathlib import Path

    from viewgen.datasets import ImageDataset
    from viewgen.networks.viewmaker import Viewmaker
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "MOST_CHARACTERS", "FrozenViewmakerConfig", "FrozenViewmakerSource"]

MOST_CHARACTERS = 3_500_000
"""Longest recorded weights; the document of a cache or a run that holds them is read up to 4 MB."""


class FrozenViewmakerConfig(Settings):
    """The trained Viewmaker."""

    title = "frozen-viewmaker"

    file: str | None = setting(
        None,
        "weights file of the Viewmaker, or the folder of the training that wrote it, one with views of "
        "`viewmaker`",
    )
    weights: str | None = setting(
        None,
        "weights file in half precision, in base64; made of the file, and recorded in its place",
        min_length=1,
    )

    def record(self) -> dict[str, Any]:
        """Return the identity: the weights, wherever their file is."""
        found = super().record()
        return found if self.weights is None else {**found, "file": None}

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON values, without weights whose file is named."""
        found = super().to_json()
        return found if self.file is None else {**found, "weights": None}


class FrozenViewmakerSource:
    """Views of a Viewmaker that is not trained.

    Args:
        config: the Viewmaker.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: FrozenViewmakerConfig) -> None:
        import copy

        # a copy, as the source moves it to the device of its images
        self.viewmaker: Viewmaker = copy.deepcopy(unpacked(_weights(config), "viewmaker"))

    def views(self, images: Images, num_views: int) -> Views:
        """Return model images `(V, B, 3, H, W)`; always the same number pass through the network at once."""
        import torch

        from viewgen.networks.batched import images_at_once
        from viewgen.optimise.slots import equal_parts
        from viewgen.views.source import Views

        device = images.pixels.device
        _check_channels(images.pixels.shape[1])
        viewmaker = self.viewmaker.to(device)
        both = torch.cat(copies_and_noise(images, num_views), dim=1)
        parts = equal_parts(both, images_at_once(both.shape[-1], device))
        with torch.no_grad():
            made = torch.cat([viewmaker(part[:, :3], part[:, 3:])[:kept] for part, kept in parts])
        return Views(pixels=made.view(num_views, *images.pixels.shape))


def _check_channels(num_channels: int) -> None:
    """Check the number of channels of the images.

    Raises:
        DataError: it is not 3.
    """
    if num_channels != 3:
        raise DataError(f"a Viewmaker needs images of 3 channels; these have {num_channels}")


def check(settings: FrozenViewmakerConfig) -> None:
    """Check that the settings hold a Viewmaker, or name a file that is there."""
    if settings.weights is None:
        _file(settings)


def _file(settings: FrozenViewmakerConfig) -> Path:
    """Return the file of the Viewmaker.

    Raises:
        UsageError: none is named.
        MissingFileError: there is none of that name.
    """
    from pathlib import Path

    from viewgen.networks.weights import network_file

    if settings.file is None:
        raise UsageError(
            "frozen-viewmaker views need a Viewmaker: `viewgen train --generated viewmaker --out RUN` trains "
            "one, --set file=RUN/viewmaker.safetensors (of a training: views.file) names it"
        )
    folder = Path(settings.file)
    if not folder.is_dir():
        return network_file(settings.file, "viewmaker")
    path = folder / "viewmaker.safetensors"
    if not path.is_file():
        raise MissingFileError(
            f"no viewmaker.safetensors in {folder}: `viewgen train --generated viewmaker` writes it when the "
            "training ends; run that command again, also if the training has finished, or name another run"
        )
    return path


def _weights(settings: FrozenViewmakerConfig) -> str:
    """Return the recorded weights, or those of the file.

    Raises:
        UsageError, MissingFileError: see `_file`.
        ModelError, CorruptDataError: the file holds another network, a damaged one, or one too wide.
    """
    from viewgen.networks.files import load_model

    if settings.weights is not None:
        return settings.weights
    path = _file(settings)
    viewmaker: Viewmaker = load_model(path, "viewmaker")
    weights = packed_network(viewmaker, half=True)
    if len(weights) > MOST_CHARACTERS:
        raise ModelError(
            f"{path} holds a Viewmaker of width {viewmaker.config.width}, whose weights have {len(weights)} "
            f"characters in base64; a cache records at most {MOST_CHARACTERS}: train one with a smaller "
            "views.width, for example the default"
        )
    return weights


def build(settings: FrozenViewmakerConfig, resources: Resources) -> FrozenViewmakerSource:
    """Return the source."""
    return FrozenViewmakerSource(settings)


def fit(settings: FrozenViewmakerConfig, dataset: ImageDataset) -> FrozenViewmakerConfig:
    """Return the settings with the Viewmaker's weights.

    Raises:
        UsageError: no Viewmaker is named.
        MissingFileError, ModelError: there is none of that name, or another network.
        DataError: the images have another number of channels.
    """
    _check_channels(dataset.channels)
    weights = _weights(settings)
    unpacked(weights, "viewmaker")
    return settings.replace(weights=weights)


def stand_in(settings: FrozenViewmakerConfig) -> FrozenViewmakerConfig:
    """Return settings with a new Viewmaker of the usual shape in place of a file."""
    from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig

    return settings.replace(file=None, weights=packed_network(Viewmaker(ViewmakerConfig()), half=True))


ENTRY = ViewEntry(
    name="frozen-viewmaker",
    summary="a trained Viewmaker, which does not change any more, makes bounded changes",
    settings=FrozenViewmakerConfig,
    build=build,
    fit=fit,
    check=check,
    stand_in=stand_in,
)
