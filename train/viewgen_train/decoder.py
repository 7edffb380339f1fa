"""Decoders of a reconstruction: from an encoder's last map, or its features, back to the image.

The decoder of ``convnet6`` mirrors it: six layers in the reverse order of widths, of which those that undo a
halving are transposed 4×4 convolutions. Behind the other networks each doubling is a transposed 4×4
convolution and a 3×3 convolution, with half as many channels as before, and one convolution gives the
colours: 7 layers behind a residual network, whose maps have an eighth of the side, 11 for five doublings.
All but the last layer have batch normalisation and a rectifier.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, appendix C,
    https://arxiv.org/abs/2012.09962
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from viewgen.errors import UsageError
from viewgen.networks.branches import SHARED, Branches
from viewgen.networks.convnet import ConvNet
from viewgen.networks.convnet6 import ConvNet6
from viewgen.networks.encoder import Encoder

__all__ = ["Decoder", "Decoders", "build_decoder", "image_errors"]


class Decoder(nn.Module):
    """Map from an encoder's last map, or its features, to images.

    Args:
        layers: layers from a map to an image.
        pooled: True if the map has one pixel, the features.
    """

    def __init__(self, layers: nn.Sequential, *, pooled: bool) -> None:
        super().__init__()
        self.layers, self.pooled = layers, pooled

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(B, F, h, w)` to images `(B, C, H, W)`; pooled features are the mean over the pixels."""
        if self.pooled:
            maps = maps.mean(dim=(2, 3), keepdim=True)
        images: Tensor = self.layers(maps)
        return images


class Decoders(nn.Module):
    """Role → decoder, behind an encoder of each role or one for all.

    Args:
        encoders: the encoders.
        roles: names of the roles whose views are rebuilt.
        pooled: True to decode the pooled features, False to decode the last map.

    Raises:
        UsageError: see `build_decoder`.
    """

    def __init__(self, encoders: Branches, roles: Sequence[str], *, pooled: bool) -> None:
        super().__init__()
        self.roles = tuple(roles)
        names = {SHARED: self.roles[0]} if encoders.config.shared else {role: role for role in self.roles}
        self.decoders = nn.ModuleDict(
            {name: build_decoder(encoders[role], pooled=pooled) for name, role in names.items()}
        )

    def __getitem__(self, role: str) -> Decoder:
        """Return the decoder of a role."""
        found = self.decoders[SHARED if SHARED in self.decoders else role]
        assert isinstance(found, Decoder)
        return found


def build_decoder(encoder: Encoder, *, pooled: bool) -> Decoder:
    """Return a decoder for the images of an encoder, on its device.

    Args:
        encoder: encoder of whole images.
        pooled: True to decode the pooled features, False to decode the last map.

    Raises:
        UsageError: the side of the images is no multiple of the map's by a power of two.
    """
    config = encoder.config
    size, channels = config.image_size, config.in_channels
    side = 1 if pooled else _map_side(encoder)
    doublings = (size // side).bit_length() - 1
    if side << doublings != size:
        what = "pooled features" if pooled else f"maps of {side} px"
        raise UsageError(
            f"no decoder leads from {what} to images of {size} px, which are no power of two larger; choose "
            + ("decoder_input=map" if pooled and not isinstance(encoder.backbone, ConvNet6) else "images of "
               "another size, or another backbone")
        )  # fmt: skip
    backbone = encoder.backbone
    if isinstance(backbone, ConvNet6):
        layers = _mirrored(backbone, channels)
    else:
        layers = _doublings(encoder.embedding_dim, config.width, channels, doublings)
    return Decoder(layers, pooled=pooled)


def _map_side(encoder: Encoder) -> int:
    """Return the side of an encoder's last map; halvings round up, those of ``convnet6`` down."""
    backbone = encoder.backbone
    side = encoder.config.image_size
    if isinstance(backbone, ConvNet6):
        return side >> backbone.strides.count(2)
    halvings = len(backbone.channels) if isinstance(backbone, ConvNet) else 3
    for _ in range(halvings):
        side = (side + 1) // 2
    return side


def _mirrored(backbone: ConvNet6, channels: int) -> nn.Sequential:
    before = backbone.channels[::-1]
    after = (*before[1:], channels)
    layers: list[nn.Module] = []
    for wide, narrow, stride in zip(before, after, backbone.strides[::-1], strict=True):
        last = len(layers) == 3 * (len(before) - 1)
        layers += _layer(wide, narrow, doubling=stride == 2, last=last)
    return nn.Sequential(*layers)


def _doublings(wide: int, least: int, channels: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(count):
        narrow = max(least, wide // 2)
        layers += _layer(wide, narrow, doubling=True) + _layer(narrow, narrow, doubling=False)
        wide = narrow
    return nn.Sequential(*layers, *_layer(wide, channels, doubling=False, last=True))


def _layer(wide: int, narrow: int, *, doubling: bool, last: bool = False) -> list[nn.Module]:
    convolution: nn.Module = (
        nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=last)
        if doubling
        else nn.Conv2d(wide, narrow, 3, padding=1, bias=last)
    )
    return [convolution] if last else [convolution, nn.BatchNorm2d(narrow), nn.ReLU()]


def image_errors(rebuilt: Tensor, targets: Tensor, weights: Tensor | None, kind: str) -> Tensor:
    """Return the error of each image, float32 `(B,)`.

    Args:
        rebuilt: rebuilt images, `(B, C, H, W)`.
        targets: model images, `(B, C, H, W)`.
        weights: 1 for pixels that count, 0 for others, `(B, 1, H, W)`; None if all count.
        kind: ``"mse"``, the mean squared error; ``"rms"``, its root; ``"l2"``, the root of the sum.
    """
    squared = (rebuilt.float() - targets).square()
    if weights is None:
        total, count = squared.flatten(1).sum(dim=1), torch.tensor(float(squared[0].numel()))
    else:
        total = (squared * weights).flatten(1).sum(dim=1)
        count = weights.flatten(1).sum(dim=1) * squared.shape[1]
    if kind == "l2":
        return total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
    mean = total / count.to(total.device).clamp_min(1)
    return mean if kind == "mse" else mean.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
