"""Robust and non-robust sets of a frozen encoder f with a linear classifier h of one attribute.

Each image x with class y is moved towards another class t, drawn at random: x_k = x_{k−1} −
s·sign(∇CE(h(f(x)), t)) with pixels in [0, 1] and s = 0.01, until h∘f says t for the first time. The moved
images with their own classes y are the robust set, with the classes t the non-robust set: of y they have what
people see, of t what f sees. A new classifier is then learned on the images as they were, on the robust and
on the non-robust set, and all are measured on clean test images. Images that do not reach t belong to neither
set.

Shape legend: N images, B batch, K classes, D features, C, H, W channels and space.

References:
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021, section 4.3 and Figure 8,
    https://arxiv.org/abs/2106.11230
    Adversarial Examples Are Not Bugs, They Are Features, Ilyas et al., 2019, https://arxiv.org/abs/1905.02175
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.features import Features, evaluation_mode
from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.probe import ProbeConfig, linear_probe
from viewgen.diagnostics.suppression import standardised, standardising
from viewgen.errors import DataError, UsageError, nearest_name
from viewgen.images import to_model, to_storage
from viewgen.randomness import addressed_generator
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.branched import ImageEncoder

__all__ = ["ENTRY", "RobustSets", "RobustSetsConfig", "drawn_targets", "moved_to"]

UNREACHED = -1


class RobustSetsConfig(Settings):
    """Moves of the images, and classifiers."""

    title = "robust_sets"

    attribute: str | None = setting(None, "attribute that is classified; by default the first")
    num_images: int | None = setting(
        None, "training images that are moved, evenly spread over the split; none for all", ge=2
    )
    target: Literal["other", "any"] = setting(
        "other", "class that an image is moved to: one of the others, or any, by chance its own"
    )
    step: float = setting(0.01, "change of each pixel in a step, pixels in [0, 1]", gt=0, le=1)
    max_steps: int = setting(100, "steps after which an image counts as unreached", ge=1)
    storage: Literal["float32", "uint8"] = setting(
        "float32",
        "pixels of the sets; of uint8 those images that rounding moves off their target are left out",
    )
    epochs: int = setting(50, "passes of a classifier over its images", ge=1)
    learning_rate: float = setting(3.0, "learning rate of a classifier at the start", gt=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A linear classifier of features.

    Attributes:
        weight: `(K, D)`.
        bias: `(K,)`.
        top1: accuracy on the clean test images.
    """

    weight: Tensor
    bias: Tensor
    top1: float

    def __call__(self, features: Tensor) -> Tensor:
        """Map features `(B, D)` to logits `(B, K)`."""
        return F.linear(features, self.weight, self.bias)


def drawn_targets(labels: Tensor, num_classes: int, kind: str, generator: torch.Generator) -> Tensor:
    """Return the classes that images are moved to, `(N,)`.

    Args:
        labels: their own classes, `(N,)`.
        num_classes: K.
        kind: ``"other"``, uniform over the K − 1 others, or ``"any"``, uniform over all.
        generator: source of the random numbers.
    """
    if kind == "any":
        return torch.randint(num_classes, labels.shape, generator=generator)
    shift = torch.randint(1, num_classes, labels.shape, generator=generator)
    return (labels + shift) % num_classes


def moved_to(
    classify: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, *, step: float, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Return moved model images `(B, C, H, W)`, and the steps that each took, −1 where it did not arrive.

    Args:
        classify: function from model images to logits `(B, K)`.
        images: model images in [−1, 1], `(B, C, H, W)`.
        targets: classes to reach, `(B,)`.
        step: change of each pixel, in model units.
        max_steps: most steps.
    """
    x, steps = images.clone(), torch.full_like(targets, UNREACHED)
    moving = torch.arange(len(images), device=images.device)
    for count in range(max_steps + 1):
        now = x[moving].requires_grad_()
        with torch.enable_grad():
            logits = classify(now)
            going = logits.argmax(dim=1) != targets[moving]
            steps[moving[~going]] = count
            if count == max_steps or not bool(going.any()):
                break
            loss = F.cross_entropy(logits[going], targets[moving[going]], reduction="sum")
            (slope,) = torch.autograd.grad(loss, now)
        moving = moving[going]
        x[moving] = (x[moving] - step * slope[going].sign()).clamp(-1, 1)
    return x, steps


class RobustSets:
    """Clean accuracy of classifiers that learned from clean, robust and non-robust images.

    Args:
        config: moves and classifiers.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: RobustSetsConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return ``clean_top1``, ``robust_top1``, ``nonrobust_top1``, and facts of the moves.

        With ``--plots`` the moved images are kept as ``sets.npz``: `images`, their `label` y, their `target`
        t, `steps` and `source_index`.

        Raises:
            UsageError: no classes, or no such attribute.
            DataError: no image reached its target.
        """
        config, train = self.config, subject.train
        names = [one.name for one in train.attributes if one.kind == "class"]
        if not train.has_classes or not subject.test.has_classes:
            raise UsageError(f"{train.name} has images without a class, which robust sets are made of")
        name = config.attribute or names[0]
        if name not in names:
            raise UsageError(
                f"attribute is {name!r}{nearest_name(name, names)}; the images have {', '.join(names)}"
            )
        all_train, test = (_one_attribute(part, names.index(name)) for part in subject.features)
        classify = self._classifier(all_train, test, seed)
        rows = spread(len(train), config.num_images or len(train))
        labels = torch.from_numpy(train.target(name)[rows])
        targets = drawn_targets(
            labels, len(classify.bias), config.target, addressed_generator(seed, "targets")
        )
        with evaluation_mode(subject.encoder):
            moved, steps, survives = self._moved(subject, classify, rows, targets)
            reached = steps != UNREACHED
            if not bool(reached.any()):
                raise DataError(f"no image reached its target in {config.max_steps} steps")
            kept = reached & survives if config.storage == "uint8" else reached
            if not bool(kept.any()):
                raise DataError("no image kept its target when it was rounded; use storage=float32")
            images = moved[kept]
            features = _embedded(subject.encoder, images, subject)
        clean = Features(embeddings=all_train.embeddings[rows], labels=all_train.labels[rows])
        sets = {"clean": clean}
        for kind, classes in (("robust", labels), ("nonrobust", targets)):
            sets[kind] = Features(embeddings=features, labels=classes[kept].to(features.device))
        values = {f"{kind}_top1": self._classifier(one, test, seed).top1 for kind, one in sets.items()}
        values |= {
            "median_steps": float(steps[reached].double().median()),
            "unreached_share": float((~reached).double().mean()),
            "rounding_kept_share": float(survives[reached].double().mean()),
        }
        subject.keep_file(
            "sets.npz",
            lambda: _npz(
                images=images.numpy() if config.storage == "uint8" else (images.numpy() + 1) / 2,
                label=labels[kept].numpy(),
                target=targets[kept].numpy(),
                steps=steps[kept].numpy(),
                source_index=rows[kept.numpy()],
            ),
        )
        on = f"{len(test):,} {subject.test.split}, {int(kept.sum()):,} of {len(rows):,} {train.split} moved"
        return [Measure(name=one, value=value, on=on, group=name) for one, value in values.items()]

    def _classifier(self, train: Features, test: Features, seed: int) -> Classifier:
        """Return a classifier of features as the encoder gives them, learned on standardised ones."""
        shift, scale = standardising(train)
        probe = ProbeConfig(epochs=self.config.epochs, learning_rate=self.config.learning_rate, num_seeds=1)
        found = linear_probe(*standardised(train, test), probe, seed=seed)
        weight = found.weight[0, 0] / scale
        return Classifier(weight=weight, bias=found.bias[0, 0] - weight @ shift, top1=float(found.top1[0, 0]))

    def _moved(
        self, subject: Subject, classify: Classifier, rows: NDArray[np.int64], targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return moved images as they are stored, their steps, and whether rounding keeps their class."""
        config, encoder = self.config, subject.encoder

        def logits(images: Tensor) -> Tensor:
            return classify(encoder.embed(images))

        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // subject.batch_size)):
            images = to_model(subject.train.images(rows[part]), subject.device)
            wanted = targets[torch.from_numpy(part)].to(subject.device)
            moved, steps = moved_to(logits, images, wanted, step=2 * config.step, max_steps=config.max_steps)
            rounded = to_storage(moved)
            with torch.no_grad():
                survives = logits(to_model(rounded)).argmax(dim=1) == wanted
            stored = rounded if config.storage == "uint8" else moved
            found.append((stored.cpu(), steps.cpu(), survives.cpu()))
            subject.tell("robust sets", int(part[-1]) + 1, len(rows))
        images, steps, survives = (torch.cat(parts) for parts in zip(*found, strict=True))
        return images, steps, survives


def _one_attribute(features: Features, column: int) -> Features:
    return Features(embeddings=features.embeddings, labels=features.attributes[:, column])


@torch.no_grad()
def _embedded(encoder: ImageEncoder, images: Tensor, subject: Subject) -> Tensor:
    """Return the features of stored images, uint8 or model images, `(N, D)`."""
    parts = []
    for part in images.split(subject.batch_size):
        pixels = to_model(part) if part.dtype == torch.uint8 else part
        parts.append(encoder.embed(pixels.to(subject.device)))
    return torch.cat(parts)


def _npz(**arrays: Any) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


ENTRY = Entry(
    name="robust_sets",
    summary="clean accuracy of classifiers learned from images moved to other classes (--plots keeps them)",
    settings=RobustSetsConfig,
    needs=RobustSets.needs,
    build=RobustSets,
    on_request=True,
)
