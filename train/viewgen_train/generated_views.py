"""Where a step's generated views come from: a cache, the expert transform, or networks (see `code_views`).

Shape legend: B images of a step on this process, m generated views of each, V cached views, H, W space.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.images import to_model
from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig, num_noise_channels
from viewgen.store import CacheReader
from viewgen_train.augment import expert_batch, transform_generated
from viewgen_train.batch import StepBatch
from viewgen_train.config import TrainConfig
from viewgen_train.loader import ShardBuffer, ViewMemory

__all__ = ["CachedViews", "ExpertViews", "GeneratedViews", "ViewmakerViews"]


class GeneratedViews(ABC):
    """A source of generated views.

    An image for which it has nothing (a failed search) gets an expert view instead.

    Args:
        config: of the training.
        num_images: images that are trained on.

    Attributes:
        missing: which images it has nothing for, bool `(num_images,)`.
        identity: JSON values on which the views depend.
    """

    def __init__(self, config: TrainConfig, num_images: int) -> None:
        self.config = config
        self.missing: NDArray[np.bool_] = np.zeros(num_images, np.bool_)
        self.identity: dict[str, Any] = {}

    @abstractmethod
    def make(self, batch: StepBatch) -> Tensor:
        """Return model images `(m, B, 3, H, W)`; anything finite for the images that it has nothing for."""

    def expect(self, rows: NDArray[np.int64]) -> None:  # noqa: B027
        """Prepare for rows that will be asked for soon."""

    def views(self, batch: StepBatch) -> Tensor:
        """Return transformed views, `(m, B, 3, H, W)` in [−1, 1]."""
        views = transform_generated(self.make(batch), batch, self.config)
        missing = self.missing[batch.rows]
        if missing.any():
            instead = expert_batch(batch, "missing", len(views), self.config.expert)
            chosen = torch.from_numpy(missing).to(views.device)[:, None, None, None]
            views = torch.where(chosen, instead, views)
        return views

    def networks(self) -> Mapping[str, Any]:
        """Return what it trains: name → module or optimiser."""
        return {}


class ExpertViews(GeneratedViews):
    """Further expert views."""

    def make(self, batch: StepBatch) -> Tensor:
        """Return the images themselves; the transform makes them expert views."""
        return to_model(batch.images).expand(self.config.num_generated, -1, -1, -1, -1)


class CachedViews(GeneratedViews):
    """m of the V views of a cache, drawn anew in every step.

    Args:
        config: of the training.
        reader: of the cache, whose rows are the images' source indices.
        num_images: images that are trained on.
        memory: holds or streams the cache's views.
    """

    def __init__(
        self, config: TrainConfig, reader: CacheReader, num_images: int, memory: ViewMemory | ShardBuffer
    ) -> None:
        super().__init__(config, num_images)
        self.num_views = reader.spec.num_views
        if config.num_generated > self.num_views:
            raise UsageError(
                f"{config.num_generated} generated views a step were asked of a cache with {self.num_views} "
                "per image; set views_per_step to fewer, or make a cache with --views"
            )
        self.missing[:] = True
        self.missing[reader.rows[reader.rows < num_images]] = False
        self.identity = {"cache": reader.spec.identity, "missing": int(self.missing.sum())}
        self._memory = memory

    def make(self, batch: StepBatch) -> Tensor:
        """Return views drawn without replacement."""
        order = batch.uniform("view", self.num_views).argsort(dim=1)
        views = self._memory.read(batch.rows, order[:, : self.config.num_generated])
        return to_model(views).transpose(0, 1)

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Begin to read the shards of rows."""
        self._memory.expect(rows)


class ViewmakerViews(GeneratedViews):
    """Views of a network that is trained against the encoder, one step after each of the encoder's.

    Args:
        config: of the training.
        num_images: images that are trained on.
        device: of the network.
    """

    def __init__(self, config: TrainConfig, num_images: int, device: torch.device) -> None:
        super().__init__(config, num_images)
        self.viewmaker = Viewmaker(ViewmakerConfig(budget=config.viewmaker_budget)).to(device)
        self.optimiser = torch.optim.Adam(self.viewmaker.parameters(), lr=config.viewmaker_learning_rate)

    def make(self, batch: StepBatch) -> Tensor:
        """Return the network's views, with gradients to its weights where those are asked for."""
        count = self.config.num_generated
        images = to_model(batch.images)
        noise = batch.device_uniform("viewmaker", count, num_noise_channels(), *images.shape[2:])
        flat: Tensor = self.viewmaker(images.repeat(count, 1, 1, 1), noise.transpose(0, 1).flatten(0, 1))
        return flat.view(count, *images.shape)

    def networks(self) -> Mapping[str, Any]:
        """Return the network and its optimiser."""
        return {"viewmaker": self.viewmaker, "viewmaker optimiser": self.optimiser}
