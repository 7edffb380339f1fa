"""Expert transform of the second view, where it differs from that of the first.

BYOL and Barlow Twins draw both views of an image from distributions of their own: the first view is never
solarised, the second one with probability 0.2. The loss has both directions, so that either network sees
either distribution.

References:
    Bootstrap Your Own Latent, Grill et al., 2020, appendix B, https://arxiv.org/abs/2006.07733
    Barlow Twins: Self-Supervised Learning via Redundancy Reduction, Zbontar et al., 2021, section 2.2,
    https://arxiv.org/abs/2103.03230
"""

from collections.abc import Collection, Mapping
from typing import Any

from viewgen.errors import UsageError
from viewgen.views.expert_settings import ExpertConfig
from viewgen_train.settings import SecondViewSettings

__all__ = ["second_expert", "settled_second_view", "without_effect"]


def second_expert(expert: ExpertConfig, second: SecondViewSettings) -> ExpertConfig | None:
    """Return the expert transform of the second view; None if it is that of the first."""
    given = _given(second)
    return expert.replace(**given) if given else None


def without_effect(expert: ExpertConfig, second: SecondViewSettings) -> set[str]:
    """Return the settings of the expert transform that change neither view."""
    other = second_expert(expert, second)
    return set(expert.ignored()) & set((other or expert).ignored())


def settled_second_view(
    found: Mapping[str, Any], num_views: int, asked: Collection[str], *, alike: bool
) -> SecondViewSettings:
    """Return the settings of the second view, or the defaults if it is not under the expert transform.

    Args:
        found: settings of the components, by name.
        num_views: number of views of the objective, without an assimilation.
        asked: names of the settings that were given beside a recipe.
        alike: True if all views of an image are transformed alike.

    Raises:
        UsageError: one of these would have no effect.
    """
    second: SecondViewSettings = found["second"]
    reason = _no_second_view(found, num_views, alike)
    if not reason:
        same = {name for name, value in _given(second).items() if value == getattr(found["expert"], name)}
        return second.replace(**dict.fromkeys(same))
    for name in asked:
        raise UsageError(
            f"second.{name} is given and has no effect, because {reason}; leave it out, or change that"
        )
    return SecondViewSettings()


def _no_second_view(found: Mapping[str, Any], num_views: int, alike: bool) -> str:
    """Return why the second view is not under the expert transform; empty if it is."""
    how = found["assimilation"]
    if how.kind == "A2":
        return ""
    if how.kind == "A1":
        return "the second view of A1 is a generated one, under generated_transform"
    if num_views < 2:
        return f"objective {found['objective'].name!r} has one view of an image"
    if alike:
        return f"all {found['views'].name} views of an image are transformed alike"
    if how.transform != "expert":
        return f"generated_transform is {how.transform!r}, not 'expert'"
    return ""


def _given(second: SecondViewSettings) -> dict[str, Any]:
    return {name: value for name, value in second.to_json().items() if value is not None}
