"""Features of local patches: a second feature space that no encoder has seen, computed without gradients.

Patches of 6 × 6 pixels are normalised, whitened, and compared with a dictionary of real patches; a soft
threshold keeps both signs of the similarities, which are averaged over a grid of 3 × 3 regions.

Shape legend: B images, C channels, P filters, w side of a patch, D = 18·P features.

References:
    An Analysis of Single-Layer Networks in Unsupervised Feature Learning, Coates, Lee and Ng, 2011,
    https://proceedings.mlr.press/v15/coates11a.html
    The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization, Coates and Ng,
    2011 (a dictionary of random patches with a soft threshold),
    https://icml.cc/2011/papers/485_icmlpaper.pdf
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import DataError
from viewgen.randomness import addressed_generator

__all__ = ["PatchFeatures"]

PATCH = 6
POSITIONS = 14
REGIONS = 3
THRESHOLD = 0.5
LARGEST_SIDE = 32
NUM_SAMPLED = 20_000
VARIANCE_FLOOR = 1e-2
WHITENING_FLOOR = 0.1
BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFeatures:
    """Patch features; implements `viewgen.diagnostics.feature_nets.FeatureNet`.

    Attributes:
        filters: whitened dictionary, `(P, C, w, w)`; C is 1 for grey images.
        offset: similarity of the mean patch, `(P,)`.
    """

    filters: Tensor
    offset: Tensor
    title = "patches"
    scaled = True

    @classmethod
    def of_images(cls, images: NDArray[np.uint8], num_filters: int, seed: int = 0) -> Self:
        """Return features whose dictionary consists of patches of real images, uint8 `(B, C, H, W)`.

        Raises:
            DataError: the images are blank.
        """
        random = addressed_generator(seed, "patches")
        grey = bool((images == images[:, :1]).all())
        x = _scaled(torch.from_numpy(images), grey)
        side = min(PATCH, max(1, x.shape[-1] // 2))
        # more patches than filters, of which the blank ones are passed over
        count = NUM_SAMPLED
        which = torch.randint(len(x), (count,), generator=random)
        top = torch.randint(x.shape[-1] - side + 1, (2, count), generator=random)
        windows = x.unfold(2, side, 1).unfold(3, side, 1)
        patches = windows[which, :, top[0], top[1]].flatten(1)
        centred = patches - patches.mean(dim=1, keepdim=True)
        deviation = centred.square().mean(dim=1, keepdim=True)
        normal = centred / (deviation + VARIANCE_FLOOR).sqrt()
        mean = normal.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(normal.T))
        whitening = (vectors * (values.clamp_min(0) + WHITENING_FLOOR).rsqrt()) @ vectors.T
        whitened = (normal - mean) @ whitening
        length = whitened.norm(dim=1)
        chosen = (length > 0.5 * length.median()).nonzero()[:, 0][:num_filters]
        if not len(chosen) or float(deviation.max()) == 0:
            raise DataError("the images are blank: their patches cannot be told apart")
        dictionary = whitened[chosen] / length[chosen, None]
        filters = dictionary @ whitening
        return cls(filters=filters.unflatten(1, (-1, side, side)), offset=filters @ mean)

    @property
    def dim(self) -> int:
        """D."""
        return 2 * len(self.filters) * REGIONS**2

    def name(self, statistic: str) -> str:
        """Return the statistic's name with that of the features in brackets."""
        return f"{statistic}[{self.title}]"

    def on(self, device: torch.device | str) -> Self:
        """Return the same features on a device."""
        return type(self)(filters=self.filters.to(device), offset=self.offset.to(device))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Map storage images, uint8 `(B, 3, H, W)`, to features `(B, D)`, float32."""
        parts = [self._part(part.to(self.filters.device)) for part in images.split(BATCH)]
        return torch.cat(parts)

    def _part(self, images: Tensor) -> Tensor:
        filters, side = self.filters, self.filters.shape[-1]
        x = _scaled(images, filters.shape[1] == 1)
        stride = max(1, (x.shape[-1] - side) // (POSITIONS - 1))
        box = torch.full((1, *filters.shape[1:]), 1 / filters[0].numel(), device=x.device)
        mean = F.conv2d(x, box, stride=stride)
        variance = (F.conv2d(x.square(), box, stride=stride) - mean.square()).clamp_min(0)
        raw = F.conv2d(x, filters, stride=stride) - mean * filters.sum(dim=(1, 2, 3)).view(1, -1, 1, 1)
        similar = raw / (variance + VARIANCE_FLOOR).sqrt() - self.offset.view(1, -1, 1, 1)
        kept = [(sign * similar - THRESHOLD).clamp_min(0) for sign in (1, -1)]
        return torch.cat([F.adaptive_avg_pool2d(part, REGIONS) for part in kept], dim=1).flatten(1)


def _scaled(images: Tensor, grey: bool) -> Tensor:
    """Return images in [0, 1], at most 32 px wide, with one channel if they are grey."""
    x = (images[:, :1] if grey else images).float() / 255
    return F.adaptive_avg_pool2d(x, LARGEST_SIDE) if x.shape[-1] > LARGEST_SIDE else x
