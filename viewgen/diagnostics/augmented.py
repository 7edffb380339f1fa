"""Augmented training images of readouts: a new view of each image in every epoch."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.images import to_model
from viewgen.randomness import addressed_generator
from viewgen.views.augmentation import expert_uniforms, expert_views
from viewgen.views.expert import ExpertConfig

__all__ = ["Augmentation", "AugmentedImages"]

Augmentation = Literal["none", "crop", "expert"]


class AugmentedImages:
    """Views of training images; the view of an image is a function of seeds, epoch and row.

    Args:
        dataset: images.
        expert: strength of the expert transform.
        kind: ``"none"``, ``"crop"`` (crops and flips), or ``"expert"`` (all of the transform).
        seed: root seed.
        device: device of the views.
        name: address of the random numbers.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        expert: ExpertConfig,
        kind: Augmentation,
        seed: int,
        device: torch.device | str,
        *,
        name: str,
    ) -> None:
        self.expert = expert if kind == "expert" else expert.crop_only()
        self.dataset, self.kind, self.seed, self.device, self.name = dataset, kind, seed, device, name
        self._uniforms: dict[int, tuple[int, Tensor]] = {}

    def __call__(self, own_seed: int, epoch: int, rows: Tensor) -> Tensor:
        """Return model images `(B, C, H, W)`.

        Args:
            own_seed: seed of the readout among those that are trained side by side.
            epoch: number of the epoch.
            rows: source indices, `(B,)`.
        """
        rows = rows.cpu()
        images = to_model(self.dataset.images(rows.numpy()), self.device)
        if self.kind == "none":
            return images
        drawn_for, uniforms = self._uniforms.get(own_seed, (-1, torch.empty(0)))
        if drawn_for != epoch:
            uniforms = expert_uniforms(partial(self._uniform, own_seed, epoch), self.name, self.expert)
            self._uniforms[own_seed] = (epoch, uniforms)
        return expert_views(images, uniforms[rows], self.expert)

    def _uniform(self, own_seed: int, epoch: int, name: str, count: int) -> Tensor:
        generator = addressed_generator(self.seed, name, own_seed, epoch)
        return torch.rand(len(self.dataset), count, generator=generator)
