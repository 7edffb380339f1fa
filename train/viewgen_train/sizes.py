"""Settings by the number of images, and checks of settings against their size, before any step."""

import math
from collections.abc import Mapping
from typing import Any

from viewgen.errors import UsageError
from viewgen.recipes import has_recipe
from viewgen.sizes import SIZES, data_size, defaults
from viewgen.views.expert_settings import check_mask_side
from viewgen_train.jigsaw import check_jigsaw
from viewgen_train.records import view_name
from viewgen_train.resolve import places
from viewgen_train.second_view import second_expert
from viewgen_train.settings import TrainSettings

__all__ = ["WARM_UP_SHARE", "check_sizes", "settings_by_number", "told"]

BY_NUMBER = ("width", "projection_dim", "batch_size", "learning_rate", "epochs", "warm_up_epochs")
# of all epochs
WARM_UP_SHARE = 0.05


def check_sizes(settings: TrainSettings, image_size: int, side: int) -> None:
    """Check that masks and cells fit into the images, and that a rebuilt image has the size of the views.

    Args:
        settings: settings of the training.
        image_size: side of the images, in pixels.
        side: side of the views that the encoder embeds, in pixels.

    Raises:
        UsageError: masks are larger than the views, the cells of a jigsaw too small, or the image that is to
            be rebuilt has another size than the views.
    """
    for expert in (settings.expert, second_expert(settings.expert, settings.second)):
        if expert is not None:
            expert.check_size(side)
    how = settings.reconstruction
    if how.active and how.task == "inpainting":
        check_mask_side(how.mask_side, side)
    if how.active and how.reconstruction_view == "image" and side != image_size:
        raise UsageError(
            f"reconstruction_view is 'image', and the images have {image_size} px, {view_name(settings)} "
            f"views {side} px; choose 'first' or 'all'"
        )
    check_jigsaw(settings, image_size)


def settings_by_number(
    dataset: str, given: Mapping[str, Any] | None, num_images: int, image_size: int
) -> dict[str, Any]:
    """Return the settings that the number of images decides, for a data set without a recipe.

    They are those of `viewgen pretrain encoder`, whose steps become epochs. Many images have the usual
    defaults.

    Args:
        dataset: name of the data set.
        given: settings of the user, which are left out.
        num_images: number of images to train on.
        image_size: their side, in pixels.
    """
    named = places(given or {})
    if has_recipe(dataset) or "recipe" in named or data_size(num_images) == SIZES[-1]:
        return {}
    found = defaults(dataset, "encoder", num_images=num_images, image_size=image_size)
    batch_size = named.get("optimiser.batch_size", found["batch_size"])
    steps_of_epoch = max(1, num_images // batch_size) if isinstance(batch_size, int) and batch_size > 0 else 1
    found["epochs"] = math.ceil(found.pop("num_steps") / steps_of_epoch)
    found["warm_up_epochs"] = round(WARM_UP_SHARE * found["epochs"], 1)
    if named.keys() & {"optimiser.epochs", "optimiser.num_steps"}:
        del found["epochs"], found["warm_up_epochs"]
    return {name: found[name] for name in BY_NUMBER if name in found and not named.keys() & places({name: 0})}


def told(settings: Mapping[str, Any]) -> str:
    """Return settings in a line of text."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())
