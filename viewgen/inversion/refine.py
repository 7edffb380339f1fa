"""In-domain inversion: a code for every image, refined from the generator's start.

Refinement minimises, for each image on its own,

    mean (x − g(c))² + λ_p·perceptual(x, g(c)) + λ_d·mean (c₀ − e(g(c)))²,   c₀ = e(x)

from c = c₀ by L-BFGS or Adam, where e is the generator's `start`; the last term keeps the code in the
generator's domain. Means run over pixels and over code elements.

References:
    In-Domain GAN Inversion for Real Image Editing, Zhu, Shen, Zhao and Zhou, 2020,
    https://arxiv.org/abs/2004.00049

Shape legend: N images, A active images, … a code's own dimensions, C, H, W channels and space.
"""

import torch
from torch import Tensor

from viewgen.inversion.curvature import mean_curvature
from viewgen.inversion.perceptual import PerceptualDistance
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.generator import Generator, code_unit
from viewgen.optimise.adam import Adam
from viewgen.optimise.lbfgs import LBFGS
from viewgen.optimise.slots import Evaluation, SlotOptions, SlotResult, UpdateRule, equal_parts, optimise

__all__ = ["InversionProblem", "invert_images", "refinement_rule"]

MEMORY = 10


class InversionProblem:
    """Refinement of the images of one shard, as a `viewgen.optimise.slots.Problem`.

    Args:
        generator: g, frozen, with its `start`.
        perceptual: distance of the perceptual term, or None.
        images: model images, `(N, C, H, W)`.
        config: weights and stopping rule.
        batch_size: images per network evaluation when the targets are computed.
        labels: labels of the images, `(N,)`, for a class-conditional generator.
    """

    def __init__(
        self,
        generator: Generator,
        perceptual: PerceptualDistance | None,
        images: Tensor,
        config: InvertConfig,
        batch_size: int = 32,
        labels: Tensor | None = None,
    ) -> None:
        self.generator, self.perceptual, self.config = generator, perceptual, config
        self.images = images
        self.labels = labels
        self.num_images = len(images)
        self.device = images.device
        with torch.no_grad():
            parts = list(equal_parts(images, batch_size))
            their_labels = (
                [None] * len(parts) if labels is None else [p for p, _ in equal_parts(labels, batch_size)]
            )
            starts = zip(parts, their_labels, strict=True)
            self.first = torch.cat([generator.start(part, own)[:kept] for (part, kept), own in starts])
            self.targets: list[Tensor] = []
            if perceptual is not None and config.perceptual_weight:
                features = [[x[:kept] for x in perceptual.features(part)] for part, kept in parts]
                self.targets = [torch.cat(layer) for layer in zip(*features, strict=True)]
        self.best_loss = images.new_full((len(images),), torch.inf)
        self.best_step = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def start(self, rows: Tensor) -> Tensor:
        """Return the first codes of the images `rows`, `(A, 1, ...)`."""
        self.best_loss[rows] = torch.inf
        self.best_step[rows] = 0
        return self.first[rows][:, None]

    def evaluate(self, codes: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        """Evaluate the refinement's loss; an image is done when its loss has stopped falling."""
        config = self.config
        images = self.generator.decode(codes[:, 0])
        loss = (images - self.images[rows]).square().mean(dim=(1, 2, 3))
        if self.perceptual is not None and self.targets:
            targets = [target[rows] for target in self.targets]
            distance = self.perceptual.distance(self.perceptual.features(images), targets)
            loss = loss + config.perceptual_weight * distance
        if config.domain_weight:
            labels = None if self.labels is None else self.labels[rows]
            drift = (self.generator.start(images, labels) - self.first[rows]).square()
            drift = drift.mean(dim=tuple(range(1, drift.ndim)))
            loss = loss + config.domain_weight * drift
        with torch.no_grad():
            fallen = loss < 0.99 * self.best_loss[rows]
            self.best_loss[rows] = torch.where(fallen, loss.detach(), self.best_loss[rows])
            self.best_step[rows] = torch.where(fallen, steps, self.best_step[rows])
            done = steps - self.best_step[rows] >= config.patience
        return Evaluation(loss, done)


def refinement_rule(generator: Generator, config: InvertConfig, batch_size: int = 32) -> UpdateRule:
    """Return the update rule of refinements for this generator; the settings' solver decides which.

    Args:
        generator: g, frozen, with its `start`.
        config: settings.
        batch_size: images per network evaluation.

    Raises:
        ModelError: the solver is lbfgs, and the generator has no finite derivatives.
    """
    if config.solver == "adam" or not config.max_steps:  # without a step nothing has to be known
        return Adam(learning_rate=config.learning_rate * code_unit(generator))
    curvature = mean_curvature(generator, config.domain_weight, batch_size)
    return LBFGS(precondition=curvature, memory=min(MEMORY, config.max_steps))


def invert_images(
    problem: InversionProblem, rule: UpdateRule, num_slots: int, group_size: int | None = None
) -> SlotResult:
    """Refine the codes of the images of `problem`, `num_slots` at once; returns each image's best code.

    The images are evaluated in groups of exactly `group_size`, or all slots at once.
    """
    options = SlotOptions(
        num_slots=num_slots,
        max_steps=problem.config.max_steps,
        keep_best=True,
        group_size=group_size,
    )
    return optimise(problem, options, rule)
