"""Statistics networks: T(x, y), a score for every pair of an x and a y.

The first layer of the head is linear in x and y, so a batch's features pass through it once, and the scores
of all B² pairs cost one sum, one ReLU and one product each.

Shape legend: B images, F features of a trunk.
"""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.diagnostics.mutual_information.canonical import CanonicalCoordinates
from viewgen.networks.layout import Conv2d

__all__ = [
    "HEAD_HIDDEN",
    "TRUNK_FEATURES",
    "ImageStatistics",
    "SeparableStatistics",
    "Standardised",
    "StatisticsNetwork",
    "VectorStatistics",
    "VectorTrunk",
    "image_trunk",
]

# Reference: features of x and y → 1024 → 512 → 1.
TRUNK_FEATURES = 512
HEAD_HIDDEN = 512
SCORES_AT_ONCE = 2**24
# length of the unit vectors of a separable critic
SEPARABLE_DIM = 128


class PairHead(nn.Module):
    """Concatenated features → hidden → 1.

    Args:
        num_features: F of each side.
        num_hidden: width of the hidden layer.
    """

    def __init__(self, num_features: int, num_hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * num_features, num_hidden)
        self.out = nn.Linear(num_hidden, 1)

    def forward(self, x_BF: Tensor, y_BF: Tensor) -> Tensor:
        """Return the scores of all pairs, `(B, F)` and `(B', F)` → `(B, B')`."""
        weight_x, weight_y = self.hidden.weight.chunk(2, dim=1)
        u = F.linear(x_BF, weight_x, self.hidden.bias)
        v = F.linear(y_BF, weight_y)
        rows = max(1, SCORES_AT_ONCE // (len(v) * v.shape[1]))
        parts = [self.out(F.relu(part[:, None] + v[None]))[..., 0] for part in u.split(rows)]
        return torch.cat(parts)


class StatisticsNetwork(nn.Module):
    """Base of the statistics networks."""

    @abstractmethod
    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, ...)` and `(B', ...)` to features `(B, F)` and `(B', F)`."""

    @abstractmethod
    def pair_scores(self, x_BF: Tensor, y_BF: Tensor) -> Tensor:
        """Return the scores of all pairs of features, `(B, B')`."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scores of all pairs of a batch, `(B, B)`; the diagonal holds the matching pairs."""
        return self.pair_scores(*self.features(x, y))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a 1×1 bypass that halve the resolution.

    Group instead of batch normalisation: a score must depend on its own pair alone.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        groups = math.gcd(4, num_out)
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(groups, num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, num_out)
        self.bypass = Conv2d(num_in, num_out, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C', ⌈H/2⌉, ⌈W/2⌉)`."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.bypass(x))


def image_trunk(shape: tuple[int, ...], width: int) -> nn.Sequential:
    """Return a small residual network, images of `shape` (C, H, W) → F features.

    A stem at half the resolution, then blocks that halve it until 4 pixels or fewer remain; the channels
    double from block to block, up to eight times the stem's.
    """
    num_channels, height, image_width = shape
    layers: list[nn.Module] = [nn.Conv2d(num_channels, width, 5, stride=2, padding=2), nn.ReLU()]
    channels, rows, columns = width, -(-height // 2), -(-image_width // 2)
    while True:
        wider = min(2 * channels, 8 * width)
        layers.append(ResidualBlock(channels, wider))
        channels, rows, columns = wider, -(-rows // 2), -(-columns // 2)
        if max(rows, columns) <= 4:
            break
    layers += [nn.Flatten(), nn.Linear(channels * rows * columns, TRUNK_FEATURES), nn.ReLU()]
    return nn.Sequential(*layers)


class ImageStatistics(StatisticsNetwork):
    """T over two images: a residual trunk and the reference's head 1024 → 512 → 1.

    Args:
        shape: (C, H, W) of x.
        shape_y: that of y; None if it is the same. Two shapes take two trunks.
        width: channels of the trunk's stem.
        shared_trunk: one trunk for x and y, as in the reference, or one for each.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        shape_y: tuple[int, ...] | None = None,
        *,
        width: int = 16,
        shared_trunk: bool = True,
    ) -> None:
        super().__init__()
        shape_y = shape if shape_y is None else shape_y
        self.trunk = image_trunk(shape, width)
        self.trunk_y = None if shared_trunk and shape_y == shape else image_trunk(shape_y, width)
        self.head = PairHead(TRUNK_FEATURES, HEAD_HIDDEN)

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.trunk_y is not None:
            return self.trunk(x), self.trunk_y(y)
        x_BF, y_BF = self.trunk(torch.cat([x, y])).split([len(x), len(y)])
        return x_BF, y_BF

    def pair_scores(self, x_BF: Tensor, y_BF: Tensor) -> Tensor:
        scores: Tensor = self.head(x_BF, y_BF)
        return scores


class SeparableStatistics(StatisticsNetwork):
    """T(x, y) = f₁(x)·f₂(y)/τ with unit vectors: the critic of contrastive training.

    Args:
        trunk_x: x → features `(B, F)`.
        trunk_y: y → features `(B, F)`; None if it is that of x.
        num_features: F.
        temperature: τ.
        dim: length of the unit vectors.
    """

    def __init__(
        self,
        trunk_x: nn.Module,
        trunk_y: nn.Module | None,
        *,
        num_features: int,
        temperature: float,
        dim: int = SEPARABLE_DIM,
    ) -> None:
        super().__init__()
        self.trunk_x, self.trunk_y, self.temperature = trunk_x, trunk_y, temperature
        self.project_x = nn.Linear(num_features, dim)
        self.project_y = None if trunk_y is None else nn.Linear(num_features, dim)

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, ...)` and `(B', ...)` to unit vectors `(B, dim)` and `(B', dim)`."""
        project_y = self.project_x if self.project_y is None else self.project_y
        trunk_y = self.trunk_x if self.trunk_y is None else self.trunk_y
        return F.normalize(self.project_x(self.trunk_x(x)), dim=1), F.normalize(project_y(trunk_y(y)), dim=1)

    def pair_scores(self, x_BF: Tensor, y_BF: Tensor) -> Tensor:
        return x_BF @ y_BF.T / self.temperature


class Standardised(nn.Module):
    """Shift and scale of vectors to the mean 0 and the deviation 1 of a sample `(N, D)`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", sample.mean(dim=0))
        deviation = sample.std(dim=0, correction=0)
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, D)` to `(B, D)`."""
        return (x - self.mean) / self.deviation


class VectorTrunk(nn.Module):
    """A hidden layer beside a linear map, so that the hidden units need not approximate the linear part."""

    def __init__(self, num_in: int, num_hidden: int, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_in, num_features)
        self.hidden = nn.Linear(num_in, num_hidden)
        self.out = nn.Linear(num_hidden, num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, D)` to `(B, F)`."""
        features: Tensor = self.linear(x) + self.out(F.silu(self.hidden(x)))
        return features


class VectorStatistics(StatisticsNetwork):
    """T over two vectors, of equal or different lengths: what Gaussians would score, plus a learned part.

    The learned part is a head over both vectors and an inner product: a head alone spends its hidden units on
    products of coordinates, and in 20 dimensions they do not suffice. It starts at zero.

    Args:
        coordinates: canonical coordinates of the vectors.
        num_features: F.
        num_hidden: hidden units of each trunk; the head has half as many.

    Attributes:
        weight: weight of the Gaussian log density ratio.
        largest: largest value of that ratio, times the weight; a pair far outside the sample cannot carry the
            mean of all exponentials.
    """

    weight: Tensor
    largest: Tensor

    def __init__(
        self, coordinates: CanonicalCoordinates, *, num_features: int = 64, num_hidden: int = 128
    ) -> None:
        super().__init__()
        self.coordinates = coordinates
        size_x, size_y = coordinates.sizes
        self.num_features = num_features
        self.trunk_x = VectorTrunk(size_x, num_hidden, num_features)
        self.trunk_y = VectorTrunk(size_y, num_hidden, num_features)
        self.head = PairHead(num_features, num_hidden // 2)
        self.project_x = nn.Linear(num_features, num_features)
        self.project_y = nn.Linear(num_features, num_features)
        for layer in (self.head.out, self.project_x):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("weight", torch.ones((), dtype=torch.float64))
        self.register_buffer("largest", torch.tensor(torch.inf, dtype=torch.float64))

    def features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, D_x)` and `(B', D_y)` to features beside canonical coordinates, float64 `(B, F + R)`."""
        u, v = self.coordinates(x, y)
        return (
            torch.cat([self.trunk_x(u.float()).double(), u], dim=1),
            torch.cat([self.trunk_y(v.float()).double(), v], dim=1),
        )

    def pair_scores(self, x_BF: Tensor, y_BF: Tensor) -> Tensor:
        u, v = x_BF[:, self.num_features :], y_BF[:, self.num_features :]
        x_BF, y_BF = x_BF[:, : self.num_features].float(), y_BF[:, : self.num_features].float()
        product = self.project_x(x_BF) @ self.project_y(y_BF).T
        learned: Tensor = self.head(x_BF, y_BF) + product / math.sqrt(x_BF.shape[1])
        gaussian = (self.coordinates.log_ratio(u, v) * self.weight).clamp(max=self.largest)
        return learned + gaussian.float()
