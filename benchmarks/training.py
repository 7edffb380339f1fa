"""Images per second of the training loop, and of each of its stages alone: read, transfer, augment, train.

A2 with one cached view per step, by a data set's recipe, on random images of its size: two expert views and
one generated view of every image. On a processor, seconds are processor time of one thread, so that other
work on the machine counts little; on a GPU they are wall-clock seconds between synchronisations.

    python benchmarks/training.py --dataset digits
    python benchmarks/training.py --dataset cifar10 --device cuda
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import write_result

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.malloc import keep_freed_memory
from viewgen.store import (
    CacheReader,
    CacheSpec,
    LocalStorage,
    ShardCommit,
    commit_shard,
    create_cache,
    write_shard,
)
from viewgen_train.augment import expert_batch, transform_generated
from viewgen_train.batches import FullOrder
from viewgen_train.config import TrainConfig, train_config
from viewgen_train.distributed import World
from viewgen_train.estimate import image_counts
from viewgen_train.generated_views import CachedViews
from viewgen_train.network import build_network
from viewgen_train.residence import ImageMemory, ViewMemory, on_device
from viewgen_train.trainer import AssimilationTrainer

NUM_IMAGES, NUM_VIEWS = 2048, 8


def write_cache(folder: Path, image_size: int) -> str:
    """Write a cache of random views and return its URL."""
    spec = CacheSpec(
        dataset={"name": "random"},
        method="random",
        config={},
        models={},
        seed=0,
        num_images=NUM_IMAGES,
        num_views=NUM_VIEWS,
        height=image_size,
        width=image_size,
        shard_images=256,
    )
    storage = LocalStorage(folder)
    create_cache(storage, spec)
    random = np.random.default_rng(0)
    for shard_id in range(spec.num_shards):
        rows = spec.shard_rows(shard_id)
        arrays = {
            name: random.integers(0, 128, (len(rows), *layout.row_shape)).astype(layout.dtype)
            for name, layout in spec.array_layout().items()
        }
        arrays["status"][:] = 1
        arrays["source_index"][:] = rows
        objects = write_shard(storage, spec, shard_id, arrays)
        record = ShardCommit(
            shard_id=shard_id, identity=spec.identity, objects=objects, status=arrays["status"]
        )
        commit_shard(storage, record)
    return str(folder)


def build(config: TrainConfig, image_size: int, device: torch.device, folder: Path) -> AssimilationTrainer:
    """Return the trainer of an A2 training on random images and views."""
    images = np.random.default_rng(1).integers(
        0, 256, (NUM_IMAGES, 3, image_size, image_size), dtype=np.uint8
    )
    dataset = ImageDataset(
        name="random",
        split="train",
        image_size=image_size,
        num_classes=1,
        class_names=("random",),
        pixels=MemoryImages(images),
        targets=np.zeros(NUM_IMAGES, np.int64),
    )
    reader = CacheReader(write_cache(folder / "views.zarr", image_size))
    return AssimilationTrainer(
        build_network(config, image_size, device),
        ImageMemory(dataset, NUM_IMAGES, device, 1 << 40),
        FullOrder(NUM_IMAGES, config.batch_size, config.seed),
        CachedViews(config, reader, NUM_IMAGES, ViewMemory(reader, device, device)),
        config,
        identity={},
        world=World(),
        folder=folder,
        knn=None,
        notes={},
    )


def stages(trainer: AssimilationTrainer) -> dict[str, Callable[[int], object]]:
    """Return stage → function of the step."""
    config, network = trainer.config, trainer.network
    batch = trainer.batch(0)
    views = trainer.views(batch)
    generated = trainer.generated.make(batch)
    host = torch.from_numpy(np.zeros((config.batch_size, *batch.images.shape[1:]), np.uint8))

    def augment(step: int) -> None:
        now = dataclasses.replace(batch, step=step)
        expert_batch(now, "expert", 2, config.expert)
        transform_generated(generated, now, config)

    def forward_backward(_step: int) -> None:
        trainer.optimiser.zero_grad(set_to_none=True)
        trainer._loss(views, network).backward()
        trainer.optimiser.step()

    found: dict[str, Callable[[int], object]] = {
        "read": lambda step: trainer.generated.make(trainer.batch(step)),
        "augment": augment,
        "forward, backward, update": forward_backward,
        "the whole step": trainer.step,
    }
    if batch.images.is_cuda:
        found["transfer of images that are not resident"] = lambda _: on_device(host, trainer.device)
    return found


@click.command()
@click.option("--dataset", default="digits", show_default=True, help="Whose recipe and image size.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--batch-size", type=int, help="Other than the recipe's.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of all stages.")
def main(dataset: str, device: str, batch_size: int | None, rounds: int) -> None:
    """Measure, print a table and write the result file."""
    keep_freed_memory()
    target = torch.device(device)
    on_gpu = target.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    settings: dict[str, Any] = {"precision": "bf16" if on_gpu else "float32", "assimilation": "A2"}
    settings |= {} if batch_size is None else {"batch_size": batch_size}
    # no measurement of accuracy inside the loop
    config = train_config(dataset, settings | {"epochs": 1_000_000, "knn_every": 0})
    _, image_size = image_counts(dataset, "train")

    def clock() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize(target)
        return time.perf_counter()

    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(config, image_size, target, Path(folder))
        work = stages(trainer)
        repeats = 20 if on_gpu else 1
        for round_number in range(rounds + 1):
            for name, run in work.items():
                start = clock()
                for repeat in range(repeats):
                    run(round_number * repeats + repeat)
                if round_number:
                    seconds.setdefault(name, []).append((clock() - start) / repeats)
    speeds = {name: config.batch_size / statistics.median(times) for name, times in seconds.items()}
    result = {
        "dataset": dataset,
        "device": torch.cuda.get_device_name(target) if on_gpu else "one core, processor time",
        "backbone": f"{config.backbone}, width {config.width}",
        "batch_size": config.batch_size,
        "views per image": config.num_expert + config.num_generated,
        "images_per_second": speeds,
    }
    write_result(f"training_{dataset}_{target.type}", result)
    for name, speed in speeds.items():
        click.echo(f"{name:44} {speed:12,.0f} images/s")


if __name__ == "__main__":
    main()
