"""Measured quality of the networks, for model cards.

The kernel distance is that of KID, but on the features of a viewgen encoder, scaled to unit mean square over
the real images. Its values are therefore not KID and are comparable only under the same encoder. The distance
between the train and the test split serves as a reference for small values.

References:
    Demystifying MMD GANs, Bińkowski, Sutherland, Arbel and Gretton, 2018, https://arxiv.org/abs/1801.01401
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.dataset import UNLABELED
from viewgen.diagnostics.distances import kernel_distance, psnr
from viewgen.diagnostics.knn import knn_accuracy
from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimate import estimate_mutual_information
from viewgen.diagnostics.mutual_information.views import source_pair
from viewgen.errors import UsageError
from viewgen.images import to_model, to_storage
from viewgen.networks.encoder import Encoder
from viewgen.networks.flow import Flow
from viewgen.networks.generator import class_labels
from viewgen.networks.inverter import Inverter
from viewgen.networks.stylegan2 import Generator
from viewgen.randomness import addressed_normal
from viewgen.registry import Choice
from viewgen.views import VIEWS
from viewgen.views.flow import FlowViewsConfig, flow_channels
from viewgen_pretrained.learned_views import FlowTrainer, by_role

__all__ = ["measure_encoder", "measure_flow", "measure_generator", "measure_inverter"]

log = logging.getLogger(__name__)

BATCH = 256
MAX_IMAGES = 10_000
# K of a flow's I_NCE, with enough images
MAX_CANDIDATES = 256


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def _rows(dataset: ImageDataset) -> np.ndarray[Any, Any]:
    # spread over the whole split: image folders are sorted by class
    count = min(len(dataset), MAX_IMAGES)
    return np.arange(count) * len(dataset) // count


@torch.no_grad()
def _features(encoder: Encoder, dataset: ImageDataset) -> Tensor:
    device = _device(encoder)
    rows = _rows(dataset)
    batches = np.array_split(rows, max(1, len(rows) // BATCH))
    return torch.cat([encoder.embed(to_model(dataset.images(part), device)).cpu() for part in batches])


def _held_out(dataset: ImageDataset, data_root: str | None) -> ImageDataset | None:
    try:
        return load_dataset(dataset.name, "test", data_root=data_root)
    except UsageError:  # an image folder without a test split
        return None


def measure_encoder(encoder: Encoder, dataset: ImageDataset, data_root: str | None) -> dict[str, Any]:
    """Return the 5-NN accuracy (cosine, backbone features) of the test split against the training split.

    The result is empty without a test split.
    """
    test = _held_out(dataset, data_root)
    if test is None:
        return {}
    if np.any(dataset.labels(_rows(dataset)) == UNLABELED):
        dataset = load_dataset(dataset.name, "train", data_root=data_root)
    labels = [torch.from_numpy(part.labels(_rows(part))) for part in (dataset, test)]
    if labels[0].ndim > 1:  # several attributes: report each
        train_features, test_features = _features(encoder, dataset), _features(encoder, test)
        return {
            f"knn5_top1_attribute_{index}": knn_accuracy(
                train_features, labels[0][:, index], test_features, labels[1][:, index]
            )
            for index in range(labels[0].shape[1])
        }
    accuracy = knn_accuracy(_features(encoder, dataset), labels[0], _features(encoder, test), labels[1])
    return {"knn5_top1": round(accuracy, 4), "test_images": len(labels[1])}


@torch.no_grad()
def measure_generator(
    generator: Generator, encoder: Encoder, dataset: ImageDataset, data_root: str | None
) -> dict[str, Any]:
    """Return the kernel distances of samples (ψ = 1, fixed noise) and of test images to training images.

    Without a test split, the distance of test images is left out.
    """
    device = _device(generator)
    real = _features(encoder, dataset)
    samples = []
    for start in range(0, len(real), BATCH):
        count = min(BATCH, len(real) - start)
        z = addressed_normal((count, generator.config.style_dim), "quality", start).to(device)
        samples.append(encoder.embed(to_model(to_storage(generator(z)))).cpu())
    measured: dict[str, Any] = {"kernel_distance": round(kernel_distance(torch.cat(samples), real), 6)}
    test = _held_out(dataset, data_root)
    if test is not None:
        distance = kernel_distance(_features(encoder, test), real)
        measured["kernel_distance_train_test"] = round(distance, 6)
    measured["kernel_distance_features"] = "backbone of the viewgen encoder named under depends"
    measured["samples"] = len(real)
    return measured


@torch.no_grad()
def measure_inverter(
    inverter: Inverter,
    generator: Generator,
    encoder: Encoder | None,
    dataset: ImageDataset,
    data_root: str | None,
) -> dict[str, Any]:
    """Return PSNR and feature distance ‖f(x) − f(g(e(x)))‖ of unrefined reconstructions, train and test."""
    device = _device(generator)
    measured: dict[str, Any] = {}
    for name, part in (("train", dataset), ("test", _held_out(dataset, data_root))):
        if part is None:
            continue
        ratios, distances = [], []
        rows = _rows(part)
        for batch in np.array_split(rows, max(1, len(rows) // BATCH)):
            x = to_model(part.images(batch), device)
            labels = torch.from_numpy(part.labels(batch)).to(device)
            codes = inverter(x, class_labels(labels, generator.config.num_classes))
            reconstruction = generator.synthesis(codes).clamp(-1, 1)
            ratios.append(psnr(reconstruction, x).cpu())
            if encoder is not None:
                distances.append((encoder(reconstruction) - encoder(x)).norm(dim=1).cpu())
        measured[f"psnr_{name}_db"] = round(float(torch.cat(ratios).mean()), 2)
        if distances:
            measured[f"feature_distance_{name}"] = round(float(torch.cat(distances).mean()), 4)
    return measured


def measure_flow(flow: Flow, path: Path, trainer: FlowTrainer, data_root: str | None) -> dict[str, Any]:
    """Return I_NCE of the learned views and of the colour split, and accuracies of the learned views.

    Each I_NCE is that of a separable critic of its own, trained on some of the training images and measured
    on others. K is the same for both, 256 or a quarter of fewer images, whatever the batch of the training;
    `i_nce_ceiling` is ln K, and a value within 1 nat of it is saturated: at least so much. Cross-entropies
    and accuracies are those of the training's classifiers on the test split. `least_deviation` is the
    smallest standard deviation of a channel over the training images.

    Args:
        flow: the flow as it is stored.
        path: its file.
        trainer: its training.
        data_root: folder of data sets.
    """
    dataset, config = trainer.dataset, trainer.config
    entry = VIEWS.entry("flow")
    settings: FlowViewsConfig = entry.fit(FlowViewsConfig(file=str(path)), dataset)
    assert settings.deviation is not None
    measured: dict[str, Any] = {"least_deviation": round(min(settings.deviation), 6)}
    rows = _rows(dataset)
    candidates = min(MAX_CANDIDATES, len(rows) // 4)
    if config.measure_steps and candidates >= 8:
        color = VIEWS.resolve("color", dataset.name, {"space": config.space})
        how = MIConfig(
            estimator="infonce", critic="separable", num_steps=config.measure_steps, batch_size=candidates
        )
        for name, choice in (("i_nce", Choice(entry, settings)), ("i_nce_raw", color)):
            pair = source_pair(choice, dataset, rows)
            found = estimate_mutual_information(
                pair.views, how.of_roles(pair.roles), seed=config.seed, device=str(trainer.device)
            )
            measured[name] = round(found.nats, 4)
            measured[f"{name}_interval"] = [round(found.low, 4), round(found.high, 4)]
            measured[f"{name}_saturated"] = found.bounds["infonce"].saturated
            for text in found.warnings:
                log.warning("%s: %s", name, text)
        measured["i_nce_ceiling"] = round(float(np.log(candidates)), 4)
    elif config.measure_steps:
        log.warning("what the views share is not measured: it takes at least 32 images")
    return {**measured, **_classified(flow, trainer, settings, data_root)}


@torch.no_grad()
def _classified(
    flow: Flow, trainer: FlowTrainer, settings: FlowViewsConfig, data_root: str | None
) -> dict[str, Any]:
    """Return cross-entropy and accuracy of each view's classifier on the test split, if there are both."""
    labelled, classifiers = trainer.labelled, trainer.classifiers
    test = None if labelled is None else _held_out(labelled.dataset, data_root)
    if labelled is None or classifiers is None or test is None:
        return {}
    classifiers.eval()
    device = trainer.device
    flow = flow.to(device)
    mean, deviation = (
        torch.tensor(one, device=device)[:, None, None] for one in (settings.mean, settings.deviation)
    )
    classes = test.target(labelled.attribute)
    rows = _rows(test)
    rows = rows[classes[rows] >= 0]
    if not len(rows):
        return {}
    targets = torch.from_numpy(classes[rows]).to(device)
    scores: dict[str, list[Tensor]] = {}
    for part in np.array_split(rows, max(1, len(rows) // BATCH)):
        pixels = torch.from_numpy(test.images(part)).to(device)
        channels = flow_channels(pixels, flow)
        for role, logits in classifiers.project(by_role((channels - mean) / deviation)).items():
            scores.setdefault(role, []).append(logits)
    measured: dict[str, Any] = {}
    for role, found in scores.items():
        logits = torch.cat(found)
        measured[f"cross_entropy_{role}"] = round(float(F.cross_entropy(logits, targets)), 4)
        measured[f"accuracy_{role}"] = round(float((logits.argmax(dim=1) == targets).float().mean()), 4)
    return {**measured, "test_images": len(rows)}
