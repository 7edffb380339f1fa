"""One process of a training: data, views, network and session of a plan."""

import json
from pathlib import Path
from typing import cast

import torch

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import CacheMismatchError, DataError, UsageError
from viewgen.files import write_atomically
from viewgen.memory import free_gpu_bytes
from viewgen.networks.files import load_model
from viewgen.networks.stylegan2 import Generator
from viewgen.store import CacheReader
from viewgen_train.code_views import Codes, OnlineViews, PerturbedViews
from viewgen_train.curves import CurveWriter
from viewgen_train.distributed import World
from viewgen_train.generated_views import CachedViews, ExpertViews, GeneratedViews, ViewmakerViews
from viewgen_train.loader import MEMORY_SHARE, ImageMemory, ShardBuffer, ViewMemory
from viewgen_train.loop import CHECKPOINT, run_training
from viewgen_train.network import ContrastiveNetwork, build_network
from viewgen_train.plan import TrainPlan
from viewgen_train.run import CONFIG
from viewgen_train.sampler import BlockOrder, FullOrder, RowOrder
from viewgen_train.trainer import AssimilationTrainer, KnnSets

__all__ = ["build_trainer", "train_worker"]

# shards of a streamed cache that are shuffled together
BUFFER_SHARDS = 16
LOG_EVERY = 20


def train_worker(
    plan: TrainPlan,
    device: str,
    *,
    checkpoint_seconds: float = 60.0,
    stop_after: int | None = None,
) -> float:
    """Train, as one of the processes of `World.current()`; the arguments are the same in all of them.

    Args:
        plan: what is trained.
        device: of this process.
        checkpoint_seconds: pause between checkpoints.
        stop_after: stop after this step as if interrupted.

    Returns:
        images trained on per second, over all processes, without evaluation; NaN if none were left to do.
    """
    world = World.current()
    folder = Path(plan.out)
    trainer = build_trainer(plan, world, torch.device(device))
    if world.is_main:
        _write_config(plan, folder)
    run_training(
        trainer,
        folder,
        folder=folder,
        writes=world.is_main,
        observer=CurveWriter(trainer.steps_per_epoch),
        checkpoint_seconds=checkpoint_seconds,
        log_every=min(LOG_EVERY, trainer.steps_per_epoch),
        stop_after=stop_after,
    )
    return trainer.images_per_second()


def _write_config(plan: TrainPlan, folder: Path) -> None:
    path = folder / CONFIG
    # another training's configuration must not be replaced: its identity is checked by the session
    if path.exists() and (folder / CHECKPOINT).exists():
        return
    write_atomically(path, (json.dumps(plan.document(), indent=1) + "\n").encode(), sole_writer=True)


def build_trainer(plan: TrainPlan, world: World, device: torch.device) -> AssimilationTrainer:
    """Return the trainer of a plan: network, data, views."""
    config = plan.config
    dataset = load_dataset(plan.dataset, plan.split, data_root=plan.data_root)
    if dataset.digest != plan.digest:
        raise DataError(
            f"{plan.dataset} {plan.split} has changed since the training was planned; start it again"
        )
    network = build_network(config, dataset.image_size, device)
    host_bytes = plan.memory_bytes // world.size
    generated, order, left = _generated(plan, dataset, network, device, host_bytes)
    images = ImageMemory(dataset, plan.num_images, device, left)
    return AssimilationTrainer(
        network,
        images,
        order,
        generated,
        config,
        identity={
            "dataset": plan.digest,
            "num_images": plan.num_images,
            "config": config.to_json(),
        },
        world=world,
        folder=Path(plan.out),
        knn=_knn_sets(plan, dataset),
        notes={
            "dataset": plan.dataset,
            "training": {"assimilation": config.assimilation, "seed": config.seed},
        },
    )


def _generated(
    plan: TrainPlan,
    dataset: ImageDataset,
    network: ContrastiveNetwork,
    device: torch.device,
    host_bytes: int,
) -> tuple[GeneratedViews, RowOrder, int]:
    """Return the source of generated views, the order of images that suits it, and the memory left."""
    config, num_images = plan.config, plan.num_images
    full = FullOrder(num_images, config.batch_size, config.seed)
    free = int(MEMORY_SHARE * free_gpu_bytes(device)) if device.type == "cuda" else host_bytes
    if config.generated == "expert":
        return ExpertViews(config, num_images), full, free
    if config.generated == "viewmaker":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            return ViewmakerViews(config, num_images, device), full, free
    assert plan.cache is not None
    reader = CacheReader(plan.cache["url"], plan.storage_options)
    spec = reader.spec
    if spec.identity != plan.cache["identity"]:
        raise CacheMismatchError(f"{reader.url} has changed since the training was planned; start it again")
    if config.generated == "cache":
        size = spec.num_images * spec.num_views * 3 * spec.height * spec.width
        if size <= host_bytes:
            # on the device if it has room, otherwise in the host's memory
            on_device = size <= free
            held = device if on_device else torch.device("cpu")
            memory = ViewMemory(reader, held, device)
            return CachedViews(config, reader, num_images, memory), full, free - size * on_device
        blocks = BlockOrder(
            num_images,
            config.batch_size,
            config.seed,
            shard_images=spec.shard_images,
            buffer_shards=BUFFER_SHARDS,
        )
        buffer = ShardBuffer(reader, 2 * BUFFER_SHARDS + 2, device)
        return CachedViews(config, reader, num_images, buffer), blocks, 0
    assert plan.generator is not None
    g = cast(Generator, load_model(plan.generator, "generator", device))
    codes = Codes(reader, num_images, device, free)
    if config.generated == "online":
        return OnlineViews(config, codes, g, network.encoder, num_images), full, free - codes.held_bytes
    return PerturbedViews(config, codes, g, num_images), full, free - codes.held_bytes


def _knn_sets(plan: TrainPlan, dataset: ImageDataset) -> KnnSets | None:
    """Return what accuracy is measured on; None where images have no labels."""
    if not _labelled(dataset):
        return None
    try:
        test = load_dataset(plan.dataset, "test", data_root=plan.data_root, download=False)
    except (UsageError, FileNotFoundError, DataError):
        return KnnSets(train=dataset, test=None)
    return KnnSets(train=dataset, test=test if _labelled(test) and plan.split != "test" else None)


def _labelled(dataset: ImageDataset) -> bool:
    return len(dataset) > 1 and bool((dataset.targets >= 0).all())
