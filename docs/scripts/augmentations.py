"""Draws docs/augmentations.png and docs/presets.png: each operation of the expert transform, and the presets.

The photograph comes with Matplotlib: Grace Hopper, by James S. Davis, U.S. Navy, in the public domain.

python docs/scripts/augmentations.py
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageOps
from torch import Tensor

from viewgen.views.augmentation import expert_views, num_uniforms
from viewgen.views.blur import gaussian_blur
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig
from viewgen.views.randaugment import OPERATIONS, affine, solarize

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
SIZE = 96
FILL = ExpertConfig().randaugment_fill
MAGNITUDES = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 10.0])
SIGMAS = torch.tensor([0.3, 0.6, 1.0, 1.4, 1.7, 2.0])
THRESHOLDS = (0.9, 0.75, 0.6, 0.5, 0.35, 0.2)
NAMES = ("a", "ab", "abc", "abcd", "abcde", "ad:0.125", "ad:0.5", "ad:1", "simclr", "infomin")
NUM_VIEWS = 10


def operations(picture: Tensor) -> dict[str, tuple[Tensor, list[str]]]:
    """Return operation → views of a picture `(3, H, W)` in [0, 1] by rising strength, and their labels."""
    x = picture.expand(len(MAGNITUDES), -1, -1, -1)
    found = {"blur": (gaussian_blur(x, SIGMAS, 17), [f"σ {value:.1f} px" for value in SIGMAS.tolist()])}
    solarized = torch.stack([solarize(picture, threshold) for threshold in THRESHOLDS])
    found["solarise"] = (solarized, [f"from {threshold:g}" for threshold in THRESHOLDS])
    for name, operation in OPERATIONS.items():
        parameter = operation.parameter(MAGNITUDES / 10)
        if operation.matrix is not None:
            views = affine(x, operation.matrix(parameter, x.shape[-2:]), FILL)
        else:
            assert operation.apply is not None
            views = operation.apply(x, parameter)
        found[name] = (views, [f"{value:.3g}" for value in parameter.tolist()])
    for name in ("autocontrast", "equalize", "invert"):  # without a parameter
        found[name] = (found[name][0][:1], [""])
    return found


def show(axis: plt.Axes, image: Tensor, title: str = "") -> None:
    """Draw an image `(3, H, W)` in [0, 1]."""
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=7, pad=2)


def save(figure: Figure, name: str) -> None:
    """Write a figure with 256 colours, a third of the bytes."""
    data = io.BytesIO()
    figure.savefig(data, dpi=90)
    picture = Image.open(data).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
    picture.save(DOCS / f"{name}.png", optimize=True)


def draw_operations(picture: Tensor) -> None:
    """Draw a row of views for every operation, weak to strong; those without a parameter share a row."""
    rows = operations(picture)
    plain = [name for name, (views, _) in rows.items() if len(views) == 1]
    others = [name for name in rows if name not in plain]
    figure, axes = plt.subplots(len(others) + 1, len(MAGNITUDES) + 1, figsize=(7.4, 16.6))
    for axis in axes.flat:
        axis.set_axis_off()
    show(axes[0, 0], picture, "the image")
    for column, name in enumerate(plain):
        show(axes[0, column + 1], rows[name][0][0], name)
    for number, name in enumerate(others, start=1):
        axes[number, 0].text(0.95, 0.5, name, ha="right", va="center", transform=axes[number, 0].transAxes)
        for column, (view, title) in enumerate(zip(*rows[name], strict=True)):
            show(axes[number, column + 1], view, title)
    figure.subplots_adjust(0.005, 0.003, 0.995, 0.985, 0.06, 0.22)
    save(figure, "augmentations")


def draw_presets(picture: Tensor) -> None:
    """Draw views by each combination; a column has the same random numbers in every row."""
    figure, axes = plt.subplots(len(NAMES) + 1, NUM_VIEWS + 1, figsize=(9.4, 9.6))
    for axis in axes.flat:
        axis.set_axis_off()
    images = picture.expand(NUM_VIEWS, -1, -1, -1)
    lines = {"the image": images[:1]}
    for name in NAMES:
        config = ExpertConfig(**expert_values(name))
        uniforms = torch.rand(NUM_VIEWS, 64, generator=torch.Generator().manual_seed(2))
        views = expert_views(images * 2 - 1, uniforms[:, : num_uniforms(config)], config)
        lines[name] = (views + 1) / 2
    for row, (name, views) in enumerate(lines.items()):
        axes[row, 0].text(0.95, 0.5, name, ha="right", va="center", transform=axes[row, 0].transAxes)
        for column, view in enumerate(views):
            show(axes[row, column + 1], view)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995, 0.05, 0.05)
    save(figure, "presets")


def main() -> None:
    """Draw both pictures."""
    with get_sample_data("grace_hopper.jpg") as file:
        photograph = ImageOps.fit(Image.open(file).convert("RGB"), (SIZE, SIZE), centering=(0.5, 0.15))
    picture = torch.from_numpy(np.asarray(photograph).transpose(2, 0, 1) / np.float32(255))
    draw_operations(picture)
    draw_presets(picture)


if __name__ == "__main__":
    main()
