"""Gates between the stages: numbers that say whether a network is good enough for the next one.

- encoder: its nearest neighbours name the class more often than chance, its projections have not fallen
  together, and an image's expert views lie nearer to it than other images do;
- generator: the kernel distance of its samples from real images is below a share of that of the same images
  with shuffled pixels, which are noise with the colours of the data, both in the encoder's features and in
  those of patches (a hardly trained encoder takes noise for photos);
  its samples differ from one another;
- inverter: its reconstructions are nearer to their images than the mean image is, and refined ones lie within
  ε₁ of their images in most cases.

A stage's numbers are kept with it; limits can be changed, and are then applied to the kept numbers.

References:
    Demystifying MMD GANs, Bińkowski, Sutherland, Arbel and Gretton, 2018, https://arxiv.org/abs/1801.01401
    Unsupervised Feature Learning via Non-Parametric Instance Discrimination, Wu, Xiong, Yu and Lin, 2018
    (nearest neighbours as a measure of features), https://arxiv.org/abs/1805.01978
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from viewgen.settings import Settings, setting

__all__ = ["Gate", "GateSettings", "judge"]


class GateSettings(Settings):
    """Limits of the gates."""

    title = "gates"

    stop: bool = setting(True, "whether a gate that is not passed ends the command, or only warns")
    chance_errors: float = setting(
        2.0,
        "standard errors by which the encoder's 5-NN accuracy must exceed the largest class's share",
        ge=0,
    )
    spread: float = setting(
        0.2, "least mean distance of two different images under the encoder, of at most 2", ge=0, le=2
    )
    expert_views: float = setting(
        0.9, "largest distance of expert views from their image, in units of that of different images", gt=0
    )
    noise: float = setting(
        0.5, "largest kernel distance of samples, in units of that of shuffled pixels", gt=0
    )
    variety: float = setting(
        0.5, "least mean distance of two samples, in units of that of two real images", ge=0
    )
    gain_db: float = setting(
        1.0, "least gain of unrefined reconstructions over the mean image, in dB of the mean squared error"
    )
    beyond: float = setting(
        0.5, "largest share of refined reconstructions farther than ε₁ from their image", ge=0, le=1
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One judged number.

    Attributes:
        stage: name of the stage.
        name: name of the gate, as in `GateSettings`.
        value: the number.
        limit: its limit.
        passed: True if the next stage may begin.
        text: the number and its limit in a sentence.
        advice: what to do; empty if the gate is passed.
    """

    stage: str
    name: str
    value: float
    limit: float
    passed: bool
    text: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def judge(stage: str, measured: Mapping[str, float], settings: GateSettings) -> list[Gate]:
    """Return the gates of a stage.

    Args:
        stage: ``"encoder"``, ``"epsilon"``, ``"generator"`` or ``"inverter"``.
        measured: numbers of the stage; a gate whose numbers are missing is left out.
        settings: limits.
    """
    gates = {
        "encoder": (_chance,),
        "epsilon": (_spread, _expert_views),
        "generator": (_noise, _variety),
        "inverter": (_gain, _beyond),
    }
    found = (gate(measured, settings) for gate in gates.get(stage, ()))
    return [
        Gate(stage=stage, **values | {"advice": "" if values["passed"] else values["advice"]})
        for values in found
        if values is not None
    ]


def _chance(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any] | None:
    if "knn5_top1" not in measured:
        return None
    chance, count = measured["largest_class"], measured["knn_images"]
    error = math.sqrt(chance * (1 - chance) / count)
    limit = chance + settings.chance_errors * error
    if limit >= 1:  # of so few images, or so unequal classes, that no accuracy would tell
        return None
    value = measured["knn5_top1"]
    return {
        "name": "chance_errors",
        "value": value,
        "limit": limit,
        "passed": value > limit,
        "text": f"5-NN accuracy {value:.1%} of {count:.0f} images (chance {chance:.1%}; more than "
        f"{limit:.1%} needed)",
        "advice": "the encoder sees no classes: train it longer (encoder.num_steps), check the labels, and "
        "whether the expert views hide what the classes differ in (encoder.expert.…)",
    }


def _spread(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any]:
    value = measured["different_images"]
    return {
        "name": "spread",
        "value": value,
        "limit": settings.spread,
        "passed": value >= settings.spread,
        "text": f"two different images are {value:.3f} apart (at least {settings.spread:g} needed)",
        "advice": "the encoder's projections have fallen together: lower encoder.learning_rate, or train "
        "with a larger encoder.batch_size",
    }


def _expert_views(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any]:
    value = measured["epsilon_boundary"] / max(measured["different_images"], 1e-12)
    return {
        "name": "expert_views",
        "value": value,
        "limit": settings.expert_views,
        "passed": value <= settings.expert_views,
        "text": f"expert views lie {value:.2f} times as far from their image as other images do (at most "
        f"{settings.expert_views:g})",
        "advice": "the encoder does not know an image's views from other images: train it longer "
        "(encoder.num_steps), or weaken the expert views (encoder.expert.…)",
    }


def _noise(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any] | None:
    names = {"the encoder": "kernel_distance", "patches": "kernel_distance_patches"}
    ratios = {
        space: measured[name] / measured[f"{name}_shuffled"]
        for space, name in names.items()
        if measured.get(f"{name}_shuffled", 0.0) > 0
    }
    if not ratios:
        return None
    space = max(ratios, key=ratios.__getitem__)
    value = ratios[space]
    return {
        "name": "noise",
        "value": value,
        "limit": settings.noise,
        "passed": value <= settings.noise,
        "text": f"kernel distance of samples {value:.2g} times that of shuffled pixels, in the features of "
        f"{space} (at most {settings.noise:g})",
        "advice": "its samples are noise: train it longer (generator.num_images), and look at "
        "generator-training/samples.png in the run's folder",
    }


def _variety(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any] | None:
    if "sample_spread" not in measured:
        return None
    value = measured["sample_spread"] / max(measured["image_spread"], 1e-12)
    return {
        "name": "variety",
        "value": value,
        "limit": settings.variety,
        "passed": value >= settings.variety,
        "text": f"two samples are {value:.2f} times as far apart as two images (at least "
        f"{settings.variety:g})",
        "advice": "its samples are all alike: raise generator.r1_weight, or give generator.augment more "
        "transforms",
    }


def _gain(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any]:
    value = measured["psnr_db"] - measured["psnr_mean_image_db"]
    return {
        "name": "gain_db",
        "value": value,
        "limit": settings.gain_db,
        "passed": value >= settings.gain_db,
        "text": f"reconstructions have {measured['psnr_db']:.1f} dB, the mean image "
        f"{measured['psnr_mean_image_db']:.1f} dB (a gain of at least {settings.gain_db:g} dB needed)",
        "advice": "the inverter does not invert: train it longer (inverter.num_steps), or widen "
        "inverter.channels",
    }


def _beyond(measured: Mapping[str, float], settings: GateSettings) -> dict[str, Any] | None:
    if "refined_beyond_epsilon" not in measured:
        return None
    value = measured["refined_beyond_epsilon"]
    return {
        "name": "beyond",
        "value": value,
        "limit": settings.beyond,
        "passed": value <= settings.beyond,
        "text": f"{value:.0%} of the refined reconstructions lie farther than ε₁ from their image (at most "
        f"{settings.beyond:.0%})",
        "advice": "views would start from other images: refine longer (cache.invert.max_steps), or train a "
        "better generator (generator.num_images, generator.channels)",
    }
