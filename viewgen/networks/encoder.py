"""The contrastive encoder f: a residual backbone with a CIFAR stem, a projection head, a normalised output.

Backbones are torchvision's residual networks with a 3×3 first convolution and no max-pooling, as in SimCLR
for small images.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen, Kornblith, Norouzi and
    Hinton, 2020, https://arxiv.org/abs/2002.05709
    Exploring Simple Siamese Representation Learning, Chen and He, 2021, https://arxiv.org/abs/2011.10566
    Equivariant Contrastive Learning, Dangovski et al., 2022 (the projector ``mlp-bn``, 2048 → 2048 on
    CIFAR-10), https://arxiv.org/abs/2111.00899
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast

import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import ModelError, nearest_name
from viewgen.networks.config import NetworkConfig
from viewgen.networks.layout import laid_out_for, replace_strided
from viewgen.networks.precision import Bfloat16
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.settings import setting

__all__ = ["BACKBONES", "Encoder", "EncoderConfig"]

# name: (torchvision block, blocks per stage)
BACKBONES = {"resnet18": ("BasicBlock", (2, 2, 2, 2)), "resnet50": ("Bottleneck", (3, 4, 6, 3))}


class EncoderConfig(NetworkConfig):
    """Shape of an encoder."""

    title: ClassVar[str] = "the encoder's shape"

    image_size: int = setting(..., "side of the images it was trained on, in pixels", ge=1, le=2**16)
    backbone: str = setting("resnet18", "residual network, resnet18 or resnet50")
    width: int = setting(64, "channels of the first stage; 64 is the standard network", ge=1, le=8192)
    projection_dim: int = setting(128, "width of the projector's output", ge=1, le=2**16)
    projector: Literal["mlp", "mlp-bn", "simsiam"] = setting(
        "mlp", "two layers, two with batch normalisation, or three with it", since=2
    )
    in_channels: int = setting(3, "channels of the images", ge=1, le=4096, since=2)

    @model_validator(mode="after")
    def _known_backbone(self) -> Self:
        if self.backbone not in BACKBONES:
            raise ModelError(
                f"no backbone {self.backbone!r}{nearest_name(self.backbone, BACKBONES)} "
                f"(known: {', '.join(BACKBONES)})"
            )
        return self


def _build_backbone(config: EncoderConfig) -> tuple[nn.Module, int]:
    """Return the backbone and the width of its features."""
    resnet: Any = import_torchvision("models.resnet")
    block_name, blocks = BACKBONES[config.backbone]
    block = getattr(resnet, block_name)
    network = resnet.ResNet(block, list(blocks))
    width = config.width
    network.conv1 = nn.Conv2d(config.in_channels, width, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    if width != 64:
        network.bn1 = nn.BatchNorm2d(width)
        network.inplanes = width
        for stage, num_blocks in enumerate(blocks):
            layer = network._make_layer(block, width * 2**stage, num_blocks, stride=1 if stage == 0 else 2)
            setattr(network, f"layer{stage + 1}", layer)
    network.fc = nn.Identity()
    replace_strided(network)
    return cast(nn.Module, network), width * 8 * block.expansion


def _build_projector(config: EncoderConfig, dim: int) -> nn.Sequential:
    if config.projector == "mlp":
        return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, config.projection_dim))
    out = config.projection_dim
    hidden = [dim, *([out] * (1 if config.projector == "mlp-bn" else 2))]
    layers: list[nn.Module] = []
    for width in hidden:
        layers += (nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.ReLU())
    return nn.Sequential(*layers[:-2], nn.BatchNorm1d(out, affine=False))


class Encoder(nn.Module):
    """f: image → unit vector.

    Attributes:
        config: the network's shape.
        embedding_dim: width of the backbone's features.
    """

    compiled: ClassVar[Mapping[str, str]] = {"forward": "encoder"}

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.embedding_dim = _build_backbone(config)
        self.projector = _build_projector(config, self.embedding_dim)

    def embed(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to backbone features `(B, embedding_dim)`.

        Raises:
            ModelError: the images have another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ModelError(
                f"images have shape {tuple(images.shape)}; this encoder takes (B, {self.config.in_channels}, "
                "H, W)"
            )
        return cast(Tensor, self.backbone(laid_out_for(self, images)))

    def in_bfloat16(self) -> Self:
        """Return a copy whose backbone computes in bfloat16."""
        low = copy.deepcopy(self)
        low.backbone = Bfloat16(low.backbone)
        return low.requires_grad_(False)

    def project(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to unnormalised projections `(B, projection_dim)`."""
        return cast(Tensor, self.projector(self.embed(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to L2-normalised projections `(B, projection_dim)`."""
        return F.normalize(self.project(images), dim=1)
