"""The random numbers of one step, addressed by seed, step and position in the global batch.

Two workers with half a batch each draw what one worker with the whole batch draws.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.randomness import addressed_generator, addressed_seed
from viewgen_train.distributed import World

__all__ = ["StepBatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """This process's part of one step's batch.

    Attributes:
        step: number of the step.
        seed: of the training.
        world: this process among those that train.
        global_size: images of the step, over all processes.
        rows: source indices, `(B,)`.
        images: uint8 `(B, 3, H, W)`, on the training's device.
    """

    step: int
    seed: int
    world: World
    global_size: int
    rows: NDArray[np.int64]
    images: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Return numbers in [0, 1) of every image, `(B, *shape)`, on the CPU."""
        generator = addressed_generator(self.seed, name, self.step)
        return self.world.share(torch.rand(self.global_size, *shape, generator=generator))

    def device_uniform(self, name: str, *shape: int) -> Tensor:
        """As `uniform`, drawn on the images' device; other devices draw other numbers."""
        generator = self._on_device(name)
        return self.world.share(
            torch.rand(self.global_size, *shape, generator=generator, device=generator.device)
        )

    def device_normal(self, name: str, *shape: int) -> Tensor:
        """Return standard normal numbers of every image, `(B, *shape)`, drawn on the images' device."""
        generator = self._on_device(name)
        return self.world.share(
            torch.randn(self.global_size, *shape, generator=generator, device=generator.device)
        )

    def _on_device(self, name: str) -> torch.Generator:
        seed = addressed_seed(self.seed, name, self.step)
        return torch.Generator(self.images.device).manual_seed(seed)
