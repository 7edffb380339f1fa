"""Transforms of a step's views, on the device, each image by random numbers of its own."""

import torch
from torch import Tensor

from viewgen.images import to_model
from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
from viewgen.views.expert import ExpertConfig
from viewgen_train.batch import StepBatch
from viewgen_train.config import TrainConfig

__all__ = ["expert_batch", "transform_generated"]

WEAK_CROP_SCALE = (0.9, 1.0)
WEAK_CROP_RATIO = (0.9, 1.1)


def expert_batch(batch: StepBatch, name: str, num_views: int, config: ExpertConfig) -> Tensor:
    """Return expert views of a batch.

    Args:
        batch: the images.
        name: address of the draw.
        num_views: K, views of each image.
        config: strength of the transform.

    Returns:
        `(K, B, 3, H, W)` in [−1, 1].
    """
    images = to_model(batch.images)
    if num_views == 0:
        return images.new_empty(0, *images.shape)
    uniforms = batch.uniform(name, num_views, NUM_UNIFORMS).transpose(0, 1).flatten(0, 1)
    views = expert_views(images.repeat(num_views, 1, 1, 1), uniforms, config)
    return views.reshape(num_views, *images.shape)


def transform_generated(views: Tensor, batch: StepBatch, config: TrainConfig) -> Tensor:
    """Transform generated views as `config.generated_transform` says.

    Args:
        views: model images, `(m, B, 3, H, W)`.
        batch: gives the random numbers.
        config: of the training.

    Returns:
        `(m, B, 3, H, W)`, with gradients to `views`.
    """
    num_views = len(views)
    uniforms = batch.uniform("generated transform", num_views, NUM_UNIFORMS).transpose(0, 1).flatten(0, 1)
    flat = views.flatten(0, 1)
    flip = config.expert.flip_probability
    if config.generated_transform == "expert":
        flat = expert_views(flat, uniforms, config.expert)
    elif config.generated_transform == "weak-crop":
        weak = ExpertConfig(
            crop_scale=WEAK_CROP_SCALE,
            crop_ratio=WEAK_CROP_RATIO,
            flip_probability=flip,
            jitter_probability=0.0,
            grayscale_probability=0.0,
        )
        flat = expert_views(flat, uniforms, weak)
    elif flip > 0:
        flipped = (uniforms[:, 0] < flip).to(flat.device)
        flat = torch.where(flipped[:, None, None, None], flat.flip(3), flat)
    return flat.reshape(views.shape)
