"""The trained network: encoders and the head of an objective, applied to all views of a step.

Shape legend: K views, B images of this process, D projection dimension, F feature dimension.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.layout import channels_last
from viewgen.roles import Role
from viewgen_train.objectives.objective import Head
from viewgen_train.settings import TrainSettings

__all__ = ["ContrastiveNetwork", "Predictor", "build_network"]


class Predictor(nn.Module):
    """Predictor of a head: an MLP with a bottleneck of a quarter of the width.

    Args:
        dim: width of the projections.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // 4)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, projections: Tensor) -> Tensor:
        """Map projections `(B, D)` to predictions `(B, D)`."""
        predictions: Tensor = self.layers(projections)
        return predictions


class ContrastiveNetwork(nn.Module):
    """Network from views to projections, predictions and features.

    Args:
        encoder: encoder f, or an encoder of each role.
        head: head required by the objective.
        predictor: predictor of the head, or None.
        separate: True if each view has its own forward pass and batch statistics.
        bf16: True if convolutions and matrix products use bfloat16.
        roles: roles of the views in their order; empty if they are interchangeable.

    Attributes:
        target: exponential moving average of the encoder, if the head has a momentum.
    """

    def __init__(
        self,
        encoder: Encoder | Branches,
        head: Head,
        predictor: Predictor | None,
        *,
        separate: bool,
        bf16: bool,
        roles: tuple[Role, ...] = (),
    ) -> None:
        super().__init__()
        self.roles = roles
        self.encoder, self.head, self.predictor = encoder, head, predictor
        self.target = None if head.momentum is None else copy.deepcopy(encoder).requires_grad_(False)
        self.separate, self.bf16 = separate, bf16

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Map views to the inputs of an objective.

        Args:
            views: model images, `(K, B, C, H, W)`.

        Returns:
            float32 tensors, keyed by the fields of `Outputs`: ``z`` `(B, K, D)`, ``features`` `(B, K, F)`
            and, if the head has them, ``p`` and ``target`` `(B, K, D)`.
        """
        parts = [self._together(*part) for part in self._parts(views)]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _parts(self, views: Tensor) -> list[tuple[Tensor, str]]:
        """Return the views of each forward pass, `(·, B, C, H, W)`, with the role of its encoder."""
        if not isinstance(self.encoder, Branches):
            return [(part, "") for part in (views.split(1) if self.separate else [views])]
        parts = [(role.of(view), role.name) for role, view in zip(self.roles, views.split(1), strict=True)]
        if self.encoder.config.shared and not self.separate:
            return [(torch.cat([part for part, _ in parts]), self.roles[0].name)]
        return parts

    def _together(self, views: Tensor, role: str) -> dict[str, Tensor]:
        flat = views.flatten(0, 1)
        encoder = of_role(self.encoder, role)
        with torch.autocast(flat.device.type, torch.bfloat16, enabled=self.bf16):
            found = {"features": encoder.embed(flat)}
            found["z"] = self._projected(encoder, found["features"])
            if self.predictor is not None:
                found["p"] = self.predictor(found["z"])
            if self.target is not None:
                target = of_role(self.target, role)
                with torch.no_grad():
                    found["target"] = self._projected(target, target.embed(flat))
        return {
            name: tensor.float().unflatten(0, (len(views), -1)).transpose(0, 1)
            for name, tensor in found.items()
        }

    def _projected(self, encoder: Encoder, features: Tensor) -> Tensor:
        z: Tensor = encoder.projector(features)
        return F.normalize(z, dim=1) if self.head.unit else z

    @torch.no_grad()
    def follow(self) -> None:
        """Move the target network, if any, towards the encoder."""
        if self.target is None or self.head.momentum is None:
            return
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.head.momentum)


def of_role(encoder: Encoder | Branches, role: str) -> Encoder:
    """Return the encoder of a role."""
    return encoder[role] if isinstance(encoder, Branches) else encoder


def build_network(
    settings: TrainSettings,
    head: Head,
    image_size: int,
    device: torch.device,
    *,
    channels: int = 3,
    roles: tuple[Role, ...] = (),
) -> ContrastiveNetwork:
    """Return a network whose initial weights depend only on the settings, including their seed.

    Args:
        settings: settings of the training, with resolved precision.
        head: head required by the objective.
        image_size: side of the images, in pixels.
        device: device of the weights.
        channels: number of image channels.
        roles: roles of the views; each has an encoder, or all share one.
    """
    shape = settings.network

    def config(in_channels: int) -> EncoderConfig:
        return EncoderConfig(
            image_size=image_size,
            backbone=shape.backbone,
            width=shape.width,
            projection_dim=shape.projection_dim,
            projector=head.projector if shape.projector == "objective" else shape.projector,
            in_channels=in_channels,
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder: Encoder | Branches
        if roles:
            configs = {role.name: config(role.num_channels(channels)) for role in roles}
            encoder = Branches(BranchesConfig(branches=configs, shared=shape.branches == "shared"))
        else:
            encoder = Encoder(config(channels))
        predictor = Predictor(shape.projection_dim) if head.predictor else None
    network = ContrastiveNetwork(
        encoder,
        head,
        predictor,
        separate=shape.batchnorm == "separate",
        bf16=shape.precision == "bf16",
        roles=roles,
    ).to(device)
    if shape.channels_last:
        channels_last(network)
    return network
