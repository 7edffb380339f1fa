"""How fast a training loop gets its batches: views of a cache beside pictures in files.

32-pixel crops of scikit-learn's sample photos stand for images and views, 8 views of each image. Every
contender makes batches of 256 images in shuffled order, two random views of each as uint8 tensors, through a
`DataLoader` in this process and with two worker processes:

- "ViewDataset" and "ViewStream" read a cache;
- "views as files" reads the same views from PNG files, two of the eight of each image;
- "ImageFolder" is torchvision's, on the original images as PNG files. It reads one picture of an image, not
  two, and no view: what a training pays before it has made its own views.

A round times one epoch of each contender, one after the other; files are read from the page cache.

    python benchmarks/loading.py
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import interleave, row, write_result
from numpy.typing import NDArray
from PIL import Image
from random_cache import write_random_cache
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import viewgen
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.store import CacheReader

BATCH = 256
NUM_VIEWS, DRAWN = 8, 2
OURS = "ViewDataset"
IMAGES_ALONE = "ImageFolder"


class ViewFiles(Dataset[Tensor]):
    """Two views of an image, read from the PNG files ``ROW/VIEW.png``, `(2, C, H, W)`."""

    def __init__(self, folder: Path, num_images: int) -> None:
        self.folder, self.num_images = folder, num_images

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, position: int) -> Tensor:
        chosen = torch.randperm(NUM_VIEWS)[:DRAWN].tolist()
        return torch.stack([read_png(self.folder / str(position) / f"{view}.png") for view in chosen])


def read_png(path: Path) -> Tensor:
    """Return a picture, uint8 `(C, H, W)`."""
    with Image.open(path) as picture:
        return to_tensor(picture.convert("RGB"))


def to_tensor(picture: Image.Image) -> Tensor:
    """Return a decoded picture, uint8 `(C, H, W)`."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def photo_crops(count: int, size: int) -> NDArray[np.uint8]:
    """Return random square crops of the sample photos, uint8 `(count, 3, size, size)`."""
    photos = [np.asarray(photo).transpose(2, 0, 1) for photo in load_sample_images().images]
    random = np.random.default_rng(0)
    crops = np.empty((count, 3, size, size), np.uint8)
    for place in range(count):
        photo = photos[place % len(photos)]
        top, left = (int(random.integers(side - size + 1)) for side in photo.shape[1:])
        crops[place] = photo[:, top : top + size, left : left + size]
    return crops


def write_inputs(folder: Path, num_images: int, size: int) -> None:
    """Write the cache, its views as files, and one picture of each image for `ImageFolder`."""
    crops = photo_crops(num_images * NUM_VIEWS, size).reshape(num_images, NUM_VIEWS, 3, size, size)
    write_random_cache(
        folder / "cache", num_images, image_size=size, num_views=NUM_VIEWS, given={"views": crops}
    )
    for place, views in enumerate(crops):
        for view, pixels in enumerate(views):
            _write_png(folder / "views" / str(place) / f"{view}.png", pixels)
        # two classes, as ImageFolder wants directories of them
        _write_png(folder / "images" / f"class{place % 2}" / f"{place}.png", views[0])


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)


def contenders(folder: Path, num_images: int, num_workers: int) -> dict[str, Callable[[], int]]:
    """Return contender → function that reads one epoch and returns the number of images in it."""
    url = str(folder / "cache")
    loaders: dict[str, DataLoader[Any]] = {}
    image_folder = import_torchvision("datasets").ImageFolder(str(folder / "images"), transform=to_tensor)
    map_style: dict[str, Dataset[Any]] = {
        OURS: viewgen.ViewDataset(url, views=DRAWN),
        "views as files": ViewFiles(folder / "views", num_images),
        IMAGES_ALONE: image_folder,
    }
    options: dict[str, Any] = {
        "batch_size": BATCH,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
    }
    for name, dataset in map_style.items():
        loaders[name] = DataLoader(dataset, shuffle=True, **options)
    loaders["ViewStream"] = DataLoader(viewgen.ViewStream(url, views=DRAWN), **options)

    def epoch(loader: DataLoader[Any]) -> Callable[[], int]:
        return lambda: sum(len(pixels_of(batch)) for batch in loader)

    return {name: epoch(loader) for name, loader in loaders.items()}


def pixels_of(batch: Any) -> Tensor:
    """Return the pixels of a loader's batch, whatever else it holds."""
    if isinstance(batch, dict):
        return torch.as_tensor(batch["views"])
    return torch.as_tensor(batch[0] if isinstance(batch, list) else batch)


def check_values(folder: Path, num_images: int) -> None:
    """AssertionError unless the files hold the views of the cache, and every epoch all images."""
    reader = CacheReader(str(folder / "cache"))
    for place in range(0, num_images, max(1, num_images // 8)):
        for view in range(NUM_VIEWS):
            found = read_png(folder / "views" / str(place) / f"{view}.png").numpy()
            if not np.array_equal(found, reader.views(place, view)):
                raise AssertionError(f"view {view} of image {place} is another in its file")
    for name, epoch in contenders(folder, num_images, 0).items():
        if (count := epoch()) != num_images:
            raise AssertionError(f"an epoch of {name} has {count} images, not {num_images}")


def quality(name: str) -> str:
    """Return what else differs between a contender and ViewDataset, in a few words."""
    return "one original of each image, no view" if name == IMAGES_ALONE else "the same views"


@click.command()
@click.option("--images", default=4096, show_default=True, help="Images of an epoch, 8 views of each.")
@click.option("--size", default=32, show_default=True, help="Their side in pixels.")
@click.option("--rounds", default=10, show_default=True, help="Rounds of all contenders.")
def main(images: int, size: int, rounds: int) -> None:
    """Measure, print a table and write the result file."""
    ratios = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, images, size)
        check_values(folder, images)
        for num_workers in (0, 2):
            where = f"{num_workers} workers" if num_workers else "in the process"
            seconds = interleave(contenders(folder, images, num_workers), rounds)
            click.echo(where)
            for contender, values in seconds.items():
                text = f"  {contender:16} {images / statistics.median(values):10,.0f} images/s"
                if contender != OURS:
                    found = row(values, seconds[OURS], quality=quality(contender))
                    ratios[f"{where}: {contender} / {OURS}"] = found
                    text += f"   ratio {found['median']:6.2f} ({found['low']:.2f} … {found['high']:.2f})"
                click.echo(text)
    write_result("loading", {"ratios": ratios, "images": images, "size": size}, ("numpy", "pillow", "torch"))


if __name__ == "__main__":
    main()
