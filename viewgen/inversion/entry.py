"""Registry entry of the refined inversion; free of torch, which takes seconds to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.inversion.settings import InvertConfig
from viewgen.store.columns import ANCHOR_W_PLUS
from viewgen.views.entry import Resources, Situation, ViewEntry

if TYPE_CHECKING:
    from viewgen.views.source import ViewSource

__all__ = ["ENTRY"]


def settle(settings: InvertConfig, situation: Situation) -> InvertConfig:
    """Check that the perceptual distance is available before anything is made."""
    from viewgen.inversion.perceptual import check_perceptual

    check_perceptual(settings.perceptual, has_discriminator="discriminator" in situation.networks)
    return settings


def optional(settings: InvertConfig) -> frozenset[str]:
    """Return the discriminator as optional unless the perceptual term uses it."""
    return frozenset() if settings.perceptual == "discriminator" else frozenset({"discriminator"})


def build(settings: InvertConfig, resources: Resources) -> ViewSource:
    """Return the inversion source with the resources' networks."""
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
