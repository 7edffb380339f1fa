"""The linear probe: accuracy of a linear classifier on frozen features, R² of a linear regression.

All probe seeds and all attributes of a label are trained at once. Their classifiers share only the input
features, so each has the same weights as if it were trained alone.

Shape legend: S seeds, N images, B batch, D features, A attributes, K classes.

References:
    Understanding intermediate layers using linear classifier probes, Alain and Bengio, 2016,
    https://arxiv.org/abs/1610.01644
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

from viewgen.diagnostics.augmented import Augmentation, AugmentedImages
from viewgen.diagnostics.features import Features, evaluation_mode
from viewgen.diagnostics.knn import attributes
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.regression import linear_regression, r_squared, root_mean_square
from viewgen.errors import DataError, UsageError, ViewgenError
from viewgen.randomness import addressed_generator
from viewgen.recipes import recipe
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Augmented", "LinearProbe", "Probe", "ProbeConfig", "linear_probe", "probe_config"]

INITIAL_DEVIATION = 0.01
# number of classes up to which the share among the five likeliest says little
TOP5_ABOVE = 10

# (seed of the probe, epoch, rows of the training images) → their features, float32 (B, D)
Augmented = Callable[[int, int, Tensor], Tensor]


class ProbeConfig(Settings):
    """Settings of a probe's training: SGD for a fixed number of epochs; the last epoch counts."""

    title = "probe"

    epochs: int = setting(100, "passes over the training images", ge=1)
    batch_size: int = setting(256, "images of a step; the last batch of an epoch is smaller", ge=1)
    learning_rate: float = setting(30.0, "learning rate at the start", gt=0)
    momentum: float = setting(0.9, "momentum of SGD", ge=0, lt=1)
    weight_decay: float = setting(0.0, "weight decay of SGD", ge=0)
    schedule: Literal["cosine", "steps"] = setting(
        "cosine", "fall of the learning rate: along a cosine to 0, or in steps; once an epoch"
    )
    milestones: tuple[int, ...] = setting((60, 75, 90), "epochs from which on a step's rate is smaller")
    step_factor: float = setting(0.2, "factor of a step", gt=0)
    num_seeds: int = setting(5, "probes, of which mean and standard deviation are reported", ge=1)
    augmentation: Augmentation = setting(
        "none",
        "augmentation of the training images: none (features are computed once), crops and flips of the data "
        "set's expert transform (fresh for each seed and epoch), or all of that transform",
    )

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        names = [] if self.schedule == "steps" else ["milestones", "step_factor"]
        return dict.fromkeys(names, f"schedule is {self.schedule!r}")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.learning_rate * self.step_factor**passed


def probe_config(dataset: str, **settings: Any) -> ProbeConfig:
    """Return the probe's recipe for a data set with some settings changed.

    Raises:
        UsageError: a name is not a setting, or a value is invalid for its setting.
    """
    config = ProbeConfig(**{**recipe(dataset, "probe"), **settings})
    config.refuse_ignored(settings)
    return config


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProbe:
    """Trained probes.

    Attributes:
        top1: shares of test images classified correctly, after the last epoch, `(S, A)`.
        top5: shares of test images whose class is among the five with the largest logits, `(S, A)`; NaN for
            attributes of ten classes or fewer.
        loss: mean cross-entropy over the last epoch's batches, `(S, A)`.
        weight: `(S, A, K, D)`.
        bias: `(S, A, K)`; −∞ for the classes that an attribute does not have.
    """

    top1: NDArray[np.float64]
    top5: NDArray[np.float64]
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
        seed: root seed; probe s is initialised and shuffled by the address (seed, s).
        augmented: features of newly augmented training images, for a recipe with augmentation.
        progress: callback called after each epoch.

    Returns:
        probes after their last epoch.

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
    classes_A = torch.maximum(labels_NA.amax(dim=0), test.attributes.amax(dim=0)) + 1
    num_classes = int(classes_A.max())
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
    # (A, K): classes that an attribute does not have
    absent_AK = torch.arange(num_classes, device=device) >= classes_A[:, None]
    some_absent = bool(absent_AK.any())
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
            if some_absent:
                logits = logits.masked_fill(absent_AK, -torch.inf)
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
    bias = bias_SO.unflatten(1, (num_attributes, num_classes)).masked_fill(absent_AK, -torch.inf)
    top1, top5 = _accuracies(test, weight, bias)
    top5[:, (classes_A <= TOP5_ABOVE).cpu().numpy()] = np.nan
    return LinearProbe(top1=top1, top5=top5, loss=loss_SA.double().cpu().numpy(), weight=weight, bias=bias)


def _start(num_seeds: int, num_outputs: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return initial weights `(S, D, O)` and biases `(S, O)`."""
    draws = [
        torch.randn(width, num_outputs, generator=addressed_generator(seed, "probe start", s))
        for s in range(num_seeds)
    ]
    return INITIAL_DEVIATION * torch.stack(draws), torch.zeros(num_seeds, num_outputs)


@torch.no_grad()
def _accuracies(
    test: Features, weight: Tensor, bias: Tensor, chunk_size: int = 8192
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shares of correct answers, and of those among the five likeliest, each `(S, A)`."""
    found_SA = [torch.zeros(weight.shape[:2], dtype=torch.int64, device=weight.device) for _ in range(2)]
    count = min(5, weight.shape[2])
    for x_BD, labels_BA in zip(
        test.embeddings.split(chunk_size), test.attributes.split(chunk_size), strict=True
    ):
        logits = torch.einsum("bd,sakd->sabk", x_BD, weight) + bias[:, :, None]
        found_SA[0] += (logits.argmax(dim=3) == labels_BA.T).sum(dim=2)
        found_SA[1] += (logits.topk(count, dim=3).indices == labels_BA.T[..., None]).any(dim=3).sum(dim=2)
    first, second = ((found.double() / len(test)).cpu().numpy() for found in found_SA)
    return first, second


class Probe:
    """Accuracy of a linear classifier on the frozen backbone's features; of real numbers, a regression's R².

    Args:
        config: settings of the probe's training.
    """

    needs = frozenset({"encoder", "train", "test", "expert"})

    def __init__(self, config: ProbeConfig) -> None:
        self.config = config

    def trained(self, subject: Subject, seed: int) -> LinearProbe:
        """Return the probes after their last epoch."""
        done = 0

        def probed(count: int) -> None:
            nonlocal done
            done += count
            subject.tell("probe", done, self.config.epochs)

        views = AugmentedImages(
            subject.train, subject.expert, self.config.augmentation, seed, subject.device, name="probe view"
        )

        @torch.no_grad()
        def augmented(probe_seed: int, epoch: int, rows: Tensor) -> Tensor:
            return subject.encoder.embed(views(probe_seed, epoch, rows))

        with evaluation_mode(subject.encoder):
            return linear_probe(
                *subject.features, self.config, seed=seed, augmented=augmented, progress=probed
            )

    def regressed(self, subject: Subject, seed: int) -> dict[str, dict[str, float]]:
        """Return name of a real-valued target → ``r2`` and ``rmse`` of a linear regression on test images.

        Training images are not augmented, which would change a target such as a position.
        """
        train, test = subject.features
        if train.reals is None or test.reals is None:
            return {}
        predicted = self._predicted(subject, seed)
        values = zip(r_squared(predicted, test.reals), root_mean_square(predicted, test.reals), strict=True)
        return {
            name: {"r2": float(r2), "rmse": float(rmse)}
            for name, (r2, rmse) in zip(subject.train.real_names, values, strict=True)
        }

    def _predicted(self, subject: Subject, seed: int) -> Tensor:
        """Return the regression's predictions for test images, `(M, R)`."""
        train, test = subject.features
        assert train.reals is not None
        return linear_regression(train.embeddings, train.reals, seed=seed).predict(test.embeddings)

    def mean_distance(self, subject: Subject, seed: int) -> float | None:
        """Return the mean length of the regression's error over all real-valued targets; None below two.

        It is a distance where the targets are coordinates in one unit.
        """
        _, test = subject.features
        if test.reals is None or test.reals.shape[1] < 2:
            return None
        return float((self._predicted(subject, seed) - test.reals.double()).norm(dim=1).mean())

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the mean accuracy of each attribute, ± one standard deviation over the probe's seeds.

        Of each real-valued target it returns R² and the root mean squared error.
        """
        on = f"{len(subject.test):,} {subject.test.split}, {len(subject.train):,} {subject.train.split}"
        reals = [
            Measure(name=f"probe_{name}", value=value, on=on, group=group)
            for group, values in self.regressed(subject, seed).items()
            for name, value in values.items()
        ]
        if (distance := self.mean_distance(subject, seed)) is not None:
            reals.append(Measure(name="probe_distance", value=distance, on=on))
        if not subject.features[0].has_classes:
            return reals
        top1 = self.trained(subject, seed).top1
        deviation = top1.std(axis=0, ddof=1) if len(top1) > 1 else np.zeros(top1.shape[1])
        classes = [
            Measure(name="probe_top1", value=mean, low=mean - spread, high=mean + spread, on=on, group=name)
            for name, mean, spread in zip(
                attributes(subject, top1.shape[1]),
                top1.mean(axis=0).tolist(),
                deviation.tolist(),
                strict=True,
            )
        ]
        return classes + reals


ENTRY = Entry(
    name="probe",
    summary="accuracy of a linear classifier on the frozen backbone's features (of real numbers, R²)",
    settings=ProbeConfig,
    needs=Probe.needs,
    build=Probe,
)
