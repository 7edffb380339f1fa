"""The linear probe: how well a linear classifier on frozen features does (spec of the paper's evaluation).

All probe seeds and all attributes of a label are trained at once: their classifiers share the features they
read and nothing else, so each has the weights that it would have alone.

Shape legend: S seeds, N images, B batch, D features, A attributes, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.features import Features
from viewgen.errors import DataError, UsageError, ViewgenError
from viewgen.randomness import addressed_generator
from viewgen.recipes import checked_config, recipe

__all__ = ["Augmented", "LinearProbe", "ProbeConfig", "linear_probe", "probe_config"]

INITIAL_DEVIATION = 0.01

# (seed of the probe, epoch, rows of the training images) → their features, float32 (B, D)
Augmented = Callable[[int, int, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """How a probe is trained: by SGD, for a fixed number of epochs, of which the last one counts.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step; the last batch of an epoch is smaller.
        learning_rate: at the start.
        momentum, weight_decay: of SGD.
        schedule: ``"cosine"`` to 0, or ``"steps"``; both change once an epoch.
        milestones: of steps, the epochs from which on the rate is smaller.
        step_factor: of steps, by how much.
        num_seeds: probes; their mean and standard deviation are reported.
        augmentation: of the training images. ``"none"``: features are computed once. ``"crop"``: the crops
            and flips of the data set's expert transform, fresh for each seed and epoch. ``"expert"``: all of
            that transform.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 30.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[int, ...] = (60, 75, 90)
    step_factor: float = 0.2
    num_seeds: int = 5
    augmentation: Literal["none", "crop", "expert"] = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(int(epoch) for epoch in self.milestones))
        if min(self.epochs, self.batch_size, self.num_seeds) < 1:
            raise UsageError("epochs, batch_size and num_seeds of a probe must be at least 1")
        if not 0 < self.learning_rate < math.inf or not 0 < self.step_factor < math.inf:
            raise UsageError("learning_rate and step_factor of a probe must be positive")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise UsageError("momentum of a probe must be in [0, 1), weight_decay must not be negative")
        for name, known in (("schedule", ("cosine", "steps")), ("augmentation", ("none", "crop", "expert"))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.learning_rate * self.step_factor**passed


def probe_config(dataset: str, **settings: Any) -> ProbeConfig:
    """Return the probe's recipe for a data set with some settings changed.

    Raises:
        UsageError: a name is no setting, or a value cannot be one of it.
    """
    config: ProbeConfig = checked_config(ProbeConfig, "probe", {**recipe(dataset, "probe"), **settings})
    return config


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProbe:
    """Trained probes.

    Attributes:
        top1: shares of test images classified correctly, after the last epoch, `(S, A)`.
        loss: mean cross-entropy over the last epoch's batches, `(S, A)`.
        weight: `(S, A, K, D)`.
        bias: `(S, A, K)`.
    """

    top1: NDArray[np.float64]
    loss: NDArray[np.float64]
    weight: Tensor
    bias: Tensor

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds and attributes."""
        return float(self.top1.mean())

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds of the mean over attributes; 0 for one seed."""
        per_seed = self.top1.mean(axis=1)
        return float(per_seed.std(ddof=1)) if len(per_seed) > 1 else 0.0


def linear_probe(
    train: Features,
    test: Features,
    config: ProbeConfig,
    *,
    seed: int = 0,
    augmented: Augmented | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> LinearProbe:
    """Train linear classifiers on `train` and measure them on `test`.

    Args:
        train, test: features and labels on one device.
        config: recipe of the training.
        seed: probe s starts from, and shuffles by, the address (seed, s).
        augmented: gives the features of training images anew, where the recipe augments them.
        progress: is told after each epoch that one more is done.

    Returns:
        the probes after their last epoch.

    Raises:
        UsageError: the recipe augments, but `augmented` is missing.
        DataError: train and test differ in width, or in the number of attributes.
        ViewgenError: the loss is not finite.
    """
    if config.augmentation != "none" and augmented is None:
        raise UsageError(
            f"augmentation is {config.augmentation!r}: features must be computed anew; "
            "give `augmented`, or use viewgen_train.evaluate"
        )
    if train.embeddings.shape[1:] != test.embeddings.shape[1:] or train.labels.ndim != test.labels.ndim:
        raise DataError(
            f"train has features {tuple(train.embeddings.shape)} with labels {tuple(train.labels.shape)}, "
            f"test {tuple(test.embeddings.shape)} with {tuple(test.labels.shape)}; both must come from one "
            "encoder and one data set"
        )
    source = augmented if config.augmentation != "none" else None
    num_seeds, num_images, width = config.num_seeds, len(train), train.embeddings.shape[1]
    labels_NA = train.attributes
    num_attributes = labels_NA.shape[1]
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    device, dtype = train.embeddings.device, train.embeddings.dtype
    weight_SDO, bias_SO = _start(num_seeds, num_attributes * num_classes, width, seed)
    weight_SDO = weight_SDO.to(device, dtype).requires_grad_()
    bias_SO = bias_SO.to(device, dtype).requires_grad_()
    optimiser = torch.optim.SGD(
        [weight_SDO, bias_SO],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    loss_SA = torch.zeros(num_seeds, num_attributes, device=device, dtype=dtype)
    for epoch in range(config.epochs):
        for group in optimiser.param_groups:
            group["lr"] = config.rate(epoch)
        order_SN = torch.stack(
            [
                torch.randperm(num_images, generator=addressed_generator(seed, "probe order", s, epoch))
                for s in range(num_seeds)
            ]
        ).to(device)
        loss_SA.zero_()
        for rows_SB in order_SN.split(config.batch_size, dim=1):
            if source is None:
                x_SBD = train.embeddings[rows_SB]
            else:
                x_SBD = torch.stack([source(s, epoch, rows) for s, rows in enumerate(rows_SB)])
            logits_SBO = torch.baddbmm(bias_SO[:, None], x_SBD, weight_SDO)
            logits = logits_SBO.unflatten(2, (num_attributes, num_classes))
            each = F.cross_entropy(logits.flatten(0, 2), labels_NA[rows_SB].flatten(), reduction="none")
            batch_SA = each.view(num_seeds, -1, num_attributes).mean(dim=1)
            optimiser.zero_grad(set_to_none=True)
            # a sum: no probe's gradient depends on how many others there are
            batch_SA.sum().backward()
            optimiser.step()
            loss_SA += batch_SA.detach() * rows_SB.shape[1] / num_images
        progress(1)
    if not bool(torch.isfinite(loss_SA).all()):
        raise ViewgenError(
            f"the probe's loss is not finite at learning rate {config.learning_rate:g}; lower it"
        )
    weight_SDO, bias_SO = weight_SDO.detach(), bias_SO.detach()
    weight = weight_SDO.mT.unflatten(1, (num_attributes, num_classes))
    bias = bias_SO.unflatten(1, (num_attributes, num_classes))
    return LinearProbe(
        top1=_accuracy(test, weight, bias), loss=loss_SA.double().cpu().numpy(), weight=weight, bias=bias
    )


def _start(num_seeds: int, num_outputs: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return initial weights `(S, D, O)` and biases `(S, O)`."""
    draws = [
        torch.randn(width, num_outputs, generator=addressed_generator(seed, "probe start", s))
        for s in range(num_seeds)
    ]
    return INITIAL_DEVIATION * torch.stack(draws), torch.zeros(num_seeds, num_outputs)


@torch.no_grad()
def _accuracy(test: Features, weight: Tensor, bias: Tensor, chunk_size: int = 8192) -> NDArray[np.float64]:
    """Return the shares of correct answers, `(S, A)`."""
    correct_SA = torch.zeros(weight.shape[:2], dtype=torch.int64, device=weight.device)
    for x_BD, labels_BA in zip(
        test.embeddings.split(chunk_size), test.attributes.split(chunk_size), strict=True
    ):
        logits = torch.einsum("bd,sakd->sabk", x_BD, weight) + bias[:, :, None]
        correct_SA += (logits.argmax(dim=3) == labels_BA.T).sum(dim=2)
    return (correct_SA.double() / len(test)).cpu().numpy()
