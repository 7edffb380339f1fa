"""The contrastive encoder f: a backbone, a projection head, a normalised output.

Backbones are torchvision's residual networks with a 3×3 first convolution and no max-pooling, as in SimCLR
for small images; ``convnet``, four strided convolutions (`viewgen.networks.convnet`); and ``convnet6``, six
(`viewgen.networks.convnet6`). An encoder of patches embeds overlapping patches of an image one by one and
averages their features, as in contrastive predictive coding.

Shape legend: B images, C channels, H height, W width, P patches per image, s their side.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen, Kornblith, Norouzi and
    Hinton, 2020, https://arxiv.org/abs/2002.05709
    Data-Efficient Image Recognition with Contrastive Predictive Coding, Hénaff et al., 2020,
    https://arxiv.org/abs/1905.09272
    Exploring Simple Siamese Representation Learning, Chen and He, 2021, https://arxiv.org/abs/2011.10566
    Equivariant Contrastive Learning, Dangovski et al., 2022 (the projector ``mlp-bn``, 2048 → 2048 on
    CIFAR-10), https://arxiv.org/abs/2111.00899
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self, cast

import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.errors import ModelError, nearest_name
from viewgen.networks.config import NetworkConfig
from viewgen.networks.convnet import ConvNet
from viewgen.networks.convnet6 import ConvNet6
from viewgen.networks.layout import laid_out_for, replace_strided
from viewgen.networks.precision import Bfloat16
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.settings import setting

__all__ = ["BACKBONES", "Encoder", "EncoderConfig"]

# name: (torchvision block, blocks per stage)
RESNETS = {"resnet18": ("BasicBlock", (2, 2, 2, 2)), "resnet50": ("Bottleneck", (3, 4, 6, 3))}
BACKBONES = (*RESNETS, "convnet", "convnet6")


class EncoderConfig(NetworkConfig):
    """Shape of an encoder."""

    title: ClassVar[str] = "the encoder's shape"

    image_size: int = setting(..., "side of the images it was trained on, in pixels", ge=1, le=2**16)
    backbone: str = setting(
        "resnet18",
        "residual network, resnet18 or resnet50, or four strided convolutions, convnet, or six, convnet6",
    )
    width: int = setting(64, "channels of the first stage; 64 is the standard network", ge=1, le=8192)
    projection_dim: int = setting(128, "width of the projector's output", ge=1, le=2**16)
    projector: Literal["mlp", "mlp-bn", "simsiam", "barlow", "byol", "nnclr", "linear"] = setting(
        "mlp",
        "layers of the projector: two (mlp; byol with batch normalisation between them, mlp-bn after both), "
        "three with batch normalisation (simsiam, nnclr; barlow without that of the output), or one (linear)",
        since=2,
    )
    projector_hidden: int | None = setting(
        None,
        "width of the projector's hidden layers; by default that of the features (mlp, byol) or of the "
        "output (mlp-bn, simsiam, barlow, nnclr)",
        ge=1,
        le=2**16,
        since=2,
    )
    in_channels: int = setting(3, "channels of the images", ge=1, le=4096, since=2)
    patches: int = setting(
        0, "patches per side, which overlap by half; 0 for the whole image", ge=0, le=256, since=2
    )
    norm: Literal["batch", "layer"] = setting(
        "batch", "batch normalisation, or layer normalisation of each image or patch", since=2
    )

    @model_validator(mode="after")
    def _known_backbone(self) -> Self:
        if self.backbone not in BACKBONES:
            raise ModelError(
                f"no backbone {self.backbone!r}{nearest_name(self.backbone, BACKBONES)} "
                f"(known: {', '.join(BACKBONES)})"
            )
        return self

    @model_validator(mode="after")
    def _patches_fill_the_image(self) -> Self:
        if self.patches and self.image_size % (self.patches + 1):
            raise ModelError(
                f"{self.patches} patches per side do not fill images of {self.image_size} px: patches that "
                f"overlap by half need a side that is a multiple of {self.patches + 1}"
            )
        return self


def _layer_norm(channels: int) -> nn.GroupNorm:
    """Return the normalisation of all channels and pixels of an image together."""
    return nn.GroupNorm(1, channels)


def _norm(config: EncoderConfig) -> Callable[[int], nn.Module]:
    """Return the constructor of a normalisation of so many channels."""
    return nn.BatchNorm2d if config.norm == "batch" else _layer_norm


def _build_backbone(config: EncoderConfig) -> tuple[nn.Module, int]:
    """Return the backbone and the width of its features."""
    norm = _norm(config)
    if config.backbone == "convnet":
        network4 = ConvNet(config.in_channels, config.width, norm)
        return network4, network4.channels[-1]
    if config.backbone == "convnet6":
        side = 2 * config.image_size // (config.patches + 1) if config.patches else config.image_size
        network6 = ConvNet6(config.in_channels, config.width, side, norm=norm)
        return network6, network6.channels[-1]
    resnet: Any = import_torchvision("models.resnet")
    block_name, blocks = RESNETS[config.backbone]
    block = getattr(resnet, block_name)
    network = resnet.ResNet(block, list(blocks), norm_layer=norm)
    width = config.width
    network.conv1 = nn.Conv2d(config.in_channels, width, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    if width != 64:
        network.bn1 = norm(width)
        network.inplanes = width
        for stage, num_blocks in enumerate(blocks):
            layer = network._make_layer(block, width * 2**stage, num_blocks, stride=1 if stage == 0 else 2)
            setattr(network, f"layer{stage + 1}", layer)
    network.fc = nn.Identity()
    replace_strided(network)
    return cast(nn.Module, network), width * 8 * block.expansion


def _build_projector(config: EncoderConfig, dim: int) -> nn.Sequential:
    out = config.projection_dim
    if config.projector == "linear":
        return nn.Sequential(nn.Linear(dim, out))
    hidden = config.projector_hidden or (dim if config.projector in ("mlp", "byol") else out)
    if config.projector == "mlp":
        return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))
    first = (nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
    if config.projector == "byol":
        return nn.Sequential(*first, nn.Linear(hidden, out))
    if config.projector == "mlp-bn":
        last = (nn.Linear(hidden, out, bias=False), nn.BatchNorm1d(out, affine=False))
        return nn.Sequential(*first, *last)
    affine = config.projector == "nnclr"
    end = () if config.projector == "barlow" else (nn.BatchNorm1d(out, affine=affine),)
    return nn.Sequential(
        *first,
        *(nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()),
        *(nn.Linear(hidden, out, bias=False), *end),
    )


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
        """Map model images `(B, C, H, W)` to features of the backbone, `(B, embedding_dim)`.

        Those of an encoder of patches are the mean over the patches.

        Raises:
            ModelError: the images have another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ModelError(
                f"images have shape {tuple(images.shape)}; this encoder takes (B, {self.config.in_channels}, "
                "H, W)"
            )
        if self.config.patches:
            return self.embed_patches(images).mean(dim=1)
        return cast(Tensor, self.backbone(laid_out_for(self, images)))

    def feature_map(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to the backbone's last map, `(B, embedding_dim, h, w)`.

        Its mean over the pixels are the features.

        Raises:
            ModelError: this is an encoder of patches, or one that was loaded to run in bfloat16.
        """
        backbone: Any = self.backbone
        if self.config.patches or isinstance(backbone, Bfloat16):
            raise ModelError("an encoder of patches, or in bfloat16, has no map of a whole image")
        x = laid_out_for(self, images)
        if isinstance(backbone, ConvNet | ConvNet6):
            return backbone.maps(x)
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            x = stage(x)
        return cast(Tensor, x)

    def embed_patches(self, images: Tensor) -> Tensor:
        """Map model images `(B, C, H, W)` to features of their patches, `(B, P, embedding_dim)`, row by row.

        Raises:
            ModelError: this is no encoder of patches, or a side is not a multiple of the stride.
        """
        side = self.config.patches
        if not side or images.shape[2] % (side + 1) or images.shape[3] != images.shape[2]:
            raise ModelError(
                f"images have shape {tuple(images.shape)}; patches need an encoder with patches (it has "
                f"{side} per side) and square images whose side is a multiple of {side + 1}"
            )
        stride = images.shape[2] // (side + 1)
        windows = images.unfold(2, 2 * stride, stride).unfold(3, 2 * stride, stride)
        patches = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        features: Tensor = self.backbone(laid_out_for(self, patches))
        return features.unflatten(0, (len(images), -1))  # type: ignore[no-any-return]

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
