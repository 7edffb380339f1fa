"""Settings of a training: view source, objective and diagnostics, each with its own settings.

Neither this module nor its imports import torch, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import model_validator

from viewgen.registry import Choice
from viewgen.settings import Settings, setting
from viewgen.views.expert import ExpertConfig

__all__ = [
    "AssimilationSettings",
    "DiagnosticsSettings",
    "NegativesSettings",
    "NetworkSettings",
    "OptimiserSettings",
    "ReconstructionSettings",
    "RunSettings",
    "SecondViewSettings",
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
    transform: Literal["none", "flip", "weak-crop", "expert"] = setting(
        "flip",
        "transform of a generated view: none, a flip, a flip and a crop of 0.9 to 1 of the area, or the "
        "whole expert transform",
    )


class NegativesSettings(Settings):
    """IFM and hard negatives, over every objective with negatives."""

    title = "negatives"

    ifm_epsilon: float = setting(
        0.0, "IFM: ε, perturbation of positives and negatives; 0 turns IFM off", since=2, ge=0
    )
    ifm_alpha: float = setting(
        1.0, "IFM: α, weight of the perturbed loss L_ε in (L + α·L_ε) / (1 + α)", since=2, ge=0
    )
    ifm_only: bool = setting(False, "IFM: the perturbed loss alone", since=2)
    hardness: float = setting(
        0.0, "β of hard negatives, which weigh exp(β·s/τ) at similarity s; 0 weighs all alike", since=2, ge=0
    )
    hardness_annealing: bool = setting(
        False, "whether β falls to 0 over the training, in nine equal parts", since=2
    )
    class_prior: float = setting(
        0.0, "τ⁺, assumed share of negatives of the anchor's class", since=2, ge=0, lt=1
    )

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect beside the others' values."""
        found: dict[str, str] = {}
        if not self.ifm_epsilon:
            found |= dict.fromkeys(("ifm_alpha", "ifm_only"), "ifm_epsilon is 0")
        elif self.ifm_only:
            found["ifm_alpha"] = "ifm_only is true"
        if not self.hardness:
            found["hardness_annealing"] = "hardness is 0"
        return found


class ReconstructionSettings(Settings):
    """Reconstruction (RCL) over every objective of whole images."""

    title = "the reconstruction"

    task: Literal["none", "inpainting", "colorization", "autoencoding"] = setting(
        "none",
        "what is rebuilt from a view: its masked squares, its colours, or the view itself",
        since=2,
    )
    reconstruction_weight: float = setting(
        10.0, "λ, weight of the reconstruction's error; 0 turns it off", since=2, ge=0
    )
    contrastive_weight: float = setting(
        1.0, "weight of the objective's loss; 0 leaves the reconstruction alone", since=2, ge=0
    )
    reconstruction_epochs: float = setting(
        0.0, "epochs at the start in which the reconstruction is the whole loss", since=2, ge=0
    )
    reconstruction_view: Literal["first", "all", "image"] = setting(
        "first", "views that are rebuilt: the first, all, or the untransformed image", since=2
    )
    reconstruction_loss: Literal["mse", "rms", "l2"] = setting(
        "mse",
        "error of an image: mean squared error over pixels and channels, its root, or the root of the sum",
        since=2,
    )
    reconstruction_pixels: Literal["all", "masked"] = setting("all", "inpainting: pixels that count", since=2)
    decoder_input: Literal["map", "pooled"] = setting(
        "map", "what the decoder reads: the backbone's last map, or the pooled features", since=2
    )
    mask_count: tuple[int, int] = setting((3, 5), "inpainting: range of the number of squares", since=2)
    mask_side: tuple[int, int] | None = setting(
        None,
        "inpainting: range of the squares' side in pixels; by default 10 to 16 at 64 px, in proportion",
        since=2,
    )
    gradients_every: int = setting(
        20, "steps between logged norms of both terms' gradients on the backbone; 0 for none", since=2, ge=0
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("mask_count", "mask_side"):
            low, high = getattr(self, name) or (1, 1)
            if not 1 <= low <= high:
                raise ValueError(f"{name} is ({low}, {high}); expected 1 ≤ low ≤ high")
        return self

    @property
    def active(self) -> bool:
        """Whether there is a reconstruction; one of weight 0 is none."""
        return self.task != "none" and self.reconstruction_weight > 0

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect beside the task and the weights."""
        names = set(type(self).model_fields) - {"task"}
        if self.task == "none":
            return dict.fromkeys(names, "reconstruction is 'none'")
        if not self.reconstruction_weight:
            return dict.fromkeys(names - {"reconstruction_weight"}, "reconstruction_weight is 0")
        found: dict[str, str] = {}
        if not self.contrastive_weight:
            found["reconstruction_epochs"] = "contrastive_weight is 0, and the reconstruction always alone"
        if self.task != "inpainting":
            names = {"mask_count", "mask_side", "reconstruction_pixels"}
            found |= dict.fromkeys(names, f"reconstruction is {self.task!r}")
        return found


class NetworkSettings(Settings):
    """Architecture and numerics of the trained network."""

    title = "the network"

    backbone: str = setting(
        "resnet18",
        "residual network, resnet18 or resnet50, or four strided convolutions, convnet, or six, convnet6",
    )
    width: int = setting(64, "channels of the first stage", ge=1)
    projection_dim: int = setting(128, "width of the projections", ge=1)
    precision: Literal["auto", "float32", "bf16"] = setting(
        "auto", "float32, bf16 (autocast), or auto: bf16 on GPUs that have it"
    )
    channels_last: bool = setting(True, "whether images and weights lie channels-last in memory")
    compile: bool = setting(
        False,
        "torch.compile of the trained backbone (not of a target network), whose results differ in rounding; "
        "the first step takes a minute",
        since=2,
    )
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
    projector_hidden: int | None = setting(
        None,
        "width of the projector's hidden layers; by default that of the features, or of the projections for "
        "heads of three layers",
        since=2,
        ge=1,
    )
    predictor_hidden: int | None = setting(
        None, "width of the predictor's hidden layer; by default as the objective has it", since=2, ge=1
    )


class OptimiserSettings(Settings):
    """Optimiser of the weights, and its learning-rate schedule."""

    title = "the optimiser"

    name: Literal["sgd", "lars", "adamw"] = setting(
        "sgd",
        "momentum SGD, LARS (layer-wise adapted SGD) or AdamW; the latter two spare biases and "
        "normalisations the weight decay",
        since=2,
    )
    batch_size: int = setting(512, "N, images of a step, over all workers", ge=2)
    epochs: int = setting(1000, "passes over the images; what does not fill a batch is left out", ge=1)
    num_steps: int | None = setting(
        None, "steps of the whole training, in the place of epochs", since=2, ge=1
    )
    learning_rate: float = setting(0.5, "highest learning rate", gt=0)
    momentum: float = setting(0.9, "momentum of SGD and LARS", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "weight decay", ge=0)
    trust_coefficient: float = setting(
        0.001, "η of LARS, a layer's step in proportion to its weights", since=2, gt=0
    )
    trust_clip: bool = setting(False, "LARS: whether a layer's rate is at most the learning rate", since=2)
    schedule: Literal["cosine", "constant", "steps"] = setting(
        "cosine", "after the warm-up, a cosine to the floor, a constant, or steps at the milestones"
    )
    learning_rate_floor: float = setting(
        0.0, "lowest learning rate of a cosine or of steps, as a share of the highest", since=2, ge=0, le=1
    )
    milestones: tuple[float, ...] = setting((), "epochs at which a rate of steps falls", since=2)
    step_factor: float = setting(0.1, "factor of the rate at a milestone", since=2, gt=0, lt=1)
    predictor_learning_rate: float | None = setting(
        None, "highest learning rate of the predictor; by default that of the encoder", since=2, gt=0
    )
    predictor_schedule: Literal["same", "constant"] = setting(
        "same", "schedule of the predictor's learning rate: that of the encoder, or a constant", since=2
    )
    warm_up_epochs: float = setting(
        10.0, "epochs of a linear rise from 0; at most half of the training", ge=0
    )
    gradient_clip: float = setting(0.0, "largest norm of the gradient; 0 turns clipping off", ge=0)
    loss_scale: float = setting(
        1.0, "factor of the loss; recipes in the manner of SupContrast have τ / 0.07", gt=0
    )

    @model_validator(mode="after")
    def _milestones_in_order(self) -> Self:
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("schedule is 'steps' without milestones; give the epochs, such as [60.0, 80.0]")
        if any(later <= earlier for earlier, later in pairwise((0.0, *self.milestones))):
            raise ValueError(f"milestones are {list(self.milestones)}; expected increasing epochs above 0")
        if self.milestones and self.milestones[-1] >= self.epochs:
            raise ValueError(
                f"milestones are {list(self.milestones)}, and the last is not before the end of the "
                f"{self.epochs} epochs"
            )
        return self

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect beside the optimiser and the schedule, name → reason."""
        ignored = {}
        if self.name == "adamw":
            ignored["momentum"] = "name is 'adamw', whose moments decay by 0.9 and 0.999"
        if self.name != "lars":
            for name in ("trust_coefficient", "trust_clip"):
                ignored[name] = f"name is {self.name!r}, not 'lars'"
        if self.schedule != "steps":
            for name in ("milestones", "step_factor"):
                ignored[name] = f"schedule is {self.schedule!r}, not 'steps'"
        if self.schedule == "constant":
            ignored["learning_rate_floor"] = "schedule is 'constant'"
        return ignored


class DiagnosticsSettings(Settings):
    """Measurements during training."""

    title = "the diagnostics"

    knn_every: int = setting(10, "epochs between 5-NN accuracies; 0 for only one, at the end", ge=0)
    probe_every: int = setting(0, "epochs between linear probes; 0 for none on the way", ge=0)
    knn_images: int = setting(
        50_000, "training images, and test images, of these accuracies at most", since=2, ge=2
    )


class SecondViewSettings(Settings):
    """Operations of the second expert view that differ from those of the first."""

    title = "the second view"

    blur_probability: float | None = setting(
        None, "probability of a Gaussian blur; by default that of the first view", since=2, ge=0, le=1
    )
    solarize_probability: float | None = setting(
        None,
        "probability of inverting the bright pixels; by default that of the first view",
        since=2,
        ge=0,
        le=1,
    )


class RunSettings(Settings):
    """Settings of a training outside its components."""

    title = "the training"

    seed: int = setting(0, "root of all random numbers")


# settings of `NegativesSettings` → combinator; the first of each turns it on, and class_prior too
NEGATIVES = {
    "ifm_epsilon": "IFM",
    "ifm_alpha": "IFM",
    "ifm_only": "IFM",
    "hardness": "hard negatives",
    "hardness_annealing": "hard negatives",
    "class_prior": "hard negatives",
}
COMPONENTS: dict[str, type[Settings]] = {
    "assimilation": AssimilationSettings,
    "negatives": NegativesSettings,
    "reconstruction": ReconstructionSettings,
    "network": NetworkSettings,
    "optimiser": OptimiserSettings,
    "diagnostics": DiagnosticsSettings,
    "expert": ExpertConfig,
    "second": SecondViewSettings,
    "run": RunSettings,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """All resolved settings of a training (see `viewgen_train.resolve.train_settings`).

    Attributes:
        views: source of the generated views, an entry of `viewgen.views.VIEWS`.
        objective: loss of a step, an entry of `viewgen_train.objectives.OBJECTIVES`.
        assimilation: role of generated views in the objective.
        negatives: IFM and hard negatives.
        reconstruction: reconstruction over the objective.
        network, optimiser, diagnostics, run: settings of the components.
        expert: strength of the expert views.
        second: what differs in the second expert view.
        dormant: recipe values that this training does not use, by name in records of format 1.
    """

    views: Choice[Any]
    objective: Choice[Any]
    assimilation: AssimilationSettings = field(default_factory=AssimilationSettings)
    negatives: NegativesSettings = field(default_factory=NegativesSettings)
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    diagnostics: DiagnosticsSettings = field(default_factory=DiagnosticsSettings)
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    second: SecondViewSettings = field(default_factory=SecondViewSettings)
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
