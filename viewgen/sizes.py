"""Sizes of networks and lengths of trainings by the number of images, read from ``sizes.toml``.

They are the defaults of data sets without a recipe of their own: folders of pictures, and data sets of
plug-ins. Neither this module nor its imports import torch, which takes seconds.

References:
    Training Generative Adversarial Networks with Limited Data, Karras et al., 2020 (R1 in proportion to the
    number of pixels), https://arxiv.org/abs/2006.06676
    nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Isensee et al.,
    2021 (a plan from the data's properties), https://doi.org/10.1038/s41592-020-01008-z
"""

import functools
import tomllib
from importlib import resources
from typing import Any

from viewgen.datasets.registry import chosen_dataset, known_side
from viewgen.errors import ModelError, UsageError, nearest_name
from viewgen.recipes import has_recipe, recipe

__all__ = [
    "SIZES",
    "check_known_side",
    "check_side",
    "data_size",
    "defaults",
    "fitting_side",
    "largest_side",
    "takes_size",
]

SIZES = ("small", "medium", "large")
SMALLEST_SIDE = 8
# R1's square of the gradient sums over pixels: γ 10 from this side on, less below
FULL_R1_SIDE = 101


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("viewgen").joinpath("sizes.toml").read_text("utf-8"))


def data_size(num_images: int) -> str:
    """Return the name of the row for a number of images: one of `SIZES`."""
    return next(name for name in SIZES if num_images <= _table()[name].get("most_images", num_images))


def largest_side(size: str) -> int:
    """Return the largest side, in pixels, that is chosen for pictures of any size."""
    return int(_row(size)["largest_side"])


def _row(size: str) -> dict[str, Any]:
    if size not in SIZES:
        raise UsageError(f"size is {size!r}{nearest_name(size, SIZES)}; expected one of {', '.join(SIZES)}")
    return _table()[size]


def defaults(
    dataset: str, section: str, *, num_images: int, image_size: int, size: str | None = None
) -> dict[str, Any]:
    """Return the defaults of a training or a view method: the data set's recipe, or those for its size.

    Args:
        dataset: name of the data set.
        section: ``"encoder"``, ``"generator"``, ``"inverter"``, ``"wsearch"`` or ``"invert"``.
        num_images: number of training images.
        image_size: their side, in pixels.
        size: row of the table; by default that of the number of images.
    """
    given = recipe(dataset, section)
    if has_recipe(dataset):
        return given
    found: dict[str, Any] = given | _row(size or data_size(num_images)).get(section, {})
    if section == "generator":
        found["r1_weight"] = round(10.0 * min(1.0, (image_size / FULL_R1_SIDE) ** 2), 2)
    if (batch_size := found.get("batch_size", 0)) > num_images:
        found["batch_size"] = max(2, num_images)
        if section == "encoder":
            found["learning_rate"] *= found["batch_size"] / batch_size
    return found


def fitting_side(side: float) -> int:
    """Return the largest power of two not above `side`, and at least 8: a side that StyleGAN2 takes."""
    return max(SMALLEST_SIDE, 1 << (int(side).bit_length() - 1))


def takes_size(dataset: str) -> bool:
    """Return True if ``?size=`` is a setting of the data set."""
    return "size" in chosen_dataset(dataset).entry.settings.model_fields


def check_side(dataset: str, side: int | None, *, resizable: bool) -> None:
    """Refuse images of a side that StyleGAN2 does not take.

    Args:
        dataset: name of the data set.
        side: side of its images in pixels; None if it is not known.
        resizable: True if ``?size=`` is a setting of the data set.

    Raises:
        ModelError: it is no power of two from 8 on; the message has the sizes that are.
    """
    if side is None or (side >= SMALLEST_SIDE and side == fitting_side(side)):
        return
    below, above = fitting_side(side), 2 * fitting_side(side)
    sides = f"{below} or {above}" if side > SMALLEST_SIDE else f"{SMALLEST_SIDE}"
    advice = "make a folder of its pictures and name it folder:PATH?size=N with one of them"
    if resizable:
        names = " or ".join(f'"{_at_size(dataset, int(one))}"' for one in sides.split(" or "))
        advice = f"name the data set {names}, which scales the pictures"
    raise ModelError(
        f"{dataset} has images of {side} px; StyleGAN2 takes a power of two from 8 on, here {sides} px: "
        f"{advice}"
    )


def check_known_side(dataset: str, split: str, *, data_root: str | None = None) -> None:
    """Refuse a data set whose side is known without decoding its pictures, as `check_side` does.

    Args:
        dataset: name of the data set.
        split: its split.
        data_root: where data sets are.

    Raises:
        ModelError: the side is no power of two from 8 on.
    """
    side = known_side(dataset, split, data_root=data_root)
    check_side(dataset, side, resizable=takes_size(dataset))


def _at_size(dataset: str, side: int) -> str:
    base, _, query = dataset.partition("?")
    if next(iter(chosen_dataset(dataset).entry.settings.model_fields)) == "size":
        base = base.partition(":")[0]  # behind the colon is the size itself
    others = [pair for pair in query.split("&") if pair and not pair.startswith("size=")]
    return f"{base}?{'&'.join([f'size={side}', *others])}"
