"""Published combinations of expert operations, by name.

A name is one of `PRESETS` or a set of the letters a to e (`LETTERS`), with a strength after a colon if it is
not the usual one: ``"simclr"``, ``"infomin:0.5"``, ``"abcde"``, ``"ad:0.25"``. The strength s is a factor of
the colour jitter: brightness, contrast and saturation 0.8·s, hue 0.2·s.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen, Kornblith, Norouzi and
    Hinton, 2020, appendix A, https://arxiv.org/abs/2002.05709
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 5, https://arxiv.org/abs/2005.10243
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    section 5, https://arxiv.org/abs/2111.00743
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from viewgen.errors import UsageError, nearest_name
from viewgen.recipes import recipe
from viewgen.views.expert_settings import ExpertConfig

if TYPE_CHECKING:
    from viewgen.datasets import ImageDataset

__all__ = [
    "LETTERS",
    "PRESETS",
    "Composition",
    "composition",
    "composition_name",
    "dataset_expert",
    "expert_values",
    "refuse_colorless",
]

log = logging.getLogger(__name__)

# beyond it the hue's rotation would exceed half a turn
MAX_STRENGTH = 2.5
# images looked at to see if any has a colour
NUM_LOOKED_AT = 64

# an image as it is; each operation below turns itself on
_NOTHING: dict[str, Any] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip_probability": 0.0,
    "jitter_probability": 0.0,
    "grayscale_probability": 0.0,
}
_CROP = {"crop_ratio": (3 / 4, 4 / 3)}
_JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
# the kernel is a tenth of the side wide: 23 px of 224
_BLUR = {"blur_probability": 0.5, "blur_sigma": (0.1, 2.0), "blur_width": 0.1}
_GRAY = {"grayscale_probability": 0.2}
_FLIP = {"flip_probability": 0.5}


@dataclass(frozen=True, slots=True)
class Composition:
    """A combination of operations.

    Attributes:
        summary: one line of help.
        values: values of `ExpertConfig`, the colour jitter's at strength 1.
        strength: usual strength of the colour jitter.
    """

    summary: str
    values: Mapping[str, Any]
    strength: float = 1.0


# letter → name and values of an operation, as in the experiments of Huang et al. on 32-px images
LETTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a": ("random resized crop", {"crop_scale": (0.08, 1.0), **_CROP}),
    "b": ("Gaussian blur", {"blur_probability": 0.5, "blur_sigma": (1.0, 1.0)}),
    "c": ("colour dropping", _GRAY),
    "d": ("colour distortion", {"jitter_probability": 0.8, **_JITTER}),
    "e": ("horizontal flip", _FLIP),
}
LETTERS_STRENGTH = 0.5

PRESETS: dict[str, Composition] = {
    "simclr": Composition(
        "crop from 0.08 of the area, flip, colour jitter, grayscale, blur (SimCLR on ImageNet)",
        {"crop_scale": (0.08, 1.0), **_CROP, **_FLIP, "jitter_probability": 0.8, **_JITTER, **_GRAY, **_BLUR},
    ),
    "infomin": Composition(
        "crop from 0.2 of the area, flip, colour jitter, blur, RandAugment, grayscale (InfoMin Aug)",
        {
            **{"crop_scale": (0.2, 1.0), **_CROP, **_FLIP, "jitter_probability": 0.8, **_JITTER, **_GRAY},
            **{**_BLUR, "randaugment_ops": 2, "randaugment_magnitude": 10.0, "randaugment_deviation": 0.5},
        },
    ),
}


def composition(name: str) -> Composition:
    """Return a combination by name; its strength is the one in the name.

    Raises:
        UsageError: an unknown name, an unknown or repeated letter, or a strength outside of (0, 2.5].
    """
    word, colon, text = str(name).partition(":")
    if word in PRESETS:
        found = PRESETS[word]
    else:
        _check_letters(word)
        values = {**_NOTHING}
        for letter in word:
            values |= LETTERS[letter][1]
        found = Composition(", ".join(LETTERS[letter][0] for letter in word), values, LETTERS_STRENGTH)
    if not colon:
        return found
    if not found.values["jitter_probability"]:
        raise UsageError(
            f"augment is {name!r}: the strength is one of the colour jitter, which {word!r} lacks; leave it "
            "out, or add d"
        )
    return Composition(found.summary, found.values, _strength(text, name))


def expert_values(name: str) -> dict[str, Any]:
    """Return the values of `ExpertConfig` of a combination.

    Raises:
        UsageError: see `composition`.
    """
    found = composition(name)
    values = dict(found.values)
    if values["jitter_probability"]:
        values |= {field: values[field] * found.strength for field in _JITTER}
    return values


def dataset_expert(dataset: str, augment: str | None = None) -> ExpertConfig:
    """Return the expert transform of a data set's recipe, or a combination in its place.

    Args:
        dataset: name of the data set.
        augment: name of a combination, or None.
    """
    return ExpertConfig(**(recipe(dataset, "expert") if augment is None else expert_values(augment)))


def composition_name(expert: ExpertConfig) -> str | None:
    """Return the name of the combination that has these values of `ExpertConfig`, or None.

    Of values that several combinations have, the name is that of the first in the order of `PRESETS` and
    letters.
    """
    strength = min(expert.brightness / _JITTER["brightness"], MAX_STRENGTH)
    words = ["".join(some) for count in range(len(LETTERS)) for some in combinations(LETTERS, count + 1)]
    for word in (*PRESETS, *words):
        jitters = composition(word).values["jitter_probability"]
        for name in (word, f"{word}:{strength:g}") if jitters else (word,):
            if ExpertConfig(**expert_values(name)) == expert:
                return name
    return None


def refuse_colorless(augment: str | None, dataset: ImageDataset) -> None:
    """Refuse the letter c, which drops the colour, for images that have none; warn of d, half of which acts.

    Raises:
        UsageError: the first images are all grey.
    """
    import numpy as np

    letters = "" if augment is None else augment.partition(":")[0]
    if letters in PRESETS or not set(letters) & {"c", "d"}:
        return
    images = dataset.images(np.arange(min(NUM_LOOKED_AT, len(dataset))))
    if not bool((images == images[:, :1]).all()):
        return
    if "c" in letters:
        others = "".join(letter for letter in letters if letter != "c")
        raise UsageError(
            f"augment is {augment!r}: c drops the colour, and the images of {dataset.name} have none"
            + (f"; give {others!r}" if others else "; of the others a, b, d and e act on grey images")
        )
    log.warning(
        "augment is %r, and the images of %s are grey: of the colour distortion d, hue and saturation do "
        "nothing there; brightness and contrast act",
        *(augment, dataset.name),
    )


def _check_letters(word: str) -> None:
    unknown = [letter for letter in word if letter not in LETTERS]
    if unknown or not word:
        near = nearest_name(word, PRESETS)
        known = ", ".join(f"{letter} {operation}" for letter, (operation, _) in LETTERS.items())
        raise UsageError(
            f"augment is {word!r}{near}; expected one of {', '.join(PRESETS)}, or letters ({known})"
        )
    repeated = [letter for letter in LETTERS if word.count(letter) > 1]
    if repeated:
        raise UsageError(f"augment is {word!r}: {repeated[0]} is there twice; give each letter once")


def _strength(text: str, name: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = float("nan")
    if not 0 <= strength <= MAX_STRENGTH:
        raise UsageError(
            f"augment is {name!r}: the strength is {text!r}; expected a number from 0 to "
            f"{MAX_STRENGTH} after the colon"
        )
    return strength
