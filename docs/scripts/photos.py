"""Makes a folder of 160 pictures, eight classes of 20: ``python docs/scripts/photos.py FOLDER``.

They are random squares of the sample photographs of scikit-image and scikit-learn, scaled to 48 px, a class
each photograph. ``--whole 128`` writes ten whole photographs instead, whose shorter side has 128 px. Needs
``pip install scikit-image scikit-learn pooch``, which fetches some of them.
"""

from pathlib import Path

import click
import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

NUM_EACH, SIDE, SMALLEST, LARGEST = 20, 48, 96, 200


def photographs() -> dict[str, np.ndarray]:
    """Return class → photograph, uint8 `(H, W, 3)`."""
    found = {
        "astronaut": skimage.data.astronaut(),
        "cat": skimage.data.chelsea(),
        "coffee": skimage.data.coffee(),
        "rocket": skimage.data.rocket(),
        "retina": skimage.data.retina()[..., :3],
        "hubble": skimage.data.hubble_deep_field(),
    }
    return found | dict(zip(("china", "flower"), load_sample_images().images, strict=True))


def write_whole(folder: Path, side: int) -> None:
    """Write ten photographs, scaled so that the shorter side has `side` px."""
    more = {"tissue": skimage.data.immunohistochemistry(), "motorcycle": skimage.data.stereo_motorcycle()[0]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, photograph in {**photographs(), **more}.items():
        picture = Image.fromarray(photograph).convert("RGB")
        factor = side / min(picture.size)
        width, height = (round(length * factor) for length in picture.size)
        picture.resize((width, height), Image.Resampling.LANCZOS).save(folder / f"{name}.png")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--whole", type=click.IntRange(min=32), help="Whole photographs of this shorter side.")
def main(folder: Path, whole: int | None) -> None:
    """Write the pictures, a sub-folder for each class."""
    if whole is not None:
        write_whole(folder, whole)
        return
    random = np.random.default_rng(0)
    for name, photograph in photographs().items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(NUM_EACH):
            side = int(random.integers(SMALLEST, LARGEST))
            top, left = (int(random.integers(0, length - side)) for length in photograph.shape[:2])
            square = Image.fromarray(photograph[top : top + side, left : left + side])
            square.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / name / f"{number:02}.png")


if __name__ == "__main__":
    main()
