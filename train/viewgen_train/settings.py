"""Settings of a training: view source, objective and diagnostics, each with its own settings.

Neither this module nor its imports import torch, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from viewgen.registry import Choice
from viewgen.settings import Settings, setting
from viewgen.views.expert import ExpertConfig

__all__ = [
    "AssimilationSettings",
    "DiagnosticsSettings",
    "NetworkSettings",
    "OptimiserSettings",
    "RunSettings",
    "TrainSettings",
]


class AssimilationSettings(Settings):
    """Role of generated views in the objective, and their transform."""

    title = "the assimilation"

    kind: Literal["none", "A1", "A2"] = setting(
        "A2",
        "none: two generated views in the objective; A1: an expert and a generated view; A2: two expert "
        "views, drawn towards the generated ones",
    )
    alpha: float = setting(0.5, "α, weight of the generated views in A2", ge=0)
    views_per_step: int = setting(1, "m, generated views of each image in a step of A1 or A2", ge=1)
    transform: Literal["flip", "weak-crop", "expert"] = setting(
        "flip",
        "transform of a generated view: a flip, a flip and a crop of 0.9 to 1 of the area, or the whole "
        "expert transform",
    )


class NetworkSettings(Settings):
    """Architecture and numerics of the trained network."""

    title = "the network"

    backbone: str = setting("resnet18", "residual network, resnet18 or resnet50")
    width: int = setting(64, "channels of the first stage", ge=1)
    projection_dim: int = setting(128, "width of the projections", ge=1)
    precision: Literal["auto", "float32", "bf16"] = setting(
        "auto", "float32, bf16 (autocast), or auto: bf16 on GPUs that have it"
    )
    channels_last: bool = setting(True, "whether images and weights lie channels-last in memory")
    batchnorm: Literal["concatenated", "separate"] = setting(
        "concatenated", "batch statistics over all views together, or view by view"
    )
    projector: Literal["objective", "mlp", "mlp-bn"] = setting(
        "objective",
        "layers between features and projections: mlp two, mlp-bn two with batch normalisation after both "
        "(E-SSL's, on CIFAR-10), objective those of the objective",
        since=2,
    )
    branches: Literal["separate", "shared"] = setting(
        "separate", "for views of different roles, an encoder of each role or one for all", since=2
    )


class OptimiserSettings(Settings):
    """Stochastic gradient descent and its learning-rate schedule."""

    title = "the optimiser"

    batch_size: int = setting(512, "N, images of a step, over all workers", ge=2)
    epochs: int = setting(1000, "passes over the images; what does not fill a batch is left out", ge=1)
    num_steps: int | None = setting(
        None, "steps of the whole training, in the place of epochs", since=2, ge=1
    )
    learning_rate: float = setting(0.5, "highest learning rate", gt=0)
    momentum: float = setting(0.9, "momentum", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "weight decay", ge=0)
    schedule: Literal["cosine", "constant"] = setting(
        "cosine", "after the warm-up, a cosine to 0 or a constant"
    )
    warm_up_epochs: float = setting(
        10.0, "epochs of a linear rise from 0; at most half of the training", ge=0
    )
    gradient_clip: float = setting(0.0, "largest norm of the gradient; 0 turns clipping off", ge=0)
    loss_scale: float = setting(
        1.0, "factor of the loss; recipes in the manner of SupContrast have τ / 0.07", gt=0
    )


class DiagnosticsSettings(Settings):
    """Measurements during training."""

    title = "the diagnostics"

    knn_every: int = setting(10, "epochs between 5-NN accuracies; 0 for only one, at the end", ge=0)
    probe_every: int = setting(0, "epochs between linear probes; 0 for none on the way", ge=0)


class RunSettings(Settings):
    """Settings of a training outside its components."""

    title = "the training"

    seed: int = setting(0, "root of all random numbers")


COMPONENTS: dict[str, type[Settings]] = {
    "assimilation": AssimilationSettings,
    "network": NetworkSettings,
    "optimiser": OptimiserSettings,
    "diagnostics": DiagnosticsSettings,
    "expert": ExpertConfig,
    "run": RunSettings,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """All resolved settings of a training (see `viewgen_train.resolve.train_settings`).

    Attributes:
        views: source of the generated views, an entry of `viewgen.views.VIEWS`.
        objective: loss of a step, an entry of `viewgen_train.objectives.OBJECTIVES`.
        assimilation: role of generated views in the objective.
        network, optimiser, diagnostics, run: settings of the components.
        expert: strength of the expert views.
        dormant: recipe values that this training does not use, by name in records of format 1.
    """

    views: Choice[Any]
    objective: Choice[Any]
    assimilation: AssimilationSettings = field(default_factory=AssimilationSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    diagnostics: DiagnosticsSettings = field(default_factory=DiagnosticsSettings)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    run: RunSettings = field(default_factory=RunSettings)
    dormant: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of_parts(cls, parts: Mapping[str, Any], dormant: Mapping[str, Any]) -> TrainSettings:
        """Return the settings of a training from those of all its components, by name."""
        return cls(**parts, dormant=dormant)

    @property
    def seed(self) -> int:
        """Root seed of all random numbers."""
        return self.run.seed

    def change(self, component: str, **values: Any) -> TrainSettings:
        """Return a copy of the settings with changed values in one component."""
        return replace(self, **{component: getattr(self, component).replace(**values)})
