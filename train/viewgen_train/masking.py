"""Inputs of a reconstruction: masked, grey, or unchanged views, and what must be rebuilt of them.

Masks are squares, filled with the data set's mean colour. Their number is uniform in a range, and so are
their side, in whole pixels, and their place inside of the image. Views of different roles, which are images
of other kinds than the data set's, are filled with their own mean. All numbers are addressed by seed, step
and image, so that two processes with half a batch each mask what one process with the whole batch masks.

Shape legend: R views, B images, C channels, H = W side.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, https://arxiv.org/abs/2012.09962
    Context Encoders: Feature Learning by Inpainting, Pathak et al., 2016, https://arxiv.org/abs/1604.07379
    Colorful Image Colorization, Zhang et al., 2016, https://arxiv.org/abs/1603.08511
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.errors import UsageError
from viewgen.images import to_model
from viewgen.roles import Role
from viewgen.views.color_jitter import to_gray
from viewgen.views.source import Images
from viewgen.views.square_masks import proportional_sides, square_masks
from viewgen_train.loader import ImageMemory
from viewgen_train.settings import ReconstructionSettings, TrainSettings

__all__ = ["Corrupted", "Corruption", "mask_sides", "mean_color", "refuse_grey"]

# training images, evenly spread, whose colours are averaged, and looked at for any colour
MEAN_IMAGES = 4096
GREY_IMAGES = 64


def mask_sides(settings: ReconstructionSettings, image_size: int) -> tuple[int, int]:
    """Return the smallest and the largest side of a mask, in pixels."""
    if settings.mask_side is not None:
        return settings.mask_side
    return proportional_sides(image_size)


def mean_color(images: ImageMemory) -> Tensor:
    """Return the mean colour of at most 4,096 training images, model units, `(C,)`, on their device."""
    total: Tensor | float = 0.0
    rows = np.linspace(0, images.num_images - 1, min(MEAN_IMAGES, images.num_images)).round().astype(np.int64)
    for start in range(0, len(rows), 512):
        pixels = images.read(rows[start : start + 512])
        total = total + pixels.double().mean(dim=(2, 3)).sum(dim=0)
    assert isinstance(total, Tensor)
    return (total / len(rows) / 127.5 - 1).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrupted:
    """Views for the reconstruction.

    Attributes:
        inputs: corrupted model images, `(R, B, C, H, W)`.
        targets: model images to rebuild, of the same shape.
        weights: 1 for the pixels that count and 0 for the others, `(R, B, 1, H, W)`; None if all count.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def of_role(self, view: int, role: Role) -> "Corrupted":
        """Return the view at a place among the R, with the channels of its role."""
        return Corrupted(
            inputs=role.of(self.inputs[view : view + 1]),
            targets=role.of(self.targets[view : view + 1]),
            weights=None if self.weights is None else self.weights[view : view + 1],
        )


class Corruption:
    """The corruption of a reconstruction task.

    Args:
        settings: settings of the reconstruction.
        image_size: H = W.
        fill: colour of the masks, model units, `(C,)`; None for each view's own mean.
    """

    def __init__(self, settings: ReconstructionSettings, image_size: int, fill: Tensor | None) -> None:
        self.settings, self.image_size, self.fill = settings, image_size, fill

    def __call__(self, views: Tensor, images: Images) -> Corrupted:
        """Return the corrupted views of a step.

        Args:
            views: model images of the views, expert views first, `(K, B, C, H, W)`.
            images: their images, with the step's random numbers.
        """
        settings = self.settings
        if settings.reconstruction_view == "image":
            targets = to_model(images.pixels)[None]
        else:
            targets = views if settings.reconstruction_view == "all" else views[:1]
        targets = targets.detach()
        if settings.task == "autoencoding":
            return Corrupted(inputs=targets, targets=targets)
        if settings.task == "colorization":
            grey = to_gray(targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
            return Corrupted(inputs=grey.expand_as(targets), targets=targets)
        count, side = settings.mask_count, mask_sides(settings, self.image_size)
        numbers = images.draws.uniform("mask", len(targets), 1 + 3 * count[1]).transpose(0, 1)
        masks = square_masks(numbers, count, side, self.image_size).unsqueeze(2).to(targets.device)
        fill = targets.mean(dim=(3, 4), keepdim=True) if self.fill is None else self.fill.view(1, 1, -1, 1, 1)
        inputs = torch.where(masks, fill, targets)
        weights = masks.float() if settings.reconstruction_pixels == "masked" else None
        return Corrupted(inputs=inputs, targets=targets, weights=weights)


def refuse_grey(settings: TrainSettings, dataset: ImageDataset) -> None:
    """Refuse grey images that a reconstruction is to colour.

    Raises:
        UsageError: the images looked at have no colour.
    """
    how = settings.reconstruction
    if not how.active or how.task != "colorization":
        return
    rows = np.linspace(0, len(dataset) - 1, min(GREY_IMAGES, len(dataset))).round().astype(np.int64)
    images = dataset.images(rows)
    if bool((images == images[:, :1]).all()):
        raise UsageError(
            f"reconstruction is 'colorization', and the images of {dataset.name} are grey; choose "
            "inpainting or autoencoding"
        )
