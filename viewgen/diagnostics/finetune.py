"""Fine-tuning: accuracy of an encoder that is trained on with a linear classifier of each attribute.

The loss is the sum of the attributes' cross-entropies. Started from the encoder's weights, the accuracy is
that of fine-tuning; started from random weights, it is the supervised reference, which had the same steps.
The last epoch counts.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, Tables 9 to 11,
    https://arxiv.org/abs/2012.09962
    A Simple Framework for Contrastive Learning of Visual Representations, Chen, Kornblith, Norouzi and
    Hinton, 2020, appendix B.8, https://arxiv.org/abs/2002.05709
"""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.augmented import Augmentation, AugmentedImages
from viewgen.diagnostics.features import evaluation_mode
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import DataError, UsageError, ViewgenError, nearest_name
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.randomness import addressed_generator, addressed_seed
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Finetune", "FinetuneConfig"]

START_NAMES = {"encoder": "finetuned_top1", "untrained": "from_scratch_top1"}


class FinetuneConfig(Settings):
    """Training of the encoder and its classifiers: SGD with a cosine."""

    title = "finetune"

    start: Literal["encoder", "untrained"] = setting(
        "encoder", "weights at the start: the encoder's, or random ones, a supervised reference"
    )
    attribute: str | None = setting(None, "attribute that is learned; by default all, with equal weights")
    epochs: int = setting(100, "passes over the training images", ge=1)
    batch_size: int = setting(256, "images of a step; what does not fill a batch is left out", ge=2)
    learning_rate: float = setting(0.01, "learning rate at the start", gt=0)
    momentum: float = setting(0.9, "momentum of SGD", ge=0, lt=1)
    weight_decay: float = setting(0.0, "weight decay of SGD", ge=0)
    augmentation: Augmentation = setting(
        "crop", "augmentation of the training images: none, crops and flips, or the whole expert transform"
    )


class Finetune:
    """Accuracy of each attribute after fine-tuning, or after training from scratch.

    Args:
        config: training.
    """

    needs = frozenset({"trainable", "train", "test", "expert"})

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return ``finetuned_top1``, or ``from_scratch_top1``, of each learned attribute.

        Raises:
            UsageError: no such attribute.
            DataError: images have no classes, or there are fewer than fill a batch.
            ViewgenError: the loss is not finite.
        """
        train, test = subject.train, subject.test
        names = _learned(train, test, self.config)
        network = self._start(subject.part("trainable"), seed).to(subject.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(addressed_seed(seed, "classifiers"))
            classifiers = nn.ModuleList(
                [nn.Linear(network.embedding_dim, _num_classes(train, test, name)) for name in names]
            ).to(subject.device)
        self._train(network, classifiers, names, subject, seed)
        right = _accuracies(network, classifiers, names, test, subject)
        on = f"{len(test):,} {test.split}, {len(train):,} {train.split}, {self.config.epochs} epochs"
        measure = START_NAMES[self.config.start]
        return [
            Measure(name=measure, value=value, on=on, group=name)
            for name, value in zip(names, right, strict=True)
        ]

    def _start(self, trained: Encoder, seed: int) -> Encoder:
        """Return a new encoder with the weights of the start."""
        if self.config.start == "encoder":
            return copy.deepcopy(trained)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(addressed_seed(seed, "from scratch"))
            return Encoder(trained.config)

    def _train(
        self, network: Encoder, classifiers: nn.ModuleList, names: Sequence[str], subject: Subject, seed: int
    ) -> None:
        config, train = self.config, subject.train
        num_batches = len(train) // config.batch_size
        if not num_batches:
            raise DataError(
                f"{train.name} {train.split} has {len(train)} images, and batch_size is {config.batch_size}; "
                "give a smaller one with --set finetune.batch_size=N"
            )
        augmented = AugmentedImages(
            train, subject.expert, config.augmentation, seed, subject.device, name="finetune view"
        )
        weights = [*network.backbone.parameters(), *classifiers.parameters()]
        optimiser = torch.optim.SGD(
            weights, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        targets = [torch.from_numpy(train.target(name)) for name in names]
        network.train()
        for epoch in range(config.epochs):
            order = torch.randperm(len(train), generator=addressed_generator(seed, "finetune", epoch))
            total = 0.0
            for step in range(num_batches):
                done = (epoch + step / num_batches) / config.epochs
                for group in optimiser.param_groups:
                    group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
                rows = order[step * config.batch_size : (step + 1) * config.batch_size]
                features = network.embed(augmented(0, epoch, rows))
                loss = torch.stack(
                    [
                        F.cross_entropy(classifier(features), labels[rows].to(subject.device))
                        for classifier, labels in zip(classifiers, targets, strict=True)
                    ]
                ).sum()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
            if not math.isfinite(total):
                raise ViewgenError(
                    f"the loss is not finite at learning rate {config.learning_rate:g}; lower it"
                )
            subject.tell("finetune", epoch + 1, config.epochs)


def _learned(train: ImageDataset, test: ImageDataset, config: FinetuneConfig) -> list[str]:
    """Return the names of the learned attributes."""
    names = [one.name for one in train.attributes if one.kind == "class"]
    if not train.has_classes or not test.has_classes:
        raise DataError(f"{train.name} has images without a class, which fine-tuning learns")
    if config.attribute is None:
        return names
    if config.attribute not in names:
        raise UsageError(
            f"attribute is {config.attribute!r}{nearest_name(config.attribute, names)}; the images have "
            f"{', '.join(names)}"
        )
    return [config.attribute]


def _num_classes(train: ImageDataset, test: ImageDataset, name: str) -> int:
    return int(max(train.target(name).max(), test.target(name).max())) + 1


@torch.no_grad()
def _accuracies(
    network: Encoder, classifiers: nn.ModuleList, names: Sequence[str], test: ImageDataset, subject: Subject
) -> list[float]:
    right = torch.zeros(len(names), dtype=torch.int64)
    labels = [torch.from_numpy(test.target(name)) for name in names]
    with evaluation_mode(network):
        for rows in torch.arange(len(test)).split(subject.batch_size):
            features = network.embed(to_model(test.images(rows.numpy()), subject.device))
            for index, classifier in enumerate(classifiers):
                right[index] += (classifier(features).argmax(dim=1).cpu() == labels[index][rows]).sum()
    found: list[float] = (right.double() / len(test)).tolist()
    return found


ENTRY = Entry(
    name="finetune",
    summary="accuracy after training the encoder on, or a network from scratch, with linear classifiers",
    settings=FinetuneConfig,
    needs=Finetune.needs,
    build=Finetune,
    on_request=True,
)
