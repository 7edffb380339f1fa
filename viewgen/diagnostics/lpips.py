"""LPIPS within the images of a sample, where its weights are at hand.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al., 2018,
    https://arxiv.org/abs/1801.03924
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from viewgen.diagnostics.measure import Subject
from viewgen.errors import MissingFileError
from viewgen.images import to_model
from viewgen.inversion.perceptual import LpipsDistance, check_perceptual

__all__ = ["mean_lpips"]


def mean_lpips(subject: Subject, images: Iterable[Tensor], first: Tensor, second: Tensor) -> Tensor | None:
    """Return each image's mean LPIPS over pairs of pictures, `(B,)`; None, with a note, without its weights.

    Args:
        subject: subject that is measured.
        images: pictures of each of B images, uint8 `(P, C, H, W)`.
        first, second: places of the pairs among the P pictures.
    """
    try:
        check_perceptual("lpips", has_discriminator=False)
    except MissingFileError as error:
        subject.note(f"LPIPS was not measured: {error}")
        return None
    lpips = LpipsDistance(torch.device(subject.device))
    values = []
    with torch.no_grad():
        for pictures in images:
            features = lpips.features(to_model(pictures, subject.device))
            pairs = ([layer[index] for layer in features] for index in (first, second))
            values.append(lpips.distance(*pairs).mean().cpu())
    return torch.stack(values)
