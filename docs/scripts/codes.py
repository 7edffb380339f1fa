"""Draws figures/inversion.png and figures/online.png from the weights for digits that ship.

python docs/scripts/codes.py
"""

import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch

from viewgen.datasets import load_dataset
from viewgen.images import to_model, to_storage
from viewgen.networks.files import Models, load_models
from viewgen.networks.weights import find_models
from viewgen.store import CacheReader
from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.wsearch.loss import boundary_uniformity_loss
from viewgen.views.wsearch.settings import WSearchConfig
from viewgen_pipelines.cache import cache

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parents[1] / "figures"
NUM_IMAGES = 10
NUM_VIEWS = 8
STEPS = (0.01, 0.02, 0.05, 0.1)  # of the online variant; the last, drawn, is that of `viewgen train`


def invert() -> tuple[np.ndarray, torch.Tensor]:
    """Return refined reconstructions, uint8 `(N, 3, 32, 32)`, and codes `(N, L, D)` of the first images."""
    with tempfile.TemporaryDirectory() as folder:
        result = cache(
            "digits", method="invert", limit=NUM_IMAGES, out=f"{folder}/i.zarr", executor="local", quiet=True
        )
        reader = CacheReader(result.url)
        rows = np.arange(NUM_IMAGES)
        return reader.views(rows, view_index=0), torch.from_numpy(reader.array("anchor_w_plus", rows))


def draw_inversion(models: Models, refined: np.ndarray) -> None:
    """Images, what the inverter alone makes of them, and the refined codes' images."""
    images = load_dataset("digits").images(np.arange(NUM_IMAGES))
    with torch.no_grad():
        alone = to_storage(models.generator.synthesis(models.inverter(to_model(images)))).numpy()
    figure, axes = plt.subplots(3, NUM_IMAGES, figsize=(9.6, 3.3))
    for line, (title, pictures) in zip(
        axes, (("image", images), ("inverter\nalone", alone), ("refined", refined)), strict=True
    ):
        error = np.square(np.float32(pictures) - np.float32(images)).mean(axis=(1, 2, 3))
        for axis, picture, square in zip(line, pictures, error, strict=True):
            axis.imshow(picture.transpose(1, 2, 0))
            axis.set(xticks=[], yticks=[])
            if square:
                axis.set_xlabel(f"{10 * np.log10(255**2 / square):.0f} dB", fontsize=8, labelpad=2)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    save(figure, "inversion")


def draw_online(models: Models, codes: torch.Tensor) -> None:
    """Views after one signed-gradient step on eq. 2, with their distances from the anchor."""
    config = WSearchConfig()
    codes = codes[:3]
    noise = torch.randn(len(codes), NUM_VIEWS, *codes.shape[1:], generator=torch.Generator().manual_seed(0))
    start = codes[:, None] + config.init_noise * noise
    anchors = models.generator.synthesis(codes).clamp(-1, 1)
    anchor_features = models.encoder(anchors)[:, None]

    def evaluate(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images = models.generator.synthesis(w.flatten(0, 1)).clamp(-1, 1)
        z = models.encoder(images).unflatten(0, (len(codes), NUM_VIEWS))
        return images, z, (z - anchor_features).norm(dim=2)

    w = start.clone().requires_grad_()
    _, z, distance = evaluate(w)
    (gradient,) = torch.autograd.grad(
        boundary_uniformity_loss(distance, mean_pairwise_distance(z), config).sum(), w
    )
    for step in STEPS:
        with torch.no_grad():
            images, _, distance = evaluate(start - step * gradient.sign())
        low, mean, high = (float(value) for value in (distance.min(), distance.mean(), distance.max()))
        print(f"online, step {step}: distance {mean:.2f}, from {low:.2f} to {high:.2f}")
    figure, axes = plt.subplots(len(codes), 1 + NUM_VIEWS, figsize=(9.6, 3.8))
    pictures = to_storage(images).numpy().reshape(len(codes), NUM_VIEWS, *images.shape[1:])
    for line, anchor, views, distances in zip(
        axes, to_storage(anchors).numpy(), pictures, distance, strict=True
    ):
        for axis, picture in zip(line, (anchor, *views), strict=True):
            axis.imshow(picture.transpose(1, 2, 0))
            axis.set(xticks=[], yticks=[])
        for axis, d in zip(line[1:], distances, strict=True):
            axis.set_xlabel(f"{float(d):.2f}", fontsize=8, labelpad=2)
    axes[0, 0].set_title("anchor", fontsize=10)
    save(figure, "online")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FIGURES / f"{name}.png", dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def main() -> None:
    models = load_models(find_models("digits", ["generator", "inverter", "encoder"]))
    for network in (models.generator, models.inverter, models.encoder):
        network.eval().requires_grad_(False)
    refined, codes = invert()
    draw_inversion(models, refined)
    draw_online(models, codes)


if __name__ == "__main__":
    main()
