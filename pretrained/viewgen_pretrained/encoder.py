"""Training of the contrastive encoder f on expert views (SimCLR or InfoNCE)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.errors import UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.layout import channels_last
from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
from viewgen.views.expert import ExpertConfig
from viewgen_train.loop import Trainer, as_identity
from viewgen_train.objectives.losses import info_nce, simclr
from viewgen_train.sampler import batch_rows

__all__ = ["EncoderTrainer", "EncoderTrainingConfig"]

LOSSES = {"simclr": simclr, "infonce": info_nce}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTrainingConfig:
    """How an encoder is trained.

    Attributes:
        backbone, width, projection_dim: see `EncoderConfig`.
        loss: ``"simclr"`` (eq. 1) or ``"infonce"`` (eq. 5).
        temperature: τ.
        batch_size: images a step; each gives two views.
        num_steps: optimiser steps.
        learning_rate: peak; warm-up over the first 5 % of the steps, then a cosine to 0.
        weight_decay: of SGD.
        expert: strength of the views.
        seed: seed of the run.
    """

    backbone: str = "resnet18"
    width: int = 64
    projection_dim: int = 128
    loss: Literal["simclr", "infonce"] = "simclr"
    temperature: float = 0.5
    batch_size: int = 512
    num_steps: int = 20_000
    learning_rate: float = 0.5
    weight_decay: float = 1e-4
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageError(f"loss is {self.loss!r}; expected one of {', '.join(LOSSES)}")
        if self.batch_size < 2 or self.num_steps < 1 or self.temperature <= 0:
            raise UsageError("batch_size must be at least 2, num_steps at least 1, temperature positive")


class EncoderTrainer(Trainer):
    """SGD with momentum 0.9 on two expert views of every image."""

    kind = "encoder"

    def __init__(self, dataset: ImageDataset, config: EncoderTrainingConfig, device: torch.device) -> None:
        self.dataset = dataset
        self.config = config
        self.device = device
        self.seed = config.seed
        self.num_steps = config.num_steps
        self.identity = {"dataset": dataset.digest, **as_identity(config)}
        torch.manual_seed(config.seed)
        self.encoder = Encoder(
            EncoderConfig(
                image_size=dataset.image_size,
                backbone=config.backbone,
                width=config.width,
                projection_dim=config.projection_dim,
            )
        ).to(device)
        channels_last(self.encoder)
        self.optimiser = torch.optim.SGD(
            self.encoder.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        warm_up = max(1, self.num_steps // 20)
        if step < warm_up:
            return self.config.learning_rate * (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.num_steps - warm_up)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def step(self, step: int) -> dict[str, float]:
        """Train on one batch."""
        config = self.config
        rows = batch_rows(len(self.dataset), config.batch_size, step, config.seed)
        images = to_model(self.dataset.images(rows), self.device)
        views: list[Tensor] = [
            expert_views(images, torch.rand(len(rows), NUM_UNIFORMS), config.expert) for _ in range(2)
        ]
        self.encoder.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(step)
        z1, z2 = self.encoder(torch.cat(views)).chunk(2)
        loss = LOSSES[config.loss](z1, z2, config.temperature)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"loss": float(loss.detach())}

    def state(self) -> dict[str, Any]:
        """Return encoder and optimiser."""
        return {"encoder": self.encoder.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.encoder.load_state_dict(state["encoder"])
        self.optimiser.load_state_dict(state["optimiser"])
