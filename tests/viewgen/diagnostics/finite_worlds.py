"""Random finite worlds, many at once: images with a few views each, and an encoder that is a table.

Every quantity of the theorems is computed here by brute force: main parts by all subsets, suprema over all
pairs. Unbiased worlds hardly ever meet the condition of Theorem 2, so these lie near the perfect case: tight
classes far apart, with a spread of 0.001 to 1; half of the
worlds have stray views, and in half all views of an image fall on one point, save the stray ones.

Shape legend: W worlds, K classes, n images of each, M views of each with the image itself, d output width,
T values of δ, E values of ε, S subsets of a class.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

STRAY = (0.0, 0.03)


@dataclass(frozen=True)
class Worlds:
    """W worlds of one shape.

    Attributes:
        views: positions in the plane, `(W, K, n, M, 2)`.
        z: outputs of norm `radius`, `(W, K, n, M, d)`.
        shares: p_k, `(W, K)`.
        radius: r, `(W,)`.
    """

    views: np.ndarray
    z: np.ndarray
    shares: np.ndarray
    radius: np.ndarray

    @cached_property
    def weights(self) -> np.ndarray:
        """Weight of each image, `(W, K, n)`."""
        count = self.views.shape[2]
        return np.repeat(self.shares[:, :, None] / count, count, axis=2)

    @cached_property
    def distance(self) -> np.ndarray:
        """d_A within classes, `(W, K, n, n)`."""
        apart = self.views[:, :, :, None, :, None] - self.views[:, :, None, :, None, :]
        return np.linalg.norm(apart, axis=-1).min(axis=(4, 5))

    @cached_property
    def diameter(self) -> np.ndarray:
        """Largest distance of two outputs of an image, `(W, K, n)`."""
        apart = self.z[:, :, :, :, None] - self.z[:, :, :, None]
        return np.linalg.norm(apart, axis=-1).max(axis=(3, 4))

    @cached_property
    def lipschitz(self) -> np.ndarray:
        """Largest ratio of distances of two views of a class, `(W,)`."""
        x, z = (part.reshape(*part.shape[:2], -1, part.shape[-1]) for part in (self.views, self.z))
        pixels, outputs = (np.linalg.norm(part[:, :, :, None] - part[:, :, None], axis=-1) for part in (x, z))
        return (outputs / np.where(pixels > 0, pixels, np.inf)).max(axis=(1, 2, 3))

    @cached_property
    def alignment(self) -> np.ndarray:
        """Mean squared distance of two views of an image, `(W,)`."""
        apart = self.z[:, :, :, :, None] - self.z[:, :, :, None]
        return (self.weights * np.square(apart).sum(axis=-1).mean(axis=(3, 4))).sum(axis=(1, 2))

    @cached_property
    def centres(self) -> np.ndarray:
        """μ_k, `(W, K, d)`."""
        return self.z.mean(axis=(2, 3))

    @cached_property
    def products(self) -> np.ndarray:
        """Inner products of centres over r², `(W, K, K)`."""
        found = self.centres @ self.centres.transpose(0, 2, 1)
        return found / self.radius[:, None, None] ** 2

    @cached_property
    def largest(self) -> np.ndarray:
        """Largest product of two different centres, `(W,)`."""
        return (self.products - 9 * np.eye(self.products.shape[1])).max(axis=(1, 2))

    @cached_property
    def delta_mu(self) -> np.ndarray:
        """Δ_μ, `(W,)`."""
        return 1 - np.diagonal(self.products, axis1=1, axis2=2).min(axis=1)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Images that G_f puts into another class, bool `(W, K, n)`."""
        x = self.z[:, :, :, 0]
        distance = np.linalg.norm(x[:, :, :, None] - self.centres[:, None, None], axis=-1)
        return distance.argmin(axis=3) != np.arange(x.shape[1])[None, :, None]

    def main_parts(self, delta: np.ndarray) -> np.ndarray:
        """Return a largest main part of each class, bool `(W, K, T, n)`, for values of δ `(W, T)`."""
        count = self.views.shape[2]
        subsets = (np.arange(1, 2**count)[:, None] >> np.arange(count)) & 1 == 1
        pairs = subsets[:, :, None] & subsets[:, None]
        widest = np.where(pairs, self.distance[:, :, None], 0).max(axis=(3, 4))  # (W, K, S)
        size = subsets.sum(axis=1)
        fits = widest[:, :, None] <= delta[:, None, :, None]
        return subsets[(fits * size).argmax(axis=3)]


def random_worlds(count: int, *, num_classes: int, num_images: int, num_views: int, seed: int) -> Worlds:
    """Return worlds near the perfect case."""
    random = np.random.default_rng(seed)
    shape = (count, num_classes, num_images, num_views)
    spread = 10 ** random.uniform(-3, 0, count)[:, None, None, None]
    centre = random.normal(size=(count, num_classes, 1, 2)) * 3
    images = centre + spread * random.normal(size=(*shape[:3], 2))
    views = images[:, :, :, None] + spread[..., None] * random.normal(size=(*shape, 2))
    views[:, :, :, 0] = images
    # classes near the corners of a simplex, which are as far apart as can be
    corners = np.eye(num_classes) - 1 / num_classes
    corners = corners + random.normal(size=(count, num_classes, num_classes)) * random.uniform(
        0, 0.3, (count, 1, 1)
    )
    slope = 10 ** random.uniform(-3, 1, (count, 1, 1)) * random.normal(size=(count, 2, num_classes))
    offset = (views - centre[:, :, :, None]).reshape(count, -1, 2) @ slope
    z = corners[:, :, None, None] + offset.reshape(*shape, num_classes)
    aligned = random.random(count) < 0.5
    z[aligned] = z[aligned][:, :, :, :1]
    stray = random.random(shape) < random.choice(STRAY, (count, 1, 1, 1))
    views[stray] = random.normal(size=(int(stray.sum()), 2)) * 3
    z[stray] = random.normal(size=(int(stray.sum()), num_classes))
    radius = random.choice([0.5, 1.0, 3.0], count)
    z *= radius[:, None, None, None, None] / np.linalg.norm(z, axis=-1, keepdims=True)
    shares = random.dirichlet(np.full(num_classes, 20.0), count)
    return Worlds(views=views, z=z, shares=shares, radius=radius)
