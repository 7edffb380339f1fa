"""A verdict on views: reasons in plain sentences why they cannot be trusted, from measures with intervals.

A reason is given only if the whole interval of its measure lies beyond the stated level, so a small sample
accuses nobody. The levels are conventions, stated in every sentence; they separate views that are worth
looking at from views that are not, and do not rank the former.

- reconstructions: more than `beyond` of them lie farther than ε₁ from their image in f, so that views start
  from other images;
- noise: the kernel distance from real images, of views or reconstructions, is more than `noise` times that of
  the same images with shuffled pixels;
- labels: the share of views with their image's class, divided by the classifier's own accuracy on real
  images, is below `label_kept`; a fresh image of the class would have 1;
- duplicates: more than `duplicates` of the views repeat another view of their image.
"""

from collections.abc import Iterable

from viewgen.diagnostics.measure import Measure
from viewgen.settings import Settings, setting

__all__ = ["VerdictConfig", "verdict"]

LEAST_ACCURACY = 0.5


class VerdictConfig(Settings):
    """Levels of a verdict."""

    title = "verdict"

    beyond: float = setting(
        0.5, "largest share of reconstructions farther than ε₁ from their image", ge=0, le=1
    )
    noise: float = setting(0.1, "largest kernel distance, in units of that of shuffled pixels", gt=0)
    label_kept: float = setting(
        0.9,
        "least share of views with their image's class, in units of the classifier's accuracy",
        ge=0,
        le=1,
    )
    duplicates: float = setting(0.1, "largest share of views that repeat another", ge=0, le=1)


def verdict(measures: Iterable[Measure], config: VerdictConfig | None = None) -> list[str]:
    """Return the reasons why views cannot be trusted; none if nothing measured speaks against them.

    Args:
        measures: measures of the diagnostics of views; those that are absent give no reason.
        config: levels.
    """
    config = config or VerdictConfig()
    found = {measure.name: measure for measure in measures if not measure.group}
    reasons = [_reconstructions(found, config), *_noise(found, config), _labels(found, config)]
    if (repeated := found.get("duplicate_views")) and _low(repeated) > config.duplicates:
        reasons.append(
            f"{repeated.value:.0%} of the views repeat another view of their image (at most "
            f"{config.duplicates:.0%} may)"
        )
    return [reason for reason in reasons if reason]


def _reconstructions(found: dict[str, Measure], config: VerdictConfig) -> str:
    beyond = found.get("reconstruction_beyond_epsilon")
    if beyond is None or _low(beyond) <= config.beyond:
        return ""
    return (
        f"{beyond.value:.0%} of the reconstructions lie farther than ε₁ from their image (at most "
        f"{config.beyond:.0%} may): the views start from other images, so mend the generator or the inversion"
    )


def _noise(found: dict[str, Measure], config: VerdictConfig) -> list[str]:
    reasons = []
    for name, measure in found.items():
        space = name.partition("[")[2].partition("]")[0]
        suffix = name.rpartition("]")[2]
        noise = found.get(f"kernel_distance[{space}] of shuffled pixels")
        if not name.startswith("kernel_distance[") or suffix == " of shuffled pixels" or noise is None:
            continue
        if noise.value > 0 and _low(measure) > config.noise * noise.value:
            what = suffix.removeprefix(" of ") or "views"
            reasons.append(
                f"the {what} are unlike real images: their kernel distance from them is "
                f"{measure.value / noise.value:.2g} times that of shuffled pixels, in the features of "
                f"{space} (at most {config.noise:g} times may be)"
            )
    return reasons[:1]


def _labels(found: dict[str, Measure], config: VerdictConfig) -> str:
    kept, accuracy = found.get("label_kept"), found.get("classifier_accuracy")
    if kept is None or accuracy is None or accuracy.value < LEAST_ACCURACY:
        return ""
    if _high(kept) / accuracy.value >= config.label_kept:
        return ""
    return (
        f"{kept.value:.1%} of the views keep the class of their image (at least "
        f"{config.label_kept * accuracy.value:.1%} should), by a classifier that reads {accuracy.value:.1%} "
        "of real images right"
    )


def _low(measure: Measure) -> float:
    return measure.value if measure.low is None else measure.low


def _high(measure: Measure) -> float:
    return measure.value if measure.high is None else measure.high
