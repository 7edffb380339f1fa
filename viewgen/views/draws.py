"""Random numbers of images, addressed by (seed, image, view): independent of the rest of the batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.randomness import addressed_generator

__all__ = ["ImageDraws"]


@dataclass(frozen=True, slots=True)
class ImageDraws:
    """Draws of a cache's images.

    Attributes:
        seed: root of all random numbers.
        source_index: rows of the data set, int64 `(B,)`, on the CPU.
    """

    seed: int
    source_index: Tensor

    def uniform(self, name: str, num_views: int, *shape: int, device: torch.device | None = None) -> Tensor:
        """Return numbers in [0, 1), `(B, num_views, *shape)`, addressed by (seed, name, image, view)."""
        return self._drawn(torch.rand, name, num_views, shape).to(device)

    def normal(self, name: str, num_views: int, *shape: int) -> Tensor:
        """Return normal numbers N(0, 1), `(B, num_views, *shape)`, addressed by (seed, name, image, view)."""
        return self._drawn(torch.randn, name, num_views, shape)

    def of(self, rows: Tensor) -> "ImageDraws":
        """Return the draws of some of the images."""
        return ImageDraws(self.seed, self.source_index[rows.cpu()])

    def _drawn(
        self, draw: Callable[..., Tensor], name: str, num_views: int, shape: tuple[int, ...]
    ) -> Tensor:
        numbers = [
            draw(shape, generator=addressed_generator(self.seed, name, image, view))
            for image in self.source_index.tolist()
            for view in range(num_views)
        ]
        if not numbers:
            return torch.empty(len(self.source_index), num_views, *shape)
        drawn: Tensor = torch.stack(numbers).unflatten(0, (-1, num_views))
        return drawn
