"""Backbone features of a data set, computed once for probes and nearest neighbours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewgen.datasets import ImageDataset
from viewgen.errors import DataError, ModelError
from viewgen.images import to_model
from viewgen.views.branched import ImageEncoder

__all__ = ["Features", "evaluation_mode", "extract_features"]

UNLABELED = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Features of N images, and their labels, on one device.

    Attributes:
        embeddings: backbone features, float32 `(N, D)`.
        labels: int64 `(N, *label_shape)`: `(N,)`, or `(N, A)` where an image has A attributes; −1 where
            images have real-valued targets only.
        reals: real-valued targets, float32 `(N, R)`; None where there are none.
    """

    embeddings: Tensor
    labels: Tensor
    reals: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def attributes(self) -> Tensor:
        """The labels as `(N, A)`; A is 1 where an image has one label."""
        return self.labels.reshape(len(self.labels), -1)

    @property
    def has_classes(self) -> bool:
        """True if the images have classes, and not real-valued targets only."""
        return self.reals is None or bool((self.labels != UNLABELED).any())

    def part(self, rows: slice) -> "Features":
        """Return the features of some of the images."""
        reals = None if self.reals is None else self.reals[rows]
        return Features(embeddings=self.embeddings[rows], labels=self.labels[rows], reals=reals)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode, and restore the mode of each of its modules at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def extract_features(
    encoder: ImageEncoder,
    dataset: ImageDataset,
    *,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    rows: NDArray[np.int64] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Features:
    """Embed images by the encoder's backbone, in evaluation mode and without gradients.

    Args:
        encoder: encoder on `device`; its training mode is restored.
        dataset: the images.
        batch_size: images embedded at once.
        device: device of the encoder and of the features.
        rows: source indices, `(M,)`; by default all images in order.
        progress: callback called after each batch with its number of images.

    Returns:
        features of the rows, in their order.

    Raises:
        DataError: there are no images, or an image has neither a label nor a real-valued target.
        ModelError: the images have another size than the encoder was trained on, or a feature is not finite.
    """
    rows = np.arange(len(dataset)) if rows is None else rows
    if len(rows) == 0:
        raise DataError(f"{dataset.name} {dataset.split} has no image to embed")
    if dataset.image_size != encoder.config.image_size:
        raise ModelError(
            f"the encoder was trained on {encoder.config.image_size}-px images, {dataset.name} has "
            f"{dataset.image_size} px; use an encoder and a data set of one size"
        )
    labels = torch.from_numpy(dataset.labels(rows))
    reals = torch.from_numpy(dataset.reals(rows)) if dataset.real_names else None
    # of images with real numbers only, no label is missing
    known = reals is not None and not dataset.num_classes
    if not known and bool((labels == UNLABELED).any()):
        raise DataError(
            f"{dataset.name} {dataset.split} holds images without a label; evaluate on a labelled split"
        )
    embeddings = torch.empty(len(rows), encoder.embedding_dim, device=device)
    with evaluation_mode(encoder):
        for start in range(0, len(rows), batch_size):
            images = to_model(dataset.images(rows[start : start + batch_size]), device)
            embeddings[start : start + len(images)] = encoder.embed(images)
            progress(len(images))
    if not bool(torch.isfinite(embeddings).all()):
        raise ModelError("the encoder gives features that are not finite; its training has diverged")
    return Features(
        embeddings=embeddings,
        labels=labels.to(device),
        reals=None if reals is None else reals.to(device),
    )
