"""One encoder per role of a view, for sources whose roles are images of different kinds.

A source whose views are the luma and the chroma of an image has one encoder for each; the features of an
image are the concatenated features of both. Roles of equal numbers of channels may share one encoder.

References:
    Contrastive Multiview Coding, Tian, Krishnan and Isola, 2020, https://arxiv.org/abs/1906.05849

Shape legend: B images, C, H, W channels and space of a role's views.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.networks.config import NetworkConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.settings import setting

__all__ = ["SHARED", "Branches", "BranchesConfig"]

# name of the encoder of all roles, where they share one
SHARED = "shared"


class BranchesConfig(NetworkConfig):
    """Shapes of the encoders of several roles."""

    title: ClassVar[str] = "the branches' shape"

    branches: dict[str, EncoderConfig] = setting(
        ..., "role → shape of its encoder", min_length=1, max_length=16
    )
    shared: bool = setting(False, "whether all roles share one encoder", since=2)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if len({config.image_size for config in self.branches.values()}) > 1:
            raise ModelError(f"the branches {', '.join(self.branches)} are for images of different sizes")
        # roles are names of submodules
        if unusable := [role for role in self.branches if not role.isidentifier()]:
            raise ModelError(f"{unusable[0]!r} cannot be the name of a role; expected a word")
        if self.shared and len({config.model_dump_json() for config in self.branches.values()}) > 1:
            channels = ", ".join(f"{role} {config.in_channels}" for role, config in self.branches.items())
            raise ModelError(
                f"roles with encoders of different shapes cannot share one (channels: {channels}); give each "
                "role its own"
            )
        return self

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return next(iter(self.branches.values())).image_size

    def record(self) -> dict[str, Any]:
        """Return the header's JSON values: the size, and the branches in order."""
        return {
            "image_size": self.image_size,
            "branches": [[role, config.record()] for role, config in self.branches.items()],
            **({"shared": True} if self.shared else {}),
        }

    @classmethod
    def from_record(cls, document: Mapping[str, Any]) -> Self:
        """Return the shapes written by `record`."""
        return cls(
            branches={role: EncoderConfig.from_record(config) for role, config in document["branches"]},
            shared=document.get("shared", False),
        )


class Branches(nn.Module):
    """Role → encoder.

    Attributes:
        config: shapes of the encoders.
        embedding_dim: width of the concatenated features.
    """

    def __init__(self, config: BranchesConfig) -> None:
        super().__init__()
        self.config = config
        shapes = config.branches
        if config.shared:
            shapes = {SHARED: next(iter(shapes.values()))}
        self.encoders = nn.ModuleDict({role: Encoder(shape) for role, shape in shapes.items()})
        self.embedding_dim = sum(self[role].embedding_dim for role in self.roles)

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the roles, in the order of the features."""
        return tuple(self.config.branches)

    def __getitem__(self, role: str) -> Encoder:
        """Return the encoder of a role.

        Raises:
            ModelError: there is none.
        """
        if role not in self.roles:
            raise ModelError(f"no encoder of role {role!r}; there are {', '.join(self.roles)}")
        encoder = self.encoders[SHARED if self.config.shared else role]
        assert isinstance(encoder, Encoder)
        return encoder

    def embed(self, views: Mapping[str, Tensor]) -> Tensor:
        """Map the views of an image, role → `(B, C, H, W)`, to concatenated features `(B, embedding_dim)`."""
        self._check(views)
        return torch.cat([self[role].embed(views[role]) for role in self.roles], dim=1)

    def project(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map views, role → `(B, C, H, W)`, to unnormalised projections, role → `(B, projection_dim)`."""
        self._check(views)
        return {role: self[role].project(views[role]) for role in self.roles}

    def forward(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map views, role → `(B, C, H, W)`, to unit projections, role → `(B, projection_dim)`."""
        self._check(views)
        return {role: self[role](views[role]) for role in self.roles}

    def _check(self, views: Mapping[str, Tensor]) -> None:
        if views.keys() != set(self.roles):
            raise ModelError(f"views of the roles {', '.join(views)} came; expected {', '.join(self.roles)}")
