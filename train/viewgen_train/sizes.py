"""Checks of a training's settings against the size of its images, before any step."""

from viewgen.errors import UsageError
from viewgen.views.expert_settings import check_mask_side
from viewgen_train.jigsaw import check_jigsaw
from viewgen_train.records import view_name
from viewgen_train.second_view import second_expert
from viewgen_train.settings import TrainSettings

__all__ = ["check_sizes"]


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
