"""Numbers of the trained networks on which the gates decide.

Shape legend: N images, D features, K projections.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.calibration import Calibration
from viewgen.diagnostics.distances import kernel_distance, psnr
from viewgen.diagnostics.generated import reconstructions, samples, spread
from viewgen.diagnostics.knn import knn_accuracy
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.realism import shuffled_pixels
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Models
from viewgen.networks.generator import SamplingGenerator
from viewgen.registry import Choice
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.offline import offline_step

__all__ = ["encoder_numbers", "epsilon_numbers", "generator_numbers", "inverter_numbers"]

NUM_NEIGHBOURS = 5
MOST_KNN = 5_000
MOST_SAMPLES = 1_024
MOST_RECONSTRUCTED = 256
NUM_REFINED = 16
BATCH = 256


def encoder_numbers(
    encoder: Encoder, images: ImageDataset, test: ImageDataset | None, device: str
) -> dict[str, float]:
    """Return the 5-NN accuracy and the share of the largest class; nothing for images without classes.

    Without a test split, the neighbours of a training image are the other training images.
    """
    if images.label_shape or not images.has_classes or len(set(images.targets.tolist())) < 2:
        return {}
    rows = spread(len(images), MOST_KNN)
    known, labels = _features(encoder, images, rows, device), torch.from_numpy(images.labels(rows))
    if test is None or test.label_shape or not test.has_classes:
        accuracy, judged = _left_out_accuracy(known, labels), labels
    else:
        few = spread(len(test), MOST_KNN)
        judged = torch.from_numpy(test.labels(few))
        accuracy = knn_accuracy(known, labels, _features(encoder, test, few, device), judged)
    share = float(judged.bincount().max()) / len(judged)
    return {"knn5_top1": round(accuracy, 4), "largest_class": round(share, 4), "knn_images": len(judged)}


def _left_out_accuracy(features: Tensor, labels: Tensor) -> float:
    """Return the accuracy of the vote of the nearest others, of features `(N, D)` and labels `(N,)`."""
    unit = F.normalize(features, dim=1)
    correct = 0
    for start in range(0, len(unit), BATCH):
        similarity = unit[start : start + BATCH] @ unit.T
        similarity[torch.arange(len(similarity)), torch.arange(start, start + len(similarity))] = -torch.inf
        count = min(NUM_NEIGHBOURS, len(unit) - 1)
        votes = labels[similarity.topk(count, dim=1).indices].mode(dim=1).values
        correct += int((votes == labels[start : start + BATCH]).sum())
    return correct / len(unit)


def epsilon_numbers(found: Calibration) -> dict[str, float]:
    """Return ε₁, its deviation and the distance of different images."""
    return {
        "epsilon_boundary": round(found.epsilon_boundary, 3),
        "standard_deviation": round(found.standard_deviation, 4),
        "different_images": round(found.different_images, 4),
    }


@torch.no_grad()
def generator_numbers(models: Models, images: ImageDataset, seed: int) -> dict[str, float]:
    """Return kernel distances of samples and of shuffled pixels from real images, and mean distances.

    Args:
        models: generator and encoder.
        images: training images.
        seed: seed of the samples.
    """
    generator, encoder = models.generator, models.encoder
    if encoder is None or not isinstance(generator, SamplingGenerator):
        return {}
    device = str(models.device)
    rows = spread(len(images), MOST_SAMPLES)
    pixels = images.images(rows)
    made = samples(_subject(models, images), rows, len(rows), seed)
    real, fake, noise = (
        _embedded(encoder, some, device) for some in (pixels, made, shuffled_pixels(pixels, seed))
    )
    apart = [_mean_distance(_embedded(encoder, some, device, project=True)) for some in (made, pixels)]
    return {
        "kernel_distance": round(kernel_distance(fake, real), 5),
        "kernel_distance_shuffled": round(kernel_distance(noise, real), 5),
        "sample_spread": round(apart[0], 4),
        "image_spread": round(apart[1], 4),
    }


@torch.no_grad()
def inverter_numbers(
    models: Models,
    images: ImageDataset,
    inversion: Choice[ViewEntry] | None,
    epsilon_boundary: float | None,
    seed: int,
) -> dict[str, float]:
    """Return the PSNR of unrefined reconstructions and of the mean image, and refined ones' distances.

    Args:
        models: all networks.
        images: images to reconstruct.
        inversion: refinement of codes, or None to leave it out.
        epsilon_boundary: ε₁, or None.
        seed: root of all random numbers.
    """
    rows = spread(len(images), MOST_RECONSTRUCTED)
    pixels = images.images(rows)
    x, again = (to_model(some, "cpu") for some in (pixels, reconstructions(_subject(models, images), rows)))
    mean = x.mean(dim=0, keepdim=True).expand_as(x)
    found = {
        "psnr_db": round(float(psnr(again, x).mean()), 2),
        "psnr_mean_image_db": round(float(psnr(mean, x).mean()), 2),
    }
    if inversion is None or models.encoder is None or epsilon_boundary is None:
        return found
    few = rows[spread(len(rows), NUM_REFINED)]
    with torch.enable_grad():
        resources = Resources(models=models)
        step = offline_step(inversion.build(resources), resources, seed=seed, num_views=1)
        views = step(images.batch(few))["views"][:, 0]
    device = str(models.device)
    there, here = (
        _embedded(models.encoder, some, device, project=True) for some in (images.images(few), views)
    )
    distance = (there - here).norm(dim=1)
    return found | {
        "refined_distance": round(float(distance.mean()), 4),
        "refined_beyond_epsilon": round(float((distance > epsilon_boundary).double().mean()), 4),
        "refined_psnr_db": round(
            float(psnr(to_model(views, "cpu"), to_model(images.images(few), "cpu")).mean()), 2
        ),
    }


def _subject(models: Models, images: ImageDataset) -> Subject:
    parts: dict[str, Any] = {"train": images, "test": images, "generator": models.generator}
    if models.inverter is not None:
        parts |= {"inverter": models.inverter, "inverting": models.inverting()}
    return Subject({name: partial(_given, part) for name, part in parts.items()}, device=models.device)


def _given(part: Any) -> Any:
    return part


def _features(encoder: Encoder, images: ImageDataset, rows: NDArray[np.int64], device: str) -> Tensor:
    parts = np.array_split(rows, max(1, -(-len(rows) // BATCH)))
    return torch.cat([_embedded(encoder, images.images(part), device) for part in parts])


@torch.no_grad()
def _embedded(encoder: Encoder, pixels: NDArray[np.uint8], device: str, *, project: bool = False) -> Tensor:
    """Return backbone features `(N, D)`, or projections `(N, K)`, of storage images."""
    net: Any = encoder if project else encoder.embed
    parts = np.array_split(pixels, max(1, -(-len(pixels) // BATCH)))
    return torch.cat([net(to_model(part, device)).float().cpu() for part in parts])


def _mean_distance(projections: Tensor) -> float:
    return float(torch.pdist(projections).mean()) if len(projections) > 1 else 0.0
