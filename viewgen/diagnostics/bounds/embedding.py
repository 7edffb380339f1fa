"""Embedded sample: outputs of an encoder for images and their views, with the weight of each image.

Shape legend: N images of all classes, M views of each with the image itself first, K classes, d output width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.concentration.class_views import ClassViews
from viewgen.diagnostics.features import evaluation_mode
from viewgen.errors import DataError, ModelError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.views.branched import BranchedEncoder, ImageEncoder

__all__ = ["Embedded", "Space", "embed", "embed_sample", "one_norm", "output_dim"]

Space = Literal["projection", "features"]
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Outputs of an encoder for a sample.

    Attributes:
        z: outputs, float32 `(N, M, d)`, the image itself first.
        labels: class of each image, int64 `(N,)`, 0 to K − 1.
        shares: share of each class, p_k, float64 `(K,)`.
    """

    z: Tensor
    labels: Tensor
    shares: Tensor

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.shares)

    @property
    def weights(self) -> Tensor:
        """Weight of each image: the share of its class over the class's images, float64 `(N,)`; sums to 1."""
        counts = torch.bincount(self.labels, minlength=self.num_classes)
        return (self.shares / counts)[self.labels]

    def with_outputs(self, z: Tensor) -> "Embedded":
        """Return the same images with other outputs."""
        return Embedded(z=z, labels=self.labels, shares=self.shares)


@torch.no_grad()
def embed(
    encoder: ImageEncoder,
    images: NDArray[np.uint8],
    space: Space,
    *,
    device: torch.device | str,
    batch_size: int,
) -> Tensor:
    """Return outputs of storage images `(B, C, H, W)`, not normalised, float32 `(B, d)` on the CPU.

    Raises:
        DataError: several encoders of one image have no common projection.
        ModelError: the encoder was trained on images of another size, or an output is not finite.
    """
    size = encoder.config.image_size
    if images.shape[-1] != size:
        raise ModelError(
            f"the encoder was trained on {size}-px images, these have {images.shape[-1]} px; give an encoder "
            "of that size"
        )
    function = encoder.embed if space == "features" else _projecting(encoder).project
    with evaluation_mode(encoder):
        parts = [
            function(to_model(images[start : start + batch_size], device)).float().cpu()
            for start in range(0, len(images), batch_size)
        ]
    z = torch.cat(parts)
    if not bool(torch.isfinite(z).all()):
        raise ModelError("the encoder gives outputs that are not finite; its training has diverged")
    return z


def output_dim(encoder: ImageEncoder, space: Space) -> int:
    """Return d, the width of an encoder's outputs.

    Raises:
        DataError: several encoders of one image have no common projection.
    """
    return encoder.embedding_dim if space == "features" else _projecting(encoder).config.projection_dim


def _projecting(encoder: ImageEncoder) -> Encoder:
    if isinstance(encoder, BranchedEncoder):
        raise DataError(
            f"an encoder for each of {', '.join(encoder.branches.roles)} has no common projection; give "
            "--set space=features"
        )
    return encoder


def embed_sample(
    encoder: ImageEncoder,
    sample: ClassViews,
    space: Space,
    *,
    device: torch.device | str,
    batch_size: int,
    tell: Callable[[int, int], object] = lambda *_: None,
) -> Embedded:
    """Return the outputs of a sample, class by class; the views of one class are in memory at once."""
    parts = []
    for label in range(sample.num_classes):
        views = sample.views(label)
        z = embed(encoder, views.reshape(-1, *views.shape[2:]), space, device=device, batch_size=batch_size)
        parts.append(z.unflatten(0, views.shape[:2]))
        tell(label + 1, sample.num_classes)
    labels = torch.arange(sample.num_classes).repeat_interleave(torch.tensor([len(part) for part in parts]))
    return Embedded(z=torch.cat(parts), labels=labels, shares=torch.from_numpy(sample.shares))


def one_norm(z: Tensor) -> float:
    """Return the norm r that all outputs `(…, d)` have.

    Raises:
        UsageError: they have none in common.
    """
    norms = z.double().norm(dim=-1)
    low, high = float(norms.min()), float(norms.max())
    if not high > 0 or high - low > NORM_TOLERANCE * high:
        raise UsageError(
            f"the outputs have norms from {low:.3g} to {high:.3g}; Theorem 2 needs one norm above 0: give "
            "--set normalise=true"
        )
    return (low + high) / 2
