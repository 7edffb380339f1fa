"""A classifier of real images that is independent of every encoder: ridge regression on patch features.

It is cross-fitted: the images are divided into folds, and an image and its views are read by the classifier
that was fitted without that image. Its accuracy is that of real images read so.

Shape legend: N images, D features, K classes, F folds.

References:
    An Analysis of Single-Layer Networks in Unsupervised Feature Learning, Coates, Lee and Ng, 2011,
    https://proceedings.mlr.press/v15/coates11a.html
    Double/debiased machine learning for treatment and structural parameters, Chernozhukov et al., 2018
    (cross-fitting), https://arxiv.org/abs/1608.00060
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.patches import PatchFeatures
from viewgen.errors import DataError
from viewgen.files import write_atomically
from viewgen.randomness import addressed_generator
from viewgen.store import cache_folder

__all__ = ["ImageClassifier", "classifier_folder", "image_classifier"]

FORMAT = 1
NUM_FOLDS = 5
NUM_IMAGES = 6_000
NUM_FILTERS = 64
PENALTIES = (1e-2, 1e-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageClassifier:
    """A cross-fitted classifier.

    Attributes:
        patches: its features.
        mean, scale: standardisation of the features, `(D,)`.
        weights: float32 `(F, D + 1, K)`; the last row is the intercept.
        folds: fold of every image of the data set, int64 `(N,)`; fold k was left out for weights k.
        hits: True if each real image used was read right, bool `(M,)`.
    """

    patches: PatchFeatures
    mean: Tensor
    scale: Tensor
    weights: Tensor
    folds: Tensor
    hits: Tensor

    @property
    def accuracy(self) -> float:
        """Share of real images read right by the classifier fitted without them."""
        return float(self.hits.double().mean())

    def scores(self, images: NDArray[np.uint8], source_index: NDArray[np.int64]) -> Tensor:
        """Return scores of classes, `(B, K)`, about 1 for the class read and 0 for others.

        Args:
            images: images or views, uint8 `(B, C, H, W)`.
            source_index: row in the data set of the image that each belongs to, `(B,)`.
        """
        features = _standardised(self.patches.features(torch.from_numpy(images)).cpu(), self.mean, self.scale)
        folds = self.folds[torch.from_numpy(source_index)]
        scores = torch.empty(len(features), self.weights.shape[2])
        for fold in folds.unique().tolist():
            chosen = folds == fold
            scores[chosen] = features[chosen] @ self.weights[fold]
        return scores


def classifier_folder() -> Path:
    """Return the folder of fitted classifiers: beside the caches, if these are on a disk."""
    folder = cache_folder()
    if "://" in folder:
        folder = str(Path(platformdirs.user_cache_dir("viewgen")) / "caches")
    return Path(folder).expanduser() / "classifiers"


def image_classifier(
    dataset: ImageDataset,
    *,
    num_filters: int = NUM_FILTERS,
    num_images: int = NUM_IMAGES,
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda _: None,
) -> ImageClassifier:
    """Return the classifier of a data set, from the user's cache folder or fitted now.

    Args:
        dataset: labelled real images, one label each.
        num_filters: P, patches in the dictionary.
        num_images: images to fit on, at most.
        device: device of the features.
        say: callback for a message where fitting takes a while.

    Raises:
        DataError: images have no label or several, or there are too few.
    """
    if dataset.label_shape or not bool((dataset.targets >= 0).all()) or dataset.num_classes < 2:
        raise DataError(f"{dataset.name} {dataset.split}: the images have no single label each")
    if len(dataset) < 2 * NUM_FOLDS:
        raise DataError(f"{dataset.name} {dataset.split} has {len(dataset)} images, too few for a classifier")
    facts = [
        FORMAT,
        dataset.digest,
        dataset.split,
        len(dataset),
        num_filters,
        num_images,
        NUM_FOLDS,
        PENALTIES,
    ]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = classifier_folder() / f"{name}.safetensors"
    found = _read(path)
    if found is None:
        say(f"fitting a classifier of {dataset.name}, once; it is kept in {path.parent}")
        found = _fit(dataset, num_filters, num_images, device)
        try:
            write_atomically(path, save(_tensors(found)))
        except OSError as error:
            say(f"the classifier could not be kept: {error}")
    return ImageClassifier(
        patches=PatchFeatures(filters=found["filters"], offset=found["offset"]).on(device),
        **{name: found[name] for name in ("mean", "scale", "weights", "hits")},
        folds=_folds(len(dataset)),
    )


def _tensors(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a kept classifier; None if there is none, or a damaged one."""
    try:
        found = load(path.read_bytes())
    except Exception:  # absent, or any of the parser's errors: it is fitted again
        return None
    names = {"filters", "offset", "mean", "scale", "weights", "hits"}
    return found if found.keys() == names else None


def _folds(num_images: int) -> Tensor:
    order = torch.randperm(num_images, generator=addressed_generator(0, "folds"))
    folds = torch.empty(num_images, dtype=torch.int64)
    folds[order] = torch.arange(num_images) % NUM_FOLDS
    return folds


@torch.no_grad()
def _fit(
    dataset: ImageDataset, num_filters: int, num_images: int, device: torch.device | str
) -> dict[str, Tensor]:
    rows = spread(len(dataset), num_images)
    images = dataset.images(rows)
    patches = PatchFeatures.of_images(images, num_filters)
    features = patches.on(device).features(torch.from_numpy(images)).cpu()
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    x = _standardised(features, mean, scale).double()
    labels = torch.from_numpy(dataset.labels(rows))
    y = F.one_hot(labels, dataset.num_classes).double()
    folds = _folds(len(dataset))[torch.from_numpy(rows)]
    ridge = _Ridge(x, y, folds)
    # the penalty by one fold, then that penalty for all
    tried = {penalty: ridge.fit(0, penalty) for penalty in PENALTIES}
    held = folds == 0
    right = {p: int(((x[held] @ fit).argmax(dim=1) == labels[held]).sum()) for p, fit in tried.items()}
    penalty = max(PENALTIES, key=lambda one: right[one])
    weights = torch.stack([tried[penalty], *(ridge.fit(fold, penalty) for fold in range(1, NUM_FOLDS))])
    read = torch.stack([x[row] @ weights[fold] for row, fold in enumerate(folds.tolist())]).argmax(dim=1)
    return {
        "filters": patches.filters,
        "offset": patches.offset,
        "mean": mean,
        "scale": scale,
        "weights": weights.float(),
        "hits": read == labels,
    }


def _standardised(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    x = (features - mean) / scale
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)


class _Ridge:
    """Ridge regression of `y` `(N, K)` on `x` `(N, D + 1)` without one of the folds."""

    def __init__(self, x: Tensor, y: Tensor, folds: Tensor) -> None:
        self.x, self.y, self.folds = x, y, folds
        self.gram, self.target = x.T @ x, x.T @ y

    def fit(self, fold: int, penalty: float) -> Tensor:
        """Return weights, `(D + 1, K)`; the penalty is one of each feature, in units of D."""
        x, y = self.x[self.folds == fold], self.y[self.folds == fold]
        diagonal = torch.full((len(self.gram),), penalty * (len(self.gram) - 1), dtype=self.x.dtype)
        # the intercept bears no penalty worth the name
        diagonal[-1] = 1e-6
        own = self.gram - x.T @ x + torch.diag(diagonal)
        found: Tensor = torch.cholesky_solve(self.target - x.T @ y, torch.linalg.cholesky(own))
        return found
