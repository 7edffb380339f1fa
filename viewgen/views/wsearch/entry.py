"""Registry entry of W-search; free of torch, which takes seconds to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viewgen.views.entry import Resources, Situation, ViewEntry, further_encoder
from viewgen.views.wsearch.settings import WSearchConfig

if TYPE_CHECKING:
    from viewgen.views.source import ViewSource

__all__ = ["ENTRY", "settle"]


def settle(settings: Any, situation: Situation) -> Any:
    """Measure ε₁ where it is ``"auto"``, to three digits: another machine's rounding must not change it.

    Args:
        settings: settings of a method with an `epsilon_boundary`.
        situation: data set and networks.
    """
    if settings.epsilon_boundary != "auto":
        return settings
    from viewgen.diagnostics.calibration import calibrate
    from viewgen.networks.files import load_models
    from viewgen.views.compositions import dataset_expert

    situation.say("calibrating ε₁")
    encoder = load_models({"encoder": situation.networks["encoder"]}).encoder
    assert encoder is not None
    expert = dataset_expert(situation.dataset.name)
    measured = calibrate(encoder, situation.dataset, expert, seed=situation.seed).epsilon_boundary
    situation.say(f"ε₁ = {round(measured, 3)}")
    return settings.replace(epsilon_boundary=round(measured, 3))


def settle_search(settings: WSearchConfig, situation: Situation) -> WSearchConfig:
    """Measure ε₁ where it is ``"auto"``; replace the files of further encoders by their digests."""
    found: WSearchConfig = settle(settings, situation)
    if not settings.encoders:
        return found
    from viewgen.networks.files import file_digest

    files = [situation.networks[further_encoder(place)] for place in range(len(settings.encoders))]
    return found.replace(encoders=tuple(file_digest(file) for file in files))


def further(settings: WSearchConfig) -> tuple[str, ...]:
    """Return the files of the further encoders."""
    return settings.encoders


def build(settings: WSearchConfig, resources: Resources) -> ViewSource:
    """Return W-search over the resources' networks."""
    from viewgen.views.wsearch.source import WSearchSource

    return WSearchSource(settings, resources)


ENTRY = ViewEntry(
    name="wsearch",
    summary="optimise codes to a set distance from the anchor in the encoder's space (W-search)",
    settings=WSearchConfig,
    needs=frozenset({"generator", "encoder", "inversions"}),
    build=build,
    keeps_codes=True,
    settle=settle_search,
    further=further,
)
