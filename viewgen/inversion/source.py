"""The inversion as a step from arrays to arrays."""

import dataclasses

import numpy as np
import torch

from viewgen.errors import ModelError
from viewgen.images import to_model
from viewgen.inversion.perceptual import build_perceptual, resolve_perceptual
from viewgen.inversion.refine import InversionProblem, InvertConfig, invert_images
from viewgen.memory import BatchSize
from viewgen.networks.files import Models
from viewgen.networks.inverter import class_labels
from viewgen.networks.precision import at_precision
from viewgen.optimise.slots import SlotResult
from viewgen.status import Status
from viewgen.views.batches import Batch, Step, as_array, as_tensor, images_at_once, needed, slot_bytes
from viewgen.views.wsearch.problem import render

__all__ = ["build_invert"]


def build_invert(
    config: InvertConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: BatchSize = None,
) -> Step:
    """Return the step that refines every image's code; its one view is the reconstruction."""
    g, e = needed(models, "generator"), needed(models, "inverter")
    chosen = resolve_perceptual(config.perceptual, has_discriminator=models.discriminator is not None)
    perceptual = build_perceptual(chosen, models.discriminator, models.device)
    num_classes = g.config.num_classes
    if e.config.num_classes != num_classes:
        raise ModelError(
            f"the generator has {num_classes} classes, the inverter {e.config.num_classes}; train an "
            "inverter for this generator (viewgen pretrain inverter)"
        )
    execution = models.execution
    generator = execution.accelerate(g)
    low = config.precision != "float32"
    searched = (
        execution.accelerate(at_precision(g, config.precision)) if low else generator,
        execution.accelerate(at_precision(e, config.precision)),
    )
    at_once = images_at_once(g.config.image_size, models.device)
    runner = execution.slots(
        batch_size,
        group_size=at_once,
        slot_bytes=slot_bytes(1, g.num_layers, g.config.style_dim),
        device=models.device,
    )

    def step(batch: Batch) -> Batch:
        images = to_model(as_tensor(batch["image"], device))
        labels = class_labels(as_tensor(batch["label"], device), num_classes) if num_classes else None

        def search(num_slots: int) -> SlotResult:
            problem = InversionProblem(*searched, perceptual, images, config, at_once, labels)
            return invert_images(problem, num_slots, at_once)

        def trial(num_images: int) -> None:
            rows = torch.arange(num_images, device=images.device) % len(images)
            own = None if labels is None else labels[rows]
            brief = dataclasses.replace(config, max_steps=1)
            problem = InversionProblem(*searched, perceptual, images[rows], brief, at_once, own)
            invert_images(problem, num_images, at_once)

        result = runner.run(search, trial, len(images))
        codes = result.w[:, 0]
        views = render(generator, codes, at_once)
        error = (to_model(views) - images).square().mean(dim=(1, 2, 3))
        return {
            "views": as_array(views[:, None]),
            "distance": np.full((len(views), 1), np.nan, np.float32),
            "steps": as_array(result.steps),
            "inversion_error": as_array(error),
            # an image that still improved at its last step has a usable code
            "status": np.where(as_array(result.status) == Status.FAILED, Status.FAILED, Status.OK).astype(
                np.uint8
            ),
            "anchor_w_plus": as_array(codes),
        }

    return step
