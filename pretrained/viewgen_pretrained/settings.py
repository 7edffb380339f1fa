"""Settings of the trainings of generator, inverter and learned views.

Neither this module nor its imports import torch, which takes seconds.

References:
    Training Generative Adversarial Networks with Limited Data, Karras, Aittala, Hellsten, Laine, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/2006.06676
    In-Domain GAN Inversion for Real Image Editing, Zhu, Shen, Zhao and Zhou, 2020,
    https://arxiv.org/abs/2004.00049
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    appendix B.5, https://arxiv.org/abs/2005.10243
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting
from viewgen.views.color_settings import Space

__all__ = ["GeneratorTrainingConfig", "InverterTrainingConfig", "ViewsTrainingConfig"]

Transform = Literal["brightness", "color", "translation", "cutout"]


class GeneratorTrainingConfig(Settings):
    """Settings of a generator's training, and of the discriminator's beside it."""

    title: ClassVar[str] = "generator training"

    channels: tuple[int, ...] = setting(
        (512, 512, 512, 512, 256, 128),
        "feature channels of both networks at 4, 8, … px; entries past the image size are dropped",
        min_length=1,
    )
    num_mapping_layers: int = setting(8, "layers of the mapping network", ge=1)
    num_images: int = setting(5_000_000, "real images shown to the discriminator in the whole training", ge=1)
    batch_size: int = setting(64, "images of a step", ge=1)
    learning_rate: float = setting(0.0025, "learning rate of Adam for both networks (betas 0, 0.99)", gt=0)
    r1_weight: float = setting(10.0, "weight γ of R1", ge=0)
    r1_interval: int = setting(16, "steps between evaluations of R1", ge=1)
    path_weight: float = setting(2.0, "weight of the path-length penalty", ge=0)
    path_interval: int = setting(4, "steps between evaluations of the path-length penalty", ge=1)
    style_mixing: float = setting(
        0.9, "probability that the layers of a sample use two latent codes", ge=0, le=1
    )
    ema_half_life: float = setting(10_000.0, "half-life of the averaged generator, in images", gt=0)
    augment: tuple[Transform, ...] = setting(
        ("translation", "color"), "transforms of the discriminator's input (DiffAugment)"
    )
    ada_target: float = setting(
        0.0,
        "target of ADA's heuristic (0.6 in Karras et al., 2020): each transform is applied with a "
        "probability that rises while the mean sign of the logits of real images is above it, and falls "
        "below it; 0 applies all transforms to every image",
        ge=0,
        lt=1,
    )
    ada_images: int = setting(500_000, "images over which that probability can rise from 0 to 1", ge=1)
    ada_interval: int = setting(4, "steps between changes of that probability", ge=1)
    seed: int = setting(0, "root of all random numbers")

    @model_validator(mode="after")
    def _something_to_apply(self) -> Self:
        if self.ada_target and not self.augment:
            raise UsageError("ada_target needs transforms to apply; augment is empty")
        return self

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        found: dict[str, str] = {}
        if not self.ada_target:
            found |= dict.fromkeys(("ada_images", "ada_interval"), "ada_target is 0")
        if not self.r1_weight:
            found["r1_interval"] = "r1_weight is 0"
        if not self.path_weight:
            found["path_interval"] = "path_weight is 0"
        return found


class InverterTrainingConfig(Settings):
    """Settings of an inverter's training."""

    title: ClassVar[str] = "inverter training"

    channels: tuple[int, ...] = setting(
        (512, 512, 256, 128, 64, 32),
        "feature channels from 4 px on; entries past the image size are dropped",
        min_length=1,
    )
    hidden_dim: int = setting(256, "width of the layer before the codes", ge=1)
    num_steps: int = setting(50_000, "steps of the whole training", ge=1)
    batch_size: int = setting(32, "images of a step", ge=1)
    learning_rate: float = setting(
        1e-3, "learning rate of Adam (betas 0.9, 0.99); a cosine to 0 over the second half", gt=0
    )
    perceptual: Literal["lpips", "discriminator", "none"] = setting(
        "discriminator",
        "perceptual term: LPIPS, the like of it on the activations of the generator's discriminator, or none",
    )
    perceptual_weight: float = setting(
        0.2, "weight of the perceptual term, relative to the mean squared pixel error", ge=0
    )
    adversarial_weight: float = setting(
        0.05, "weight of the adversarial term, relative to the mean squared pixel error", ge=0
    )
    r1_weight: float = setting(10.0, "weight γ of the discriminator's R1", ge=0)
    r1_interval: int = setting(16, "steps between evaluations of R1", ge=1)
    ema_half_life: float = setting(200.0, "half-life of the averaged inverter, in steps", gt=0)
    seed: int = setting(0, "root of all random numbers")

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        found: dict[str, str] = {}
        if self.perceptual == "none":
            found["perceptual_weight"] = "perceptual is 'none'"
        if not self.r1_weight:
            found["r1_interval"] = "r1_weight is 0"
        return found


class ViewsTrainingConfig(Settings):
    """Settings of a training of learned views: a flow of colours, and the encoders beside it."""

    title: ClassVar[str] = "views training"

    objective: Literal["unsupervised", "semi", "supervised"] = setting(
        "semi",
        "what the flow learns: views that share little (unsupervised), that and the classes in either view "
        "(semi), or the classes alone (supervised)",
    )
    space: Space = setting(
        "YDbDr", "colour space of the flow's input: its first channel is one view, the others are the second"
    )
    coupling: Literal["additive", "affine"] = setting(
        "additive", "blocks that preserve volume (additive, NICE) or not (affine, RealNVP)"
    )
    num_blocks: int = setting(6, "blocks of the flow", ge=1, le=12)
    hidden: int = setting(32, "channels of the hidden layers in a block", ge=1, le=64)
    labels: int | None = setting(
        None, "images whose classes are used, drawn at random; by default all that have one", ge=1
    )
    attribute: str | None = setting(
        None, "name of the class attribute; by default the first, where images have several"
    )
    backbone: Literal["convnet", "resnet18", "resnet50"] = setting(
        "convnet", "backbone of the encoder and the classifier of each view"
    )
    width: int = setting(32, "channels of these backbones' first layer", ge=1)
    projection_dim: int = setting(64, "width of the encoders' projections", ge=1)
    temperature: float = setting(0.1, "τ of InfoNCE", gt=0)
    batch_size: int = setting(128, "images of a step, and up to as many labelled ones beside them", ge=2)
    epochs: int = setting(30, "passes over the images; of a supervised training over the labelled ones", ge=1)
    view_learning_rate: float = setting(2e-4, "learning rate of Adam for flow and classifiers", gt=0)
    critic_learning_rate: float = setting(6e-4, "learning rate of Adam for the encoders", gt=0)
    critic_steps: int = setting(1, "steps of the encoders before each step of the flow", ge=1)
    crop: float = setting(
        0.2,
        "smallest share of an image that its random crop keeps; flipped as in the recipe; 1 does neither",
        gt=0,
        le=1,
    )
    measure_steps: int = setting(
        400,
        "updates of the critics that measure I_NCE of the colour split and of the learned views for the "
        "card; 0 measures neither",
        ge=0,
    )
    seed: int = setting(0, "root of all random numbers")

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        if self.objective == "unsupervised":
            return dict.fromkeys(("labels", "attribute"), "objective is 'unsupervised'")
        if self.objective == "supervised":
            unused = ("projection_dim", "temperature", "critic_learning_rate", "critic_steps")
            return dict.fromkeys(unused, "objective is 'supervised'")
        return {}
