"""The trained network: encoders and the head of an objective, applied to all views of a step.

The target network can normalise the batch in groups: ShuffleBN and SplitBN of MoCo, which keep a query from
recognising its key by their common batch statistics. Group r of the trained network holds the images at
positions r, r + g, r + 2g, … of a batch. A shuffle permutes every g consecutive images at random, which puts
one of them into each group, so that groups of several processes are those of one process.

Shape legend: K views, B images of this process, P patches of an image, D projection dimension, F feature
dimension, g groups.

References:
    Momentum Contrast for Unsupervised Visual Representation Learning, He et al., 2020, section 3.3
    (ShuffleBN), https://arxiv.org/abs/1911.05722
    Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, Grill et al., 2020, section 3.1 and
    appendix J (moving average), https://arxiv.org/abs/2006.07733
"""

import copy
import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.layout import channels_last
from viewgen.roles import Role
from viewgen_train.decoder import Decoder, Decoders, build_decoder, image_errors
from viewgen_train.jigsaw import JigsawHead
from viewgen_train.masking import Corrupted
from viewgen_train.objectives.objective import Head
from viewgen_train.settings import TrainSettings

__all__ = ["ContrastiveNetwork", "Predictor", "build_network", "group_shuffle", "momentum"]


class Predictor(nn.Module):
    """Predictor of a head: an MLP of two layers.

    Args:
        dim: width of the projections.
        hidden: width of the hidden layer; by default a bottleneck of a quarter of `dim`.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(1, dim // 4)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, projections: Tensor) -> Tensor:
        """Map projections `(B, D)` to predictions `(B, D)`."""
        predictions: Tensor = self.layers(projections)
        return predictions


class _Pass(Protocol):
    def __call__(self, images: Tensor, role: str, /) -> dict[str, Tensor]: ...


class ContrastiveNetwork(nn.Module):
    """Network from views to projections, predictions and features.

    Args:
        encoder: encoder f, or an encoder of each role.
        head: head required by the objective.
        predictor: predictor of the head, or None.
        separate: True if each view has its own forward pass and batch statistics.
        bf16: True if convolutions and matrix products use bfloat16.
        roles: roles of the views in their order; empty if they are interchangeable.
        decoder: decoder of a reconstruction, decoders of roles, or None.
        error: error of a rebuilt image, of `viewgen_train.decoder.image_errors`.
        jigsaw: head of the jigsaw branch, or None.

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
        decoder: Decoder | Decoders | None = None,
        error: str = "mse",
        jigsaw: JigsawHead | None = None,
    ) -> None:
        super().__init__()
        self.roles, self.jigsaw = roles, jigsaw
        self.decoder, self.error = decoder, error
        self.encoder, self.head, self.predictor = encoder, head, predictor
        self.target = None if head.momentum is None else copy.deepcopy(encoder).requires_grad_(False)
        self.separate, self.bf16 = separate, bf16

    def forward(
        self,
        views: Tensor,
        shuffle: Tensor | None = None,
        corrupted: Corrupted | None = None,
        patches: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Map views to the inputs of an objective.

        Args:
            views: model images, `(K, B, C, H, W)`.
            shuffle: permutation of the images for the target network's groups, `(B,)`; see `group_shuffle`.
            corrupted: inputs of the reconstruction, in a forward pass of their own; None for none.
            patches: model images of the jigsaw branch, `(B, G, C, P, P)`, likewise.

        Returns:
            float32 tensors, keyed by the fields of `Outputs`: ``z`` `(B, K, D)`, ``features`` `(B, K, F)`
            and, if the head has them, ``p`` and ``target`` `(B, K, D)`, ``patches`` `(B, K, P, F)` and
            ``patch_projections`` `(B, K, P, D)`; ``reconstruction`` `(B, R)`, errors, of corrupted views;
            ``jigsaw`` `(B, 1, D)` of patches.
        """
        head = self.head
        seen = views[:1] if head.one_sided else views
        found = self._in_groups(self._online, seen, head.key_groups if head.shuffled else 1)
        if self.target is not None:
            seen = views[1:] if head.one_sided else views
            with torch.no_grad():
                found |= self._in_groups(self._followed, seen, head.key_groups, shuffle)
        if head.one_sided:
            first, others = slice(0, 1), slice(1, None)
            found = {
                name: _placed(part, others if name == "target" else first, len(views))
                for name, part in found.items()
            }
        if corrupted is not None:
            found["reconstruction"] = self._rebuilt(corrupted)
        if patches is not None:
            found["jigsaw"] = self._assembled(patches)
        return found

    def _assembled(self, patches: Tensor) -> Tensor:
        """Return the unit projections of the images' patches, float32 `(B, 1, D)`."""
        assert self.jigsaw is not None
        assert isinstance(self.encoder, Encoder)
        with torch.autocast(patches.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.encoder.embed(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
            projections: Tensor = self.jigsaw(features)
        return projections.float()[:, None]

    def _rebuilt(self, corrupted: Corrupted) -> Tensor:
        """Return the errors of the rebuilt views, float32 `(B, R)`, of each role's in a pass of its own."""
        if isinstance(self.encoder, Encoder):
            assert isinstance(self.decoder, Decoder)
            return self._errors(self.encoder, self.decoder, corrupted)
        assert isinstance(self.decoder, Decoders)
        rebuilt = zip(self.roles, self.decoder.roles, strict=False)
        parts = [
            self._errors(self.encoder[name], self.decoder[name], corrupted.of_role(index, role))
            for index, (role, name) in enumerate(rebuilt)
        ]
        return torch.cat(parts, dim=1)

    def _errors(self, encoder: Encoder, decoder: Decoder, corrupted: Corrupted) -> Tensor:
        """Return the errors of views that one encoder reads, float32 `(B, R)`."""
        inputs, targets = corrupted.inputs.flatten(0, 1), corrupted.targets.flatten(0, 1)
        weights = None if corrupted.weights is None else corrupted.weights.flatten(0, 1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            rebuilt = decoder(encoder.feature_map(inputs))
        errors = image_errors(rebuilt, targets, weights, self.error)
        by_view: Tensor = errors.unflatten(0, corrupted.inputs.shape[:2])
        return by_view.T

    def _in_groups(
        self, function: "_Pass", views: Tensor, num_groups: int, shuffle: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return a function's outputs on the views, computed for each group of images by itself."""
        if num_groups == 1:
            return self._of_parts(function, views)
        if shuffle is not None:
            views = views[:, shuffle]
        groups = [self._of_parts(function, views[:, first::num_groups]) for first in range(num_groups)]
        found = {}
        for name in groups[0]:
            # position r of each group in turn is the order of the images
            whole = torch.stack([group[name] for group in groups], dim=1).flatten(0, 1)
            found[name] = whole if shuffle is None else torch.empty_like(whole).index_copy(0, shuffle, whole)
        return found

    def _of_parts(self, function: "_Pass", views: Tensor) -> dict[str, Tensor]:
        """Return a function's outputs on the views of each forward pass, joined: `(B, K, …)`."""
        parts = [
            {
                name: tensor.float().unflatten(0, (len(part), -1)).transpose(0, 1)
                for name, tensor in function(part.flatten(0, 1), role).items()
            }
            for part, role in self._parts(views)
        ]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _parts(self, views: Tensor) -> list[tuple[Tensor, str]]:
        """Return the views of each forward pass, `(·, B, C, H, W)`, with the role of its encoder."""
        if not isinstance(self.encoder, Branches):
            return [(part, "") for part in (views.split(1) if self.separate else [views])]
        parts = [(role.of(view), role.name) for role, view in zip(self.roles, views.split(1), strict=True)]
        if self.encoder.config.shared and not self.separate:
            return [(torch.cat([part for part, _ in parts]), self.roles[0].name)]
        return parts

    def _online(self, images: Tensor, role: str) -> dict[str, Tensor]:
        """Return the outputs of the trained network."""
        encoder = of_role(self.encoder, role)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            if self.head.patches:
                patches = encoder.embed_patches(images)
                projected: Tensor = encoder.projector(patches)
                found = {"features": patches.mean(dim=1), "z": projected.mean(dim=1)}
                found |= {"patches": patches, "patch_projections": projected}
            else:
                found = {"features": encoder.embed(images)}
                found["z"] = self._projected(encoder, found["features"])
            if self.predictor is not None:
                found["p"] = self.predictor(found["z"])
        return found

    def _followed(self, images: Tensor, role: str) -> dict[str, Tensor]:
        """Return the outputs of the target network."""
        assert self.target is not None
        target = of_role(self.target, role)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            return {"target": self._projected(target, target.embed(images))}

    def _projected(self, encoder: Encoder, features: Tensor) -> Tensor:
        z: Tensor = encoder.projector(features)
        return F.normalize(z, dim=1) if self.head.unit else z

    @torch.no_grad()
    def follow(self, progress: float = 0.0) -> None:
        """Move the target network, if any, towards the encoder.

        Args:
            progress: share of the training's steps before this one.
        """
        if self.target is None or self.head.momentum is None:
            return
        decay = momentum(self.head, progress)
        for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)


def momentum(head: Head, progress: float) -> float:
    """Return the decay m of the moving average: m₁ − (m₁ − m₀)·(cos πt + 1)/2 after a share t of the steps.

    Args:
        head: head with the decays m₀ at the beginning and m₁ at the end.
        progress: t.
    """
    assert head.momentum is not None
    if head.final_momentum is None:
        return head.momentum
    missing = (math.cos(math.pi * progress) + 1) / 2
    return head.final_momentum - (head.final_momentum - head.momentum) * missing


def group_shuffle(numbers: Tensor, num_groups: int) -> Tensor:
    """Return a permutation of the images that permutes every `num_groups` consecutive ones.

    Args:
        numbers: uniform random numbers, `(B,)`.
        num_groups: g, a divisor of B.

    Returns:
        positions, int64 `(B,)`.
    """
    within: Tensor = numbers.unflatten(0, (-1, num_groups)).argsort(dim=1)
    first = torch.arange(0, len(numbers), num_groups, device=numbers.device)
    return (first[:, None] + within).flatten()


def _placed(part: Tensor, views: slice, num_views: int) -> Tensor:
    """Return the outputs `(B, ·, …)` of some views among those of all, `(B, K, …)`, NaN for the others."""
    whole = part.new_full((len(part), num_views, *part.shape[2:]), math.nan)
    whole[:, views] = part
    return whole


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
            projector=shape.projector
            if head.any_projector and shape.projector != "objective"
            else head.projector,
            projector_hidden=shape.projector_hidden,
            in_channels=in_channels,
            patches=head.patches,
            norm=head.norm,
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder: Encoder | Branches
        if roles:
            configs = {role.name: config(role.num_channels(channels)) for role in roles}
            encoder = Branches(BranchesConfig(branches=configs, shared=shape.branches == "shared"))
        else:
            encoder = Encoder(config(channels))
        hidden = shape.predictor_hidden or max(1, int(head.predictor_width * shape.projection_dim))
        predictor = Predictor(shape.projection_dim, hidden) if head.predictor else None
        rebuilding = settings.reconstruction
        decoder: Decoder | Decoders | None = None
        if rebuilding.active:
            # last, so that the other weights are those of a training without it
            pooled = rebuilding.decoder_input == "pooled"
            if isinstance(encoder, Branches):
                rebuilt = encoder.roles if rebuilding.reconstruction_view == "all" else encoder.roles[:1]
                decoder = Decoders(encoder, rebuilt, pooled=pooled)
            else:
                decoder = build_decoder(encoder, pooled=pooled)
        jigsaw = None
        if head.jigsaw:
            jigsaw = JigsawHead(encoder.embedding_dim, shape.projection_dim, head.jigsaw**2)
    network = ContrastiveNetwork(
        encoder,
        head,
        predictor,
        separate=shape.batchnorm == "separate",
        bf16=shape.precision == "bf16",
        roles=roles,
        decoder=decoder,
        error=rebuilding.reconstruction_loss,
        jigsaw=jigsaw,
    ).to(device)
    if shape.channels_last:
        channels_last(network)
    if shape.compile:
        for part in network.encoder.modules():
            if isinstance(part, Encoder):
                part.backbone.compile()
    return network
