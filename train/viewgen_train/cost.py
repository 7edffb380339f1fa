"""What a training would cost, from a few steps measured on this machine on random images."""

import dataclasses
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset, list_datasets, load_dataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.errors import MissingFileError
from viewgen.images import to_model
from viewgen_train.batch import StepBatch
from viewgen_train.config import TrainConfig
from viewgen_train.distributed import World
from viewgen_train.generated_views import ExpertViews, GeneratedViews, ViewmakerViews
from viewgen_train.loader import ImageMemory
from viewgen_train.network import build_network
from viewgen_train.sampler import FullOrder
from viewgen_train.trainer import AssimilationTrainer

__all__ = ["TrainEstimate", "estimate", "image_counts", "random_trainer"]

SMALLEST_BATCH, LARGEST_CPU_BATCH = 4, 64
ENOUGH_SECONDS = 0.5
TIMED_STEPS = 3
USUAL_CACHED_VIEWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainEstimate:
    """Time and memory of a training; what it leaves out is named in `without`.

    Attributes:
        seconds: of all steps, without the accuracy on the way and the evaluation at the end.
        images_per_second: trained on.
        step_bytes: weights, gradients, momentum and activations of one step at the whole batch.
        data_bytes: images and cached views, if they are held in memory.
        measured_batch: images of the steps that were timed.
        device: that was measured.
        without: parts of the work that were not measured.
    """

    seconds: float
    images_per_second: float
    step_bytes: int
    data_bytes: int
    measured_batch: int
    device: str
    without: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self)


def image_counts(dataset: str, split: str, data_root: str | None = None) -> tuple[int, int]:
    """Return a data set's number of images and their side, without loading it where that is possible."""
    for info in list_datasets(data_root):
        if info.name == dataset and info.image_size is not None and split in info.num_images:
            return info.num_images[split], info.image_size
    loaded = load_dataset(dataset, split, data_root=data_root)
    return len(loaded), loaded.image_size


class _AnyViews(GeneratedViews):
    """Images in the place of cached views, which cost as much to transform."""

    def make(self, batch: StepBatch) -> Tensor:
        return to_model(batch.images).expand(self.config.num_generated, -1, -1, -1, -1)


def estimate(
    config: TrainConfig, *, num_images: int, image_size: int, device: str, num_views: int = USUAL_CACHED_VIEWS
) -> TrainEstimate:
    """Measure a few steps and scale them up.

    On a GPU the steps have the whole batch; on a processor a smaller one, and time and activations are taken
    to grow in proportion.

    Args:
        config: of the training.
        num_images: of an epoch.
        image_size: side of the images, in pixels.
        device: to measure on.
        num_views: V of the cache, where views come from one.

    Raises:
        MissingFileError: the data set has no image.
    """
    if num_images < 1:
        raise MissingFileError("there is no image to train on")
    on_gpu = device.startswith("cuda")
    batch_size = config.batch_size if on_gpu else min(SMALLEST_BATCH, config.batch_size)
    while True:
        seconds, step_bytes = _measure(config, batch_size, image_size, device)
        if on_gpu or seconds > ENOUGH_SECONDS or batch_size >= min(LARGEST_CPU_BATCH, config.batch_size):
            break
        batch_size = min(4 * batch_size, LARGEST_CPU_BATCH, config.batch_size)
    images = config.epochs * max(1, num_images // config.batch_size) * config.batch_size
    from_codes = config.generated in ("wperturb", "online")
    views = num_views if config.generated == "cache" else 0
    return TrainEstimate(
        seconds=images * seconds / batch_size,
        images_per_second=batch_size / seconds,
        step_bytes=step_bytes,
        data_bytes=num_images * (1 + views) * 3 * image_size**2,
        measured_batch=batch_size,
        device=device,
        without="making views from codes, which needs the generator" if from_codes else "",
    )


def random_trainer(
    config: TrainConfig,
    num_images: int,
    image_size: int,
    source: GeneratedViews,
    device: torch.device,
    folder: Path,
) -> AssimilationTrainer:
    """Return a trainer on random images, held in memory; it is for measurements and writes nothing.

    Args:
        config: of the training.
        num_images, image_size: of the images.
        source: of generated views.
        device: of the network.
        folder: of the run.
    """
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, 3, image_size, image_size), dtype=np.uint8)
    dataset = ImageDataset(
        name="random",
        split="train",
        image_size=image_size,
        num_classes=1,
        class_names=("random",),
        pixels=MemoryImages(images),
        targets=np.zeros(num_images, np.int64),
    )
    return AssimilationTrainer(
        build_network(config, image_size, device),
        ImageMemory(dataset, num_images, device, 1 << 40),
        FullOrder(num_images, config.batch_size, config.seed),
        source,
        config,
        identity={},
        world=World(),
        folder=folder,
        knn=None,
        notes={},
    )


def _measure(config: TrainConfig, batch_size: int, image_size: int, device: str) -> tuple[float, int]:
    """Return the seconds of one step of `batch_size` images, and the bytes of one of `config.batch_size`."""
    small = dataclasses.replace(config, batch_size=batch_size, knn_every=0, probe_every=0, epochs=1_000_000)
    target = torch.device(device)
    source: GeneratedViews
    if config.generated == "viewmaker":
        source = ViewmakerViews(small, batch_size, target)
    else:
        source = (ExpertViews if config.generated == "expert" else _AnyViews)(small, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = random_trainer(small, batch_size, image_size, source, target, Path(folder))
        activations = _saved_bytes(trainer)
        if target.type == "cuda":
            torch.cuda.reset_peak_memory_stats(target)
        seconds = math.inf
        for step in range(1 + TIMED_STEPS):
            started = time.perf_counter()
            float(trainer.step(step)["loss"])  # waits for the device
            if step:
                seconds = min(seconds, time.perf_counter() - started)
    if target.type == "cuda":
        return seconds, torch.cuda.max_memory_allocated(target)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.network.parameters())
    return seconds, 3 * weights + activations * config.batch_size // batch_size


def _saved_bytes(trainer: AssimilationTrainer) -> int:
    """Return the bytes that a forward pass keeps for the backward pass."""
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # as long as it lives, no other has its address
        return tensor

    parameters = {parameter.untyped_storage().data_ptr() for parameter in trainer.network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.network(trainer.views(trainer.batch(0)))
    return sum(size for address, size in sizes.items() if address not in parameters)
