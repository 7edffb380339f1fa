"""The contrastive encoder f: a residual backbone with a CIFAR stem, a projection head, a normalised output.

Backbones are torchvision's residual networks with a 3×3 first convolution and no max-pooling (spec of the
paper's experiments, Table 2).
"""

from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.errors import ModelError, nearest_name
from viewgen.networks.layout import laid_out_for, replace_strided
from viewgen.networks.torchvision_import import import_torchvision

__all__ = ["BACKBONES", "Encoder", "EncoderConfig"]

# name: (torchvision block, blocks per stage)
BACKBONES = {"resnet18": ("BasicBlock", (2, 2, 2, 2)), "resnet50": ("Bottleneck", (3, 4, 6, 3))}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
        image_size: side of the images it was trained on, in pixels.
        backbone: ``"resnet18"`` or ``"resnet50"``.
        width: channels of the first stage; 64 is the standard network.
        projection_dim: width of the projector's output.
        projector: ``"mlp"``, two layers, or ``"simsiam"``, three with batch normalisation.
    """

    image_size: int
    backbone: str = "resnet18"
    width: int = 64
    projection_dim: int = 128
    projector: str = "mlp"

    def __post_init__(self) -> None:
        if self.projector not in ("mlp", "simsiam"):
            raise ModelError(f"projector is {self.projector!r}; expected 'mlp' or 'simsiam'")
        if self.backbone not in BACKBONES:
            raise ModelError(
                f"no backbone {self.backbone!r}{nearest_name(self.backbone, BACKBONES)} "
                f"(known: {', '.join(BACKBONES)})"
            )
        if min(self.image_size, self.width, self.projection_dim) < 1:
            raise ModelError("image_size, width and projection_dim must be at least 1")


def _build_backbone(config: EncoderConfig) -> tuple[nn.Module, int]:
    """Return the backbone and the width of its features."""
    resnet: Any = import_torchvision("models.resnet")
    block_name, blocks = BACKBONES[config.backbone]
    block = getattr(resnet, block_name)
    network = resnet.ResNet(block, list(blocks))
    width = config.width
    network.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
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
    return nn.Sequential(
        *(nn.Linear(dim, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()),
        *(nn.Linear(out, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()),
        *(nn.Linear(out, out, bias=False), nn.BatchNorm1d(out, affine=False)),
    )


class Encoder(nn.Module):
    """f: image → unit vector.

    Attributes:
        config: the network's shape.
        embedding_dim: width of the backbone's features.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.embedding_dim = _build_backbone(config)
        self.projector = _build_projector(config, self.embedding_dim)

    def embed(self, images: Tensor) -> Tensor:
        """Map model images `(B, 3, H, W)` to backbone features `(B, embedding_dim)`."""
        return cast(Tensor, self.backbone(laid_out_for(self, images)))

    def project(self, images: Tensor) -> Tensor:
        """Map model images `(B, 3, H, W)` to projections `(B, projection_dim)` of any length."""
        return cast(Tensor, self.projector(self.embed(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Map model images `(B, 3, H, W)` to L2-normalised projections `(B, projection_dim)`."""
        return F.normalize(self.project(images), dim=1)
