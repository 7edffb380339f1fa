"""W-perturb: views from Gaussian noise on the code, g(e(x) + σ·N(0, I)).

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, section 3.2, https://arxiv.org/abs/2304.00601
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viewgen.errors import UsageError
from viewgen.settings import Settings, setting
from viewgen.views.entry import Resources, Situation, TrainingResources, ViewEntry
from viewgen.views.wsearch.settings import truncation_setting

if TYPE_CHECKING:
    from viewgen.views.source import Images, Views

__all__ = ["ENTRY", "WPerturbConfig", "WPerturbSource"]


class WPerturbConfig(Settings):
    """Settings of W-perturb."""

    title = "wperturb"

    sigma: float = setting(
        0.2,
        "standard deviation of the noise, independent per layer and element, in truncated codes (best 0.2, "
        "Tables 7 and 8)",
        ge=0,
        flag=True,
    )
    truncation: float = truncation_setting("σ")
    strength: str | None = setting(
        None,
        "σ by its effect, measured before the cache is made: distance:D is the σ whose views lie at D from "
        "their anchor in the mean, match:CACHE at the mean distance of that cache's views",
        since=2,
        flag=True,
        pattern=r"^(distance:|match:).+",
    )

    def ignored(self) -> dict[str, str]:
        """Return σ where `strength` decides it."""
        return {} if self.strength is None else {"sigma": f"strength {self.strength} decides it"}


class WPerturbSource:
    """Views of perturbed codes.

    Args:
        config: strength of the noise.
        generator: g.
        at_once: exact number of codes per evaluation of the generator; None for all, without rounding to 8
            bits.
        name: address of the draws.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(
        self, config: WPerturbConfig, generator: Any, at_once: int | None, *, name: str = "wperturb"
    ) -> None:
        self.config, self.generator, self.at_once, self.name = config, generator, at_once, name

    def views(self, images: Images, num_views: int) -> Views:
        """Return images `(V, B, C, H, W)`, with their codes as column ``w_plus``."""
        from viewgen.networks.batched import decoded, render
        from viewgen.views.source import Views, required_codes

        anchors = required_codes(images)
        noise = images.draws.normal(self.name, num_views, *anchors.shape[1:]).to(anchors)
        scale = self.generator.code_scale
        sigma = self.config.truncation * self.config.sigma
        codes = anchors[:, None] + sigma * (scale * noise)
        if self.at_once is None:
            return Views(pixels=decoded(self.generator, codes.transpose(0, 1)), columns={"w_plus": codes})
        views = render(self.generator, codes.flatten(0, 1), self.at_once)
        return Views(pixels=views.unflatten(0, (-1, num_views)).transpose(0, 1), columns={"w_plus": codes})


def build(settings: WPerturbConfig, resources: Resources) -> WPerturbSource:
    """Return the source of perturbed views.

    Raises:
        UsageError: σ is still to be measured, which only a cache does.
    """
    if settings.strength is not None:
        raise UsageError(
            f"strength is {settings.strength!r}, which only `viewgen cache --method wperturb` measures; "
            "expected sigma here"
        )
    from viewgen.networks.batched import images_at_once

    generator = resources.network("generator")
    if isinstance(resources, TrainingResources):
        return WPerturbSource(settings, generator, None, name="codes")
    at_once = images_at_once(generator.image_size, resources.models.device)
    return WPerturbSource(settings, generator, at_once)


def settle(settings: WPerturbConfig, situation: Situation) -> WPerturbConfig:
    """Replace `strength` by the σ that has it, to three digits."""
    if settings.strength is None:
        return settings
    from viewgen.views.strength import matching_sigma, wanted_distance

    distance = wanted_distance(settings.strength)
    situation.say(f"measuring the σ of mean distance {distance:.3f}")
    sigma = matching_sigma(distance, settings.truncation, situation)
    situation.say(f"σ = {sigma}")
    return settings.replace(sigma=sigma, strength=None)


ENTRY = ViewEntry(
    name="wperturb",
    summary="Gaussian noise on the anchor's code (W-perturb)",
    settings=WPerturbConfig,
    needs=frozenset({"generator", "encoder", "inversions"}),
    build=build,
    keeps_codes=True,
    settle=settle,
)
