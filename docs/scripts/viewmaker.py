"""Draws figures/viewmaker.png, views of a trained Viewmaker: ``python docs/scripts/viewmaker.py RUN``.

The run is one with ``--generated viewmaker``.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

from viewgen.datasets import load_dataset
from viewgen.images import to_model, to_storage
from viewgen.networks.files import load_model
from viewgen.networks.viewmaker import num_noise_channels

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURE = Path(__file__).parents[1] / "figures/viewmaker.png"
NUM_IMAGES, NUM_VIEWS = 3, 8


def main() -> None:
    run = Path(sys.argv[1])
    config = json.loads((run / "config.json").read_text())
    viewmaker = load_model(run / "viewmaker.safetensors", "viewmaker")
    images = to_model(load_dataset(config["dataset"]["name"]).images(np.arange(NUM_IMAGES)))
    copies = images.repeat_interleave(NUM_VIEWS, 0)
    noise = torch.rand(
        len(copies), num_noise_channels(), *images.shape[2:], generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        views = to_storage(viewmaker(copies, noise)).reshape(NUM_IMAGES, NUM_VIEWS, *images.shape[1:])
    figure, axes = plt.subplots(NUM_IMAGES, 1 + NUM_VIEWS, figsize=(9.6, 3.4))
    for line, image, row in zip(axes, to_storage(images), views, strict=True):
        for axis, picture in zip(line, (image, *row), strict=True):
            axis.imshow(picture.numpy().transpose(1, 2, 0))
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("image", fontsize=10)
    figure.savefig(FIGURE, dpi=110, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
