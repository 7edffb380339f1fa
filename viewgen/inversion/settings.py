"""Settings of the refined inversion, and its registry entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from viewgen.settings import Settings, setting
from viewgen.store.columns import ANCHOR_W_PLUS
from viewgen.views.entry import Resources, Situation, ViewEntry

if TYPE_CHECKING:
    from viewgen.views.source import ViewSource

__all__ = ["ENTRY", "InvertConfig"]


class InvertConfig(Settings):
    """Settings of the refinement of codes."""

    title = "invert"

    learning_rate: float = setting(0.01, "learning rate of Adam", gt=0)
    max_steps: int = setting(200, "updates after which an image keeps the best code so far", ge=0, flag=True)
    perceptual: Literal["auto", "lpips", "discriminator", "none"] = setting(
        "auto", "perceptual term; auto is the first of lpips and discriminator whose weights are there"
    )
    perceptual_weight: float = setting(0.2, "λ_p, relative to the mean squared pixel error", ge=0)
    domain_weight: float = setting(2.0, "λ_d, weight of the code's distance from that of its image", ge=0)
    patience: int = setting(20, "updates within which the loss must fall by 1 % to go on", ge=1)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "precision of the networks while they refine; what is stored is float32's", flag=True
    )


def settle(settings: InvertConfig, situation: Situation) -> InvertConfig:
    """Say what ``perceptual="auto"`` stands for here, so that the record says what was done."""
    from viewgen.inversion.perceptual import resolve_perceptual

    has_discriminator = "discriminator" in situation.networks
    return settings.replace(
        perceptual=resolve_perceptual(settings.perceptual, has_discriminator=has_discriminator)
    )


def optional(settings: InvertConfig) -> frozenset[str]:
    """Return that the discriminator only serves the perceptual term of its name."""
    return frozenset() if settings.perceptual == "discriminator" else frozenset({"discriminator"})


def build(settings: InvertConfig, resources: Resources) -> ViewSource:
    """Return the inversion by the resources' networks."""
    from viewgen.inversion.source import InversionSource

    return InversionSource(settings, resources)


ENTRY = ViewEntry(
    name="invert",
    summary="refined inversion of every image; one view, its reconstruction",
    settings=InvertConfig,
    needs=frozenset({"generator", "discriminator", "inverter"}),
    build=build,
    num_views=1,
    columns=(ANCHOR_W_PLUS,),
    settle=settle,
    optional=optional,
)
