"""Images per second of the training loop, and of each of its stages alone: read, transfer, augment, train.

A2 with one cached view per step, by a data set's recipe, on random images of its size: two expert views and
one generated view of every image. On a processor, seconds are processor time of one thread, so that other
work on the machine counts little; on a GPU they are wall-clock seconds between synchronisations.

    python benchmarks/training.py
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
from measure import peak_bytes, row, write_result
from random_cache import write_random_cache

from viewgen.memory import keep_freed_memory
from viewgen.store import CacheReader
from viewgen.views.expert import ExpertSource
from viewgen_train.cost import image_counts, random_trainer
from viewgen_train.loader import ViewMemory, on_device
from viewgen_train.resolve import train_settings
from viewgen_train.settings import TrainSettings
from viewgen_train.trainer import AssimilationTrainer

NUM_IMAGES, NUM_VIEWS = 2048, 8
CPU_BATCH = 16
NETWORK, WHOLE = "forward, backward, update", "the whole step"


def build(
    settings: TrainSettings, image_size: int, device: torch.device, folder: Path
) -> AssimilationTrainer:
    """Return the trainer of an A2 training on random images and views."""
    views = folder / "views.zarr"
    write_random_cache(views, NUM_IMAGES, image_size=image_size, num_views=NUM_VIEWS, shard_images=256)
    reader = CacheReader(str(views))
    memory = ViewMemory(reader, device, device)
    return random_trainer(settings, NUM_IMAGES, image_size, device, folder, memory)


def stages(trainer: AssimilationTrainer) -> dict[str, Callable[[int], object]]:
    """Return stage → function of the step."""
    batch = trainer.batch(0)
    views = trainer.views(batch)
    source = trainer.generated.source
    generated = source.views(batch, 1).model
    expert = ExpertSource(trainer.settings.expert, name="expert")
    host = torch.from_numpy(np.zeros(batch.pixels.shape, np.uint8))

    def augment(step: int) -> None:
        now = dataclasses.replace(batch, draws=dataclasses.replace(batch.draws, step=step))
        expert.views(now, 2)
        trainer.generated.transformed(generated, now)

    def forward_backward(_step: int) -> None:
        trainer.optimiser.zero_grad()
        trainer.losses(trainer.outputs(views, batch))["loss"].backward()
        trainer.optimiser.step()

    found: dict[str, Callable[[int], object]] = {
        "read": lambda step: source.views(trainer.batch(step), 1).model,
        "augment": augment,
        NETWORK: forward_backward,
        WHOLE: trainer.step,
    }
    if batch.pixels.is_cuda:
        found["transfer of images that are not resident"] = lambda _: on_device(host, trainer.device)
    return found


def configure(dataset: str, batch_size: int | None, *, on_gpu: bool) -> TrainSettings:
    """Return a data set's recipe for A2, without measurements of accuracy on the way."""
    settings: dict[str, Any] = {"precision": "bf16" if on_gpu else "float32", "assimilation": "A2"}
    settings |= {} if batch_size is None else {"batch_size": batch_size}
    return train_settings(dataset, settings | {"epochs": 1_000_000, "knn_every": 0})


def one_step(dataset: str, batch_size: int | None) -> Callable[[], object]:
    """Return the first step of a training on the processor, for the measurement of its memory."""
    torch.set_num_threads(1)
    keep_freed_memory()
    folder = tempfile.TemporaryDirectory()
    config = configure(dataset, batch_size, on_gpu=False)
    _, image_size = image_counts(dataset, "train")
    trainer = build(config, image_size, torch.device("cpu"), Path(folder.name))
    return lambda: (trainer.step(0), folder.name)


def time_stages(
    config: TrainSettings, image_size: int, target: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Return stage → seconds of each round, all stages in turn."""
    on_gpu = target.type == "cuda"

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
    return seconds


@click.command()
@click.option(
    "--dataset", "datasets", multiple=True, default=("digits", "cifar10"), show_default=True,
    help="Whose recipe and image size.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--batch-size", type=int, help="Other than the recipe's, or than 16 for a whole ResNet on a CPU."
)
@click.option("--rounds", default=3, show_default=True, help="Rounds of all stages.")
def main(datasets: tuple[str, ...], device: str, batch_size: int | None, rounds: int) -> None:
    """Measure, print a table and write the result file."""
    keep_freed_memory()
    target = torch.device(device)
    on_gpu = target.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    ratios, trainings = {}, {}
    for dataset in datasets:
        small = batch_size or (None if on_gpu or dataset == "digits" else CPU_BATCH)
        config = configure(dataset, small, on_gpu=on_gpu)
        _, image_size = image_counts(dataset, "train")
        seconds = time_stages(config, image_size, target, rounds)
        speeds = {
            name: config.optimiser.batch_size / statistics.median(times) for name, times in seconds.items()
        }
        whole = statistics.median(seconds[WHOLE])
        shares = {name: statistics.median(times) / whole for name, times in seconds.items() if name != WHOLE}
        memory = None if on_gpu else {"a step": peak_bytes(one_step, dataset, small)}
        ratios[f"training step of {dataset}: {WHOLE} / {NETWORK}"] = row(
            seconds[WHOLE],
            seconds[NETWORK],
            quality="; ".join(f"{name} {share:.1%}" for name, share in shares.items()) + " of the step",
            memory=memory,
        )
        trainings[dataset] = {
            "device": torch.cuda.get_device_name(target) if on_gpu else "one core, processor time",
            "backbone": f"{config.network.backbone}, width {config.network.width}",
            "batch_size": config.optimiser.batch_size,
            "views per image": 2 + config.assimilation.views_per_step,
            "images_per_second": speeds,
        }
        click.echo(f"{dataset}, {trainings[dataset]['backbone']}, batch {config.optimiser.batch_size}")
        for name, speed in speeds.items():
            click.echo(f"  {name:44} {speed:12,.0f} images/s")
    write_result(f"training_{target.type}", {"ratios": ratios, "trainings": trainings})


if __name__ == "__main__":
    main()
