"""The refined inversion as a view source: one view of each image, its reconstruction, and its code."""

import torch

from viewgen.errors import ModelError
from viewgen.images import to_model
from viewgen.inversion.perceptual import build_perceptual, check_perceptual
from viewgen.inversion.refine import InversionProblem, invert_images, refinement_rule
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.batched import images_at_once, render
from viewgen.networks.generator import class_labels
from viewgen.optimise.slots import SlotResult, UpdateRule, slot_bytes
from viewgen.status import Status
from viewgen.views.entry import Resources
from viewgen.views.source import Images, Views

__all__ = ["InversionSource"]


class InversionSource:
    """Refinement of every image's code.

    Args:
        config: settings.
        resources: generator with the start of its codes, optionally a discriminator, and their execution.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: InvertConfig, resources: Resources) -> None:
        self.config = config
        models = resources.models
        self.generator = resources.inverting()
        self.searched = resources.inverting(config.precision)
        check_perceptual(config.perceptual, has_discriminator=models.discriminator is not None)
        self.perceptual = build_perceptual(config.perceptual, models.discriminator, models.device)
        self.num_classes = self.generator.num_classes
        self.at_once = images_at_once(self.generator.image_size, models.device)
        self.rule: UpdateRule = refinement_rule(self.generator, config, self.at_once)
        self.runner = models.execution.slots(
            resources.batch_size,
            group_size=self.at_once,
            slot_bytes=slot_bytes(1, self.generator.code_shape, self.rule),
            device=models.device,
        )

    def views(self, images: Images, num_views: int) -> Views:
        """Return reconstructions, `(1, B, C, H, W)`, with codes, errors and steps as columns."""
        pixels = to_model(images.pixels)
        labels = None
        if self.num_classes:
            if images.labels is None:
                raise ModelError("the generator is conditional on classes, and the images have no labels")
            labels = class_labels(images.labels, self.num_classes)

        def search(num_slots: int) -> SlotResult:
            problem = InversionProblem(
                self.searched, self.perceptual, pixels, self.config, self.at_once, labels
            )
            return invert_images(problem, self.rule, num_slots, self.at_once)

        def trial(num_images: int) -> None:
            rows = torch.arange(num_images, device=pixels.device) % len(pixels)
            own = None if labels is None else labels[rows]
            brief = self.config.replace(max_steps=1)
            problem = InversionProblem(self.searched, self.perceptual, pixels[rows], brief, self.at_once, own)
            invert_images(problem, self.rule, num_images, self.at_once)

        result = self.runner.run(search, trial, len(pixels))
        codes = result.codes[:, 0]
        views = render(self.generator, codes, self.at_once)
        # an image that still improved at its last step has a usable code
        status = torch.where(result.status == Status.FAILED, Status.FAILED, Status.OK).to(torch.uint8)
        return Views(
            pixels=views[None],
            status=status,
            columns={
                "steps": result.steps,
                "inversion_error": (to_model(views) - pixels).square().mean(dim=(1, 2, 3)),
                "anchor_w_plus": codes,
            },
        )
