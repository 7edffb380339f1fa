"""Draws docs/expert-views.png: expert views beside torchvision's, made with the same random numbers.

python docs/scripts/expert_views.py
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch

from viewgen.datasets import load_dataset
from viewgen.images import to_model
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views.augmentation import CROP_ATTEMPTS, NUM_UNIFORMS, crop_boxes, expert_views
from viewgen.views.color_jitter import ORDERS
from viewgen.views.expert import ExpertConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt

functional = import_torchvision("transforms.v2.functional")
OUT = Path(__file__).parents[1] / "expert-views.png"
CONFIG = ExpertConfig()
NUM_VIEWS = 9
ROWS = (3, 40, 77)


def by_torchvision(image: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return one view `(3, H, W)` in [0, 1] by torchvision's operations, with the parameters in `u`."""
    crops, position, flip, jitter, strengths, order, gray = u[None].split(
        [2 * CROP_ATTEMPTS, 2, 1, 1, 4, 1, 1], dim=1
    )
    size = list(image.shape[1:])
    top, left, height, width = (int(v) for v in crop_boxes(crops, position, *size, CONFIG)[0])
    x = functional.resized_crop(image, top, left, height, width, size, antialias=True)
    if float(flip) < CONFIG.flip_probability:
        x = functional.horizontal_flip(x)
    if float(jitter) < CONFIG.jitter_probability:
        spans = (CONFIG.brightness, CONFIG.contrast, CONFIG.saturation)
        factors = [1 - span + 2 * span * float(s) for span, s in zip(spans, strengths[0], strict=False)]
        turns = (2 * float(strengths[0, 3]) - 1) * CONFIG.hue
        operations = [
            lambda y: functional.adjust_brightness(y, factors[0]),
            lambda y: functional.adjust_contrast(y, factors[1]),
            lambda y: functional.adjust_saturation(y, factors[2]),
            lambda y: functional.adjust_hue(y, turns),
        ]
        for index in ORDERS[int(order * len(ORDERS))].tolist():
            x = operations[index](x)
    if float(gray) < CONFIG.grayscale_probability:
        x = functional.rgb_to_grayscale(x, num_output_channels=3)
    return x


def main() -> None:
    """Draw the picture and print how far the two are apart."""
    images = to_model(load_dataset("trifeature:64").images(np.array(ROWS)))
    u = torch.rand(len(ROWS) * NUM_VIEWS, NUM_UNIFORMS, generator=torch.Generator().manual_seed(4))
    ours = (expert_views(images.repeat_interleave(NUM_VIEWS, 0), u, CONFIG) + 1) / 2
    theirs = torch.stack([by_torchvision((images[i // NUM_VIEWS] + 1) / 2, u[i]) for i in range(len(u))])
    figure, axes = plt.subplots(2 * len(ROWS), NUM_VIEWS + 1, figsize=(10.6, 6.9))
    for axis in axes.flat:
        axis.set_axis_off()
    for row, image in enumerate(images):
        for below, views in enumerate((theirs, ours)):
            line = axes[2 * row + below]
            if below:
                text = "above:\ntorchvision\n\nthis row:\nviewgen"
                line[0].text(
                    0.5, 0.5, text, ha="center", va="center", transform=line[0].transAxes, fontsize=8
                )
            else:
                line[0].imshow(((image + 1) / 2).permute(1, 2, 0).numpy(), interpolation="nearest")
            for view in range(NUM_VIEWS):
                pixels = views[row * NUM_VIEWS + view].permute(1, 2, 0).clamp(0, 1).numpy()
                line[view + 1].imshow(pixels, interpolation="nearest")
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995, 0.05, 0.05)
    figure.savefig(OUT, dpi=80)
    difference = (ours - theirs).abs() * 255
    apart = (
        f"{float(difference.mean()):.1e} grey levels apart on average, {float(difference.max()):.1e} at most"
    )
    print(f"{OUT.name}: {apart}")


if __name__ == "__main__":
    main()
