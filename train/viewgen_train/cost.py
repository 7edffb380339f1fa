"""Cost of a training, estimated from a few measured steps on random images on this machine."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset, list_datasets, load_dataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.errors import MissingFileError
from viewgen.registry import Choice
from viewgen.views import VIEWS
from viewgen_train.distributed import World
from viewgen_train.loader import ImageMemory, ViewMemory
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.sampler import FullOrder
from viewgen_train.settings import TrainSettings
from viewgen_train.trainer import AssimilationTrainer
from viewgen_train.worker import Stored, build_source

__all__ = ["TrainEstimate", "estimate", "image_counts", "random_images", "random_trainer", "saved_bytes"]

SMALLEST_BATCH, LARGEST_CPU_BATCH = 4, 64
ENOUGH_SECONDS = 0.5
TIMED_STEPS = 3
USUAL_CACHED_VIEWS = 8
# needs of a view source whose work is left out → that work
NOT_MEASURED = {
    "generator": "making views from codes, which needs the generator",
    "clips": "rendering the frames of clips",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainEstimate:
    """Estimated time and memory of a training; `without` names the parts left out.

    Attributes:
        seconds: time of all steps, without accuracy measurements and the final evaluation.
        images_per_second: training throughput.
        step_bytes: memory of weights, gradients, momentum and activations of one step on the whole batch.
        data_bytes: memory of images and cached views, if they are held in memory.
        measured_batch: batch size of the timed steps.
        device: measured device.
        without: parts of the work that were not measured, in words.
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
    """Return the number of images of a data set and their side in pixels; avoid loading it if possible."""
    for info in list_datasets(data_root):
        if info.name == dataset and info.image_size is not None and split in info.num_images:
            return info.num_images[split], info.image_size
    loaded = load_dataset(dataset, split, data_root=data_root)
    return len(loaded), loaded.image_size


def estimate(
    settings: TrainSettings,
    *,
    num_images: int,
    image_size: int,
    device: str,
    num_views: int = USUAL_CACHED_VIEWS,
    splitting: Choice[Any] | None = None,
) -> TrainEstimate:
    """Measure a few steps and extrapolate to the training.

    The steps use the whole batch on a GPU and a smaller one on the CPU, where time and memory of activations
    are assumed to grow in proportion to the batch.

    Args:
        settings: settings of the training.
        num_images: number of images of an epoch.
        image_size: side of the images, in pixels.
        device: device to measure on.
        num_views: V, number of views per image in the cache, if the views come from a cache.
        splitting: view source of views of different roles, or None.

    Raises:
        MissingFileError: the data set has no images.
    """
    if num_images < 1:
        raise MissingFileError("there is no image to train on")
    on_gpu = device.startswith("cuda")
    whole = settings.optimiser.batch_size
    groups = settings.objective.build().head.key_groups
    batch_size = whole if on_gpu else min(max(SMALLEST_BATCH, 2 * groups), whole)
    while True:
        seconds, step_bytes = _measure(settings, batch_size, image_size, device, splitting)
        larger = min(4 * batch_size, max(LARGEST_CPU_BATCH, batch_size), whole) // groups * groups
        if on_gpu or seconds > ENOUGH_SECONDS or batch_size >= larger:
            break
        batch_size = larger
    steps = settings.optimiser.num_steps or settings.optimiser.epochs * max(1, num_images // whole)
    needs = settings.views.entry.needs
    views = num_views if "cache" in needs else 0
    return TrainEstimate(
        seconds=steps * whole * seconds / batch_size,
        images_per_second=batch_size / seconds,
        step_bytes=step_bytes,
        data_bytes=num_images * (1 + views) * 3 * image_size**2,
        measured_batch=batch_size,
        device=device,
        without=", ".join(text for need, text in NOT_MEASURED.items() if need in needs),
    )


def random_images(num_images: int, image_size: int, attribute: str | None = None) -> ImageDataset:
    """Return a data set of random images in memory, for measurements.

    Args:
        num_images, image_size: number and side of the images.
        attribute: name of their class attribute; None for ``"class"``.
    """
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_images, 3, image_size, image_size), dtype=np.uint8)
    return ImageDataset(
        name="random",
        split="train",
        image_size=image_size,
        num_classes=1,
        class_names=("random",),
        pixels=MemoryImages(images),
        targets=np.zeros(num_images if attribute is None else (num_images, 1), np.int64),
        attribute_names=() if attribute is None else (attribute,),
    )


def random_trainer(
    settings: TrainSettings,
    num_images: int,
    image_size: int,
    device: torch.device,
    folder: Path,
    memory: ViewMemory | None = None,
    splitting: Choice[Any] | None = None,
) -> AssimilationTrainer:
    """Return a trainer on random images in memory, for measurements; it writes no files.

    Args:
        settings: settings of the training.
        num_images, image_size: number and side of the images.
        device: device of the network.
        folder: folder of the run.
        memory: views of a cache. If None, the images themselves replace a source that needs a cache or a
            generator; their transform costs as much.
        splitting: view source of views of different roles, which replaces a cache of them.
    """
    # an objective that learns one attribute takes as long on any
    attribute = getattr(settings.objective.settings, "attribute", None)
    dataset = random_images(num_images, image_size, attribute)
    order = FullOrder(num_images, settings.optimiser.batch_size, settings.seed)
    if splitting is not None:
        settings = dataclasses.replace(settings, views=splitting)
    elif memory is None and settings.views.entry.needs - {"training"}:
        original = VIEWS.entry("original")
        settings = dataclasses.replace(settings, views=Choice(original, original.settings()))
    objective = build_objective(settings)
    roles = () if splitting is None else splitting.entry.roles
    side = settings.views.entry.side(settings.views.settings, image_size)
    network = build_network(settings, objective.head, side, device, roles=roles)
    stored = Stored(order=order, left=0, memory=memory)
    return AssimilationTrainer(
        network,
        objective,
        ImageMemory(dataset, num_images, device, 1 << 40),
        order,
        build_source(settings, network, World(), device, stored=stored),
        settings,
        identity={},
        world=World(),
        folder=folder,
        splitting=splitting,
        notes={},
    )


def _measure(
    settings: TrainSettings, batch_size: int, image_size: int, device: str, splitting: Choice[Any] | None
) -> tuple[float, int]:
    """Return the seconds of a step of `batch_size` images and the bytes of a step of the whole batch."""
    whole = settings.optimiser.batch_size
    small = settings.change("optimiser", batch_size=batch_size, epochs=1_000_000, num_steps=None)
    small = small.change("diagnostics", knn_every=0, probe_every=0)
    target = torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = random_trainer(small, batch_size, image_size, target, Path(folder), splitting=splitting)
        images = trainer.batch(0)
        parameters = list(trainer.network.parameters())
        activations = saved_bytes(lambda: trainer.network(trainer.views(images)), parameters)
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
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return seconds, 3 * weights + activations * whole // batch_size


def saved_bytes(forward: Callable[[], object], parameters: Sequence[Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without those of the parameters."""
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # as long as it lives, no other has its address
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(size for address, size in sizes.items() if address not in weights)
