"""Random numbers of one step, addressed by seed, step and position in the global batch.

Two workers with half a batch each draw what one worker with the whole batch draws.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from viewgen.randomness import addressed_seed
from viewgen_train.distributed import World

__all__ = ["StepDraws"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDraws:
    """Random draws for this process's part of a step's batch; implements `viewgen.views.source.Draws`.

    Attributes:
        step: number of the step.
        seed: root seed of the training.
        world: rank of this process and number of processes.
        global_size: number of images of the step, over all processes.
        device: device of the images, on which normal numbers are drawn.
        rows: positions in this process's part; None for all of them.
    """

    step: int
    seed: int
    world: World
    global_size: int
    device: torch.device
    rows: Tensor | None = None

    def uniform(self, name: str, num_views: int, *shape: int, device: torch.device | None = None) -> Tensor:
        """Return uniform numbers in [0, 1), `(B, num_views, *shape)`; they depend on the device."""
        generator = self._generator(name, device or torch.device("cpu"))
        drawn = torch.rand(self.global_size, num_views, *shape, generator=generator, device=generator.device)
        return self._mine(drawn)

    def normal(self, name: str, num_views: int, *shape: int) -> Tensor:
        """Return standard normal numbers, `(B, num_views, *shape)`, drawn on the images' device."""
        generator = self._generator(name, self.device)
        drawn = torch.randn(self.global_size, num_views, *shape, generator=generator, device=generator.device)
        return self._mine(drawn)

    def of(self, rows: Tensor) -> "StepDraws":
        """Return the draws of some of the images."""
        rows = rows.cpu()
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def _mine(self, drawn: Tensor) -> Tensor:
        part = self.world.share(drawn)
        return part if self.rows is None else part[self.rows.to(part.device)]

    def _generator(self, name: str, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(addressed_seed(self.seed, name, self.step))
