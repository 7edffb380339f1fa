"""Measured quality of the networks, for model cards.

The kernel distance is that of KID (Bińkowski et al., 2018: unbiased squared MMD with the kernel
(x·y/d + 1)³), but on the features of a viewgen encoder, scaled to unit mean square over the real images, so
its values are not KID and compare only under the same encoder. The distance between the train and the test
split under it says what is small.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.encoder import Encoder
from viewgen.images import to_model, to_storage
from viewgen.inverter import Inverter
from viewgen.randomness import addressed_normal
from viewgen.stylegan2 import Generator
from viewgen_train.neighbours import knn_accuracy

__all__ = ["kernel_distance", "measure_encoder", "measure_generator", "measure_inverter", "psnr"]

BATCH = 256
MAX_IMAGES = 10_000


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy between features.

    Args:
        x: features to judge, `(N, D)`.
        y: features of real images, `(M, D)`; their mean square sets the scale.
    """
    x, y = x.double(), y.double()
    scale = y.square().mean().sqrt()
    x, y = x / scale, y / scale
    dim = x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / dim + 1) ** 3

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return float(off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean())


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair of model images `(B, 3, H, W)`, dB, `(B,)`."""
    return 10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3)).clamp_min(1e-12))


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def _rows(dataset: ImageDataset) -> np.ndarray[Any, Any]:
    return np.arange(min(len(dataset), MAX_IMAGES))


@torch.no_grad()
def _features(encoder: Encoder, dataset: ImageDataset) -> Tensor:
    device = _device(encoder)
    rows = _rows(dataset)
    batches = np.array_split(rows, max(1, len(rows) // BATCH))
    return torch.cat([encoder.embed(to_model(dataset.images(part), device)).cpu() for part in batches])


def _held_out(dataset: ImageDataset, data_root: str | None) -> ImageDataset:
    return load_dataset(dataset.name, "test", data_root=data_root)


def measure_encoder(encoder: Encoder, dataset: ImageDataset, data_root: str | None) -> dict[str, Any]:
    """Return the 5-NN accuracy (cosine, backbone features) of the test split against the training split."""
    test = _held_out(dataset, data_root)
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
    """Return the kernel distance between samples (ψ 1, fixed noise) and training images, and train–test."""
    device = _device(generator)
    real = _features(encoder, dataset)
    test = _features(encoder, _held_out(dataset, data_root))
    samples = []
    for start in range(0, len(real), BATCH):
        count = min(BATCH, len(real) - start)
        z = addressed_normal((count, generator.config.style_dim), "quality", start).to(device)
        samples.append(encoder.embed(to_model(to_storage(generator(z)))).cpu())
    fake = torch.cat(samples)
    return {
        "kernel_distance": round(kernel_distance(fake, real), 6),
        "kernel_distance_train_test": round(kernel_distance(test, real), 6),
        "kernel_distance_features": "backbone of the viewgen encoder named under depends",
        "samples": len(fake),
    }


@torch.no_grad()
def measure_inverter(
    inverter: Inverter, generator: Generator, encoder: Encoder | None, dataset: ImageDataset, data_root: str | None
) -> dict[str, Any]:
    """Return PSNR and feature distance ‖f(x) − f(g(e(x)))‖ of unrefined reconstructions, train and test split."""
    device = _device(generator)
    measured: dict[str, Any] = {}
    for name, part in (("train", dataset), ("test", _held_out(dataset, data_root))):
        ratios, distances = [], []
        rows = _rows(part)
        for batch in np.array_split(rows, max(1, len(rows) // BATCH)):
            x = to_model(part.images(batch), device)
            reconstruction = generator.synthesis(inverter(x)).clamp(-1, 1)
            ratios.append(psnr(reconstruction, x).cpu())
            if encoder is not None:
                distances.append((encoder(reconstruction) - encoder(x)).norm(dim=1).cpu())
        measured[f"psnr_{name}_db"] = round(float(torch.cat(ratios).mean()), 2)
        if distances:
            measured[f"feature_distance_{name}"] = round(float(torch.cat(distances).mean()), 4)
    return measured
