"""One process of a training: construction of data, views, network and trainer from a plan."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.registry import lies_elsewhere
from viewgen.errors import CacheMismatchError, DataError, UsageError
from viewgen.files import write_atomically
from viewgen.memory import free_gpu_bytes
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Models, load_model
from viewgen.networks.generator import Generator
from viewgen.progress import Progress
from viewgen.store import CacheReader
from viewgen.views.branched import VIEWS_NOTE
from viewgen.views.entry import TrainingResources
from viewgen.views.scores import load_scores, scores_digest
from viewgen.views.source import ViewScores
from viewgen_train.caches import usable_rows
from viewgen_train.checkpoints import CHECKPOINT
from viewgen_train.curves import CurveWriter
from viewgen_train.diagnostics import KnnSets
from viewgen_train.distributed import World
from viewgen_train.loader import MEMORY_SHARE, Codes, ImageMemory, ShardBuffer, ViewMemory
from viewgen_train.loop import run_training
from viewgen_train.network import ContrastiveNetwork, build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.objective import Objective
from viewgen_train.plan import TrainPlan
from viewgen_train.records import assimilation_name
from viewgen_train.roles import cached_entry
from viewgen_train.run import CONFIG
from viewgen_train.sampler import BlockOrder, FullOrder, RowOrder
from viewgen_train.second_view import second_expert
from viewgen_train.settings import TrainSettings
from viewgen_train.trainer import AssimilationTrainer
from viewgen_train.transform import TransformedSource

__all__ = ["Stored", "build_source", "build_trainer", "train_worker", "write_config"]

# shards of a streamed cache that are shuffled together
BUFFER_SHARDS = 16
LOG_EVERY = 20


def train_worker(
    plan: TrainPlan,
    device: str,
    *,
    checkpoint_seconds: float = 60.0,
    loggers: Sequence[str] = (),
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> float:
    """Run one process of a training, in `World.current()`; all processes need the same arguments.

    Args:
        plan: plan of the training.
        device: torch device of this process.
        checkpoint_seconds: seconds between checkpoints.
        loggers: names of loggers, of `viewgen_train.loggers.LOGGERS`.
        stop_after: step after which to stop as if interrupted.
        progress: display of the progress; by default a bar on standard error.

    Returns:
        training throughput in images per second, over all processes, without evaluation; NaN if no steps
        were left.
    """
    world = World.current()
    folder = Path(plan.out)
    trainer = build_trainer(plan, world, torch.device(device))
    if world.is_main:
        write_config(plan, folder)
    run_training(
        trainer,
        folder,
        folder=folder,
        writes=world.is_main,
        observer=CurveWriter(trainer.steps_per_epoch, loggers),
        checkpoint_seconds=checkpoint_seconds,
        log_every=min(LOG_EVERY, trainer.steps_per_epoch),
        stop_after=stop_after,
        progress=progress,
    )
    return trainer.images_per_second()


def write_config(plan: TrainPlan, folder: Path) -> None:
    """Write a run's ``config.json``, unless the run has started."""
    path = folder / CONFIG
    # another training's configuration must not be replaced: its identity is checked by the session
    if path.exists() and (folder / CHECKPOINT).exists():
        return
    write_atomically(path, _config_text(plan), sole_writer=True)


def _config_text(plan: TrainPlan) -> bytes:
    return (json.dumps(plan.document(), indent=1) + "\n").encode()


def build_trainer(plan: TrainPlan, world: World, device: torch.device) -> AssimilationTrainer:
    """Return the trainer of a plan, with its network, data and views."""
    settings = plan.settings
    dataset = load_dataset(plan.dataset, plan.split, data_root=plan.data_root)
    if dataset.digest != plan.digest:
        raise DataError(
            f"{plan.dataset} {plan.split} has changed since the training was planned; start it again"
        )
    objective = build_objective(settings)
    network = build_network(
        settings,
        objective.head,
        plan.view_size or dataset.image_size,
        device,
        channels=dataset.channels,
        roles=plan.roles,
    )
    stored = _stored(plan, device, plan.memory_bytes // world.size)
    generator = None
    if plan.generator is not None:
        generator = load_model(plan.generator, "generator", device)
    source = build_source(
        settings, network, world, device, generator=generator, stored=stored, dataset=dataset
    )
    if source.networks():
        _refuse_without_gradient(settings, objective)
    images = ImageMemory(dataset, plan.num_images, device, stored.left)
    return AssimilationTrainer(
        network,
        objective,
        images,
        stored.order,
        source,
        settings,
        identity={"dataset": plan.digest, "num_images": plan.num_images, **stored.identity},
        world=world,
        folder=Path(plan.out),
        codes=stored.codes,
        knn=_knn_sets(plan, dataset) if plan.measures and plan.view_size is None else None,
        splitting=plan.splitting,
        notes={
            "dataset": plan.dataset,
            "training": {"assimilation": assimilation_name(settings), "seed": settings.seed},
            **({} if plan.splitting is None else {VIEWS_NOTE: plan.splitting.record()}),
        },
        files={CONFIG: hashlib.sha256(_config_text(plan)).hexdigest()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Cached data of a training, and a matching order of images.

    Attributes:
        order: order of images that matches the access to the cache.
        left: remaining memory for images, in bytes.
        memory: views of a cache, or None.
        codes: codes of a cache of inversions, or None.
        scores: scores of the views, if the settings use any.
        joint: True if the views of an image in the cache are transformed alike.
        identity: JSON values that determine the views.
    """

    order: RowOrder
    left: int
    memory: ViewMemory | ShardBuffer | None = None
    codes: Codes | None = None
    scores: ViewScores | None = None
    joint: bool = False
    identity: dict[str, Any] = field(default_factory=dict)


def build_source(
    settings: TrainSettings,
    network: ContrastiveNetwork,
    world: World,
    device: torch.device,
    *,
    generator: Generator | None = None,
    stored: Stored | None = None,
    dataset: ImageDataset | None = None,
) -> TransformedSource:
    """Return the source of generated views, wrapped in the training's transform.

    Args:
        settings: settings of the training.
        network: network whose encoder is trained.
        world: rank of this process and number of processes.
        device: device of the views.
        generator: generator g, if the source needs it.
        stored: cached views and codes, if the source needs them.
        dataset: images of the training, if the source renders frames of them.
    """
    memory, codes = (None, None) if stored is None else (stored.memory, stored.codes)
    encoder = network.encoder if isinstance(network.encoder, Encoder) else None
    resources = TrainingResources(
        models=Models(device=device, generator=generator, encoder=encoder),
        dataset=dataset,
        memory=memory,
        scores=None if stored is None else stored.scores,
        average_gradients=world.average_gradients,
        roles=network.roles,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed + 1)
        source = settings.views.build(resources)
    missing = None if codes is None else codes.missing
    entry = settings.views.entry
    return TransformedSource(
        source,
        settings.assimilation.transform,
        settings.expert,
        missing,
        before=bool(entry.roles),
        alike=entry.joint or (stored is not None and stored.joint),
        # of A2 the second view is one of the expert's, which the trainer makes
        second=second_expert(settings.expert, settings.second)
        if settings.assimilation.kind == "none"
        else None,
    )


def _refuse_without_gradient(settings: TrainSettings, objective: Objective) -> None:
    """Refuse views that learn from the loss where it has no gradient to them: keys of MoCo have none."""
    as_keys = settings.assimilation.kind == "A2" and settings.objective.name == "moco"
    if as_keys or (objective.head.one_sided and objective.num_expert):
        change = "choose A1 with symmetric=true" if as_keys else "set symmetric=true"
        raise UsageError(
            f"{settings.views.name} views learn from the gradient of the loss, and objective "
            f"{settings.objective.name!r} has none to its keys, the generated views; {change}, or choose "
            "another --objective"
        )


def _stored(plan: TrainPlan, device: torch.device, host_bytes: int) -> Stored:
    """Return the cached data for the source of generated views, and the order of images."""
    settings, num_images, needs = plan.settings, plan.num_images, plan.settings.views.entry.needs
    batch_size = settings.optimiser.batch_size
    full = FullOrder(num_images, batch_size, settings.seed)
    free = int(MEMORY_SHARE * free_gpu_bytes(device)) if device.type == "cuda" else host_bytes
    if plan.cache is None:
        return Stored(order=full, left=free)
    statuses = usable_rows("inversions" in needs or plan.use_unconverged)
    reader = CacheReader(plan.cache["url"], plan.storage_options, statuses=statuses)
    spec = reader.spec
    if spec.identity != plan.cache["identity"]:
        raise CacheMismatchError(f"{reader.url} has changed since the training was planned; start it again")
    if "inversions" in needs:
        codes = Codes(reader, num_images, device, free)
        return Stored(order=full, left=free - codes.held_bytes, codes=codes)
    missing = num_images - int((reader.rows < num_images).sum())
    identity = {"cache": spec.identity, "missing": missing}
    made_by = cached_entry(spec)
    joint = made_by is not None and made_by.joint
    scores = load_scores(reader, settings.views.settings, plan.storage_options)
    if scores is not None:
        identity["scores"] = scores_digest(scores)
    size = spec.num_images * spec.num_views * spec.channels * spec.height * spec.width
    if size <= host_bytes:
        # on the device if it has room, otherwise in the host's memory
        on_device = size <= free
        held = ViewMemory(reader, device if on_device else torch.device("cpu"), device)
        return Stored(
            order=full,
            left=free - size * on_device,
            memory=held,
            scores=scores,
            joint=joint,
            identity=identity,
        )
    blocks = BlockOrder(
        num_images,
        batch_size,
        settings.seed,
        shard_images=spec.shard_images,
        buffer_shards=BUFFER_SHARDS,
    )
    buffer = ShardBuffer(reader, 2 * BUFFER_SHARDS + 2, device)
    return Stored(order=blocks, left=0, memory=buffer, scores=scores, joint=joint, identity=identity)


def _knn_sets(plan: TrainPlan, dataset: ImageDataset) -> KnnSets | None:
    """Return the data sets of the accuracy measurements; None if images have neither classes nor reals."""
    if not _labelled(dataset):
        return None
    most = plan.settings.diagnostics.knn_images
    try:
        # a hub for example has its test images where it has the others
        elsewhere = lies_elsewhere(plan.dataset, plan.data_root)
        test = load_dataset(plan.dataset, "test", data_root=plan.data_root, download=elsewhere)
    except (UsageError, FileNotFoundError, DataError):
        return KnnSets(train=dataset, test=None, max_images=most)
    other = test if _labelled(test) and plan.split != "test" else None
    return KnnSets(train=dataset, test=other, max_images=most)


def _labelled(dataset: ImageDataset) -> bool:
    return len(dataset) > 1 and (
        dataset.has_classes or (bool(dataset.real_names) and not dataset.num_classes)
    )
