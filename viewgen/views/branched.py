"""Encoders of several roles as one encoder of images, for readouts.

Shape legend: B images, C, H, W channels and space, F features of all roles.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from viewgen.errors import DataError, ModelError, UsageError
from viewgen.images import to_storage
from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import KINDS, Models, load_encoder, read_header
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.views import VIEWS
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources
from viewgen.views.source import Images

__all__ = ["VIEWS_NOTE", "BranchedEncoder", "ImageEncoder", "check_splits", "load_image_encoder"]

VIEWS_NOTE = "views"
"""Header entry of a file of branches: the view source that splits an image into the views of its roles."""


class BranchedEncoder(nn.Module):
    """Branches behind the view source that splits an image.

    A source that draws random numbers gets the same ones for every image.

    Args:
        branches: encoder of each role.
        views: view source with roles.

    Attributes:
        embedding_dim: F, width of the concatenated features.
    """

    def __init__(self, branches: Branches, views: Choice[Any]) -> None:
        super().__init__()
        check_splits(views)
        self.branches, self.views = branches, views
        self.embedding_dim = branches.embedding_dim
        self._sources: dict[torch.device, Any] = {}

    @property
    def config(self) -> BranchesConfig:
        """Shapes of the encoders."""
        return self.branches.config

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the views."""
        roles: tuple[Role, ...] = self.views.entry.roles
        return roles

    def embed(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to the concatenated features of their views, `(B, F)`."""
        device = images.device
        if device not in self._sources:
            self._sources[device] = self.views.build(Resources(models=Models(device=device)))
        index = torch.zeros(len(images), dtype=torch.int64)
        batch = Images(pixels=to_storage(images), source_index=index, draws=ImageDraws(0, index))
        views = self._sources[device].views(batch, len(self.roles)).model
        return self.branches.embed(
            {role.name: role.of(view) for role, view in zip(self.roles, views, strict=True)}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Refuse: views of different roles have no common projection.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"an encoder for each of {', '.join(self.branches.roles)} has features of an image (`embed`), "
            "but no joint projection; a distance in the space of one encoder is not defined"
        )


ImageEncoder: TypeAlias = Encoder | BranchedEncoder


def check_splits(views: Choice[Any]) -> None:
    """Check that a view source can split any image at hand.

    Raises:
        UsageError: it has no roles, or needs networks or a training.
    """
    entry = views.entry
    lacking = sorted(entry.uses(views.settings) & {*KINDS, "cache", "inversions", "training"})
    if not entry.roles or lacking:
        reason = f"needs {', '.join(lacking)}" if lacking else "has no roles"
        raise UsageError(
            f"{views.name} views {reason}; an encoder for each role is read out on the views that a source "
            "makes of an image alone"
        )


def load_image_encoder(path: str | Path, device: torch.device | str = "cpu") -> ImageEncoder:
    """Load an encoder of images for inference; several branches with the view source of their training.

    Raises:
        MissingFileError, ModelError: see `viewgen.networks.files.load_model`.
        ModelError: a file of branches without its view source.
    """
    network = load_encoder(path, device)
    if not isinstance(network, Branches):
        return network
    note = read_header(path).get(VIEWS_NOTE)
    if not isinstance(note, Mapping):
        raise ModelError(
            f"{path} holds an encoder for each of {', '.join(network.roles)} and does not say which view "
            f"source splits an image for them; expected the header entry {VIEWS_NOTE!r}"
        )
    branched = BranchedEncoder(network, VIEWS.read(note))
    return branched.eval().requires_grad_(False)
