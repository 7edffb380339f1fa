"""Perceptual distance between images.

LPIPS, or a distance of the same form on the activations of the generator's discriminator.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang, Isola, Efros, Shechtman and
    Wang, 2018, https://arxiv.org/abs/1801.03924
"""

import importlib.util
import pickle
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.networks.torchvision_import import import_torchvision

__all__ = [
    "PERCEPTUAL",
    "DiscriminatorDistance",
    "PerceptualDistance",
    "build_perceptual",
    "check_perceptual",
]

PERCEPTUAL = ("lpips", "discriminator", "none")
Perceptual = Literal["lpips", "discriminator", "none"]
LPIPS_TRUNK = "vgg16-397923af.pth"


class Activations(Protocol):
    """A network whose activations can define a distance, such as a discriminator."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the activations `(B, C, H, W)` of every block, starting with that of the colours."""
        ...


class PerceptualDistance(Protocol):
    """A distance that computes the target's features once."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Return per-layer features, each `(B, …)`, of model images `(B, 3, H, W)`."""
        ...

    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Return the distance of each pair, `(B,)`."""
        ...


def lpips_trunk() -> Path:
    """Return torchvision's file of the weights of LPIPS's VGG16 trunk."""
    return Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_TRUNK


def check_perceptual(name: str, *, has_discriminator: bool) -> None:
    """Check that a perceptual distance is available.

    Raises:
        UsageError: an unknown name, or ``"discriminator"`` without one.
        MissingFileError: the package of LPIPS or its weights are missing.
    """
    if name not in PERCEPTUAL:
        raise UsageError(f"perceptual is {name!r}; expected one of {', '.join(PERCEPTUAL)}")
    has_lpips = importlib.util.find_spec("lpips") is not None and lpips_trunk().is_file()
    if name == "lpips" and not has_lpips:
        raise MissingFileError(
            f"perceptual is 'lpips', which needs the package lpips (pip install 'viewgen[lpips]') and its "
            f"trunk's weights at {lpips_trunk()} (from https://download.pytorch.org/models/{LPIPS_TRUNK}); "
            "get them, or choose perceptual=discriminator (before another method: "
            "--set invert.perceptual=discriminator)"
        )
    if name == "discriminator" and not has_discriminator:
        raise UsageError(
            "perceptual is 'discriminator', but no discriminator was given; give one (--discriminator), or "
            "choose perceptual=lpips or none (before another method: --set invert.perceptual=none)"
        )


class DiscriminatorDistance:
    """LPIPS's form on a discriminator's activations: unit-normalised channels, squared, averaged over space.

    The first activation (a 1×1 convolution of the colours) is left out.
    """

    def __init__(self, discriminator: Activations) -> None:
        self.discriminator = discriminator

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the normalised activations of every block."""
        activations = self.discriminator.features(images)[1:]
        return [x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-8) for x in activations]

    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Return the mean over blocks of the mean squared difference (summed over channels), `(B,)`."""
        parts = [(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(first, second, strict=True)]
        return torch.stack(parts).mean(dim=0)


class LpipsDistance:
    """LPIPS on VGG16, from the package ``lpips``.

    Raises:
        CorruptDataError: the trunk's weights cannot be read.
    """

    def __init__(self, device: torch.device) -> None:
        import_torchvision()
        import lpips

        with warnings.catch_warnings():
            # lpips calls torchvision by names that torchvision has renamed
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            try:
                network: Any = lpips.LPIPS(net="vgg", verbose=False)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise CorruptDataError(
                    f"{lpips_trunk()} cannot be read ({error}); delete it and get it again from "
                    f"https://download.pytorch.org/models/{LPIPS_TRUNK}"
                ) from error
        self.network = network.to(device).eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the activations of LPIPS's layers, unit-normalised over the channels."""
        import lpips

        activations = self.network.net(self.network.scaling_layer(images))
        return [lpips.normalize_tensor(x) for x in activations]

    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Return LPIPS, `(B,)`."""
        parts = [
            linear((a - b).square()).mean(dim=(1, 2, 3))
            for linear, a, b in zip(self.network.lins, first, second, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


def build_perceptual(
    name: Perceptual, discriminator: Activations | None, device: torch.device
) -> PerceptualDistance | None:
    """Return the distance of that name, or None for ``"none"``."""
    if name == "none":
        return None
    if name == "lpips":
        return LpipsDistance(device)
    if discriminator is None:
        raise UsageError("perceptual is 'discriminator', but no discriminator was given")
    return DiscriminatorDistance(discriminator)
