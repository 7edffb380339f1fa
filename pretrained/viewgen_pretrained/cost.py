"""Cost of the trainings of encoder, generator and inverter, from a few measured steps on random images.

A step is measured with the whole batch, or with a few images where that would take long; time and memory of
activations are then assumed to grow in proportion to the batch. R1 and the path-length penalty are
evaluated every so many steps only: every kind of step is timed once, and weighed by how often it occurs.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from viewgen.datasets import ImageDataset
from viewgen.errors import ModelError
from viewgen.networks.files import STYLEGAN2, read_header
from viewgen_pretrained.generator import GeneratorTrainer
from viewgen_pretrained.inverter import InverterTrainer
from viewgen_pretrained.learned_views import FlowTrainer, labelled_images
from viewgen_pretrained.settings import (
    GeneratorTrainingConfig,
    InverterTrainingConfig,
    ViewsTrainingConfig,
)
from viewgen_train.cost import estimate, random_images, saved_bytes
from viewgen_train.loop import Trainer
from viewgen_train.settings import TrainSettings

__all__ = [
    "TrainingCost",
    "encoder_cost",
    "flow_cost",
    "generator_cost",
    "inverter_cost",
    "mean_step_seconds",
    "random_networks",
    "shape_of",
]

CPU_BATCH = 4
ENOUGH_SECONDS = 1.0
FLOAT_BYTES = 4
# weights, gradients and two moments of Adam
STATES = 4

T = TypeVar("T", GeneratorTrainer, InverterTrainer, FlowTrainer)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCost:
    """Estimated cost of one training.

    Attributes:
        steps: number of steps.
        seconds: time of all steps, without measurements, checkpoints and pictures.
        step_bytes: memory of weights, gradients, moments and activations of a step.
        measured_batch: number of images of the timed steps.
        device: measured device.
    """

    steps: int
    seconds: float
    step_bytes: int
    measured_batch: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def mean_step_seconds(step: Callable[[int], object], intervals: Sequence[int]) -> float:
    """Return the mean time of a step, of which some do more every so many steps.

    Args:
        step: function of the number of the step.
        intervals: intervals at which steps do more, at the numbers that they divide.
    """
    kinds = Counter(tuple(number % interval == 0 for interval in intervals) for number in _period(intervals))
    step(1)  # the first one sets up more than the others
    total = 0.0
    for kind, count in kinds.items():
        number = next(
            number
            for number in _period(intervals)
            if tuple(number % interval == 0 for interval in intervals) == kind
        )
        started = time.perf_counter()
        step(number)
        total += count * (time.perf_counter() - started)
    return total / kinds.total()


def _period(intervals: Sequence[int]) -> range:
    return range(1, 1 + math.lcm(*intervals))


def encoder_cost(settings: TrainSettings, images: ImageDataset, device: str) -> TrainingCost:
    """Return the cost of an encoder's training on `images`."""
    found = estimate(settings, num_images=len(images), image_size=images.image_size, device=device)
    optimiser = settings.optimiser
    return TrainingCost(
        steps=optimiser.num_steps or optimiser.epochs * max(1, len(images) // optimiser.batch_size),
        seconds=found.seconds,
        step_bytes=found.step_bytes,
        measured_batch=found.measured_batch,
        device=device,
    )


def generator_cost(config: GeneratorTrainingConfig, image_size: int, device: str) -> TrainingCost:
    """Return the cost of a generator's training with its discriminator."""
    trainer = _measured_trainer(partial(_generator_trainer, config, image_size, device), config.batch_size)
    intervals = [config.r1_interval] * bool(config.r1_weight) + [config.path_interval] * bool(
        config.path_weight
    )
    networks = [trainer.generator, trainer.discriminator]
    return _cost(
        trainer, networks, intervals, config.batch_size, math.ceil(config.num_images / config.batch_size)
    )


def inverter_cost(
    config: InverterTrainingConfig, generator: GeneratorTrainingConfig, image_size: int, device: str
) -> TrainingCost:
    """Return the cost of an inverter's training beside a generator of these settings."""
    make = partial(_inverter_trainer, config, generator, image_size, device)
    trainer = _measured_trainer(make, config.batch_size)
    intervals = [config.r1_interval] * bool(config.r1_weight and config.adversarial_weight)
    networks = [trainer.current, trainer.critic, trainer.generator]
    return _cost(trainer, networks, intervals, config.batch_size, config.num_steps)


def flow_cost(config: ViewsTrainingConfig, steps: int, image_size: int, device: str) -> TrainingCost:
    """Return the cost of so many steps of a training of learned views."""
    trainer = _measured_trainer(partial(_flow_trainer, config, image_size, device), config.batch_size)
    networks = [one for one in (trainer.flow, trainer.critic, trainer.classifiers) if one is not None]
    return _cost(trainer, networks, [], config.batch_size, steps)


def shape_of(path: Path, others: GeneratorTrainingConfig | None = None) -> GeneratorTrainingConfig:
    """Return the settings of a training that makes a generator of a file's shape.

    Args:
        path: file of the generator.
        others: settings that are not part of the shape; by default the defaults.

    Raises:
        ModelError: the file holds another network than a generator, or a generator other than StyleGAN2,
            for which no inverter is trained.
    """
    header = read_header(path)
    if header["kind"] != "generator":
        raise ModelError(f"{path} holds a network of kind {header['kind']!r}; it was given as the generator")
    if (name := header.get("generator", STYLEGAN2)) != STYLEGAN2:
        raise ModelError(
            f"{path} holds a generator of kind {name!r}; inverters are trained for StyleGAN2, other "
            "generators bring the start of their codes themselves"
        )
    config = header["config"]
    shape = {field: config[field] for field in ("channels", "num_mapping_layers")}
    return (others or GeneratorTrainingConfig()).replace(**shape)


def random_networks(
    generator: GeneratorTrainingConfig, inverter: InverterTrainingConfig, image_size: int
) -> dict[str, torch.nn.Module]:
    """Return an untrained generator, discriminator and inverter, by kind."""
    trainer = _inverter_trainer(inverter, generator, image_size, "cpu", CPU_BATCH)
    return {"generator": trainer.generator, "discriminator": trainer.critic, "inverter": trainer.inverter}


def _inverter_trainer(
    config: InverterTrainingConfig,
    generator: GeneratorTrainingConfig,
    image_size: int,
    device: str,
    batch_size: int,
) -> InverterTrainer:
    adversaries = _generator_trainer(generator, image_size, device, CPU_BATCH)
    return InverterTrainer(
        random_images(batch_size, image_size),
        config.replace(batch_size=batch_size),
        torch.device(device),
        generator=adversaries.average,
        discriminator=adversaries.discriminator.requires_grad_(False),
        depends={"generator": "", "discriminator": ""},
    )


def _measured_trainer(make: Callable[[int], T], batch_size: int) -> T:
    """Return a trainer with the whole batch; with a few images where a step would take long.

    Args:
        make: function from the number of images of a step to a trainer.
        batch_size: the whole batch.
    """
    few = make(min(CPU_BATCH, batch_size))
    seconds = math.inf
    for _ in range(2):  # the first step sets up more than the others
        started = time.perf_counter()
        few.step(1)
        seconds = time.perf_counter() - started
    return few if seconds * batch_size > CPU_BATCH * ENOUGH_SECONDS else make(batch_size)


def _generator_trainer(
    config: GeneratorTrainingConfig, image_size: int, device: str, batch_size: int
) -> GeneratorTrainer:
    images = random_images(batch_size, image_size)
    return GeneratorTrainer(images, config.replace(batch_size=batch_size), torch.device(device))


def _flow_trainer(config: ViewsTrainingConfig, image_size: int, device: str, batch_size: int) -> FlowTrainer:
    images = random_images(batch_size, image_size)
    small = config.replace(batch_size=batch_size, labels=None, attribute=None)
    labelled = labelled_images(random_images(batch_size, image_size), small)
    return FlowTrainer(images, labelled, small, torch.device(device))


def _cost(
    trainer: Trainer, networks: Sequence[torch.nn.Module], intervals: list[int], batch_size: int, steps: int
) -> TrainingCost:
    device = next(networks[0].parameters()).device
    measured = trainer.config.batch_size  # type: ignore[attr-defined]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step(number: int) -> None:
        for value in trainer.step(number).values():
            float(value)  # waits for the device

    # the passes through the networks one after the other: at most as much is alive at once
    activations = saved_bytes(lambda: step(1), parameters)
    seconds = mean_step_seconds(step, intervals)
    weights = STATES * sum(FLOAT_BYTES * parameter.numel() for parameter in parameters)
    step_bytes = weights + activations * batch_size // measured
    if device.type == "cuda":
        step_bytes = torch.cuda.max_memory_allocated(device)
    return TrainingCost(
        steps=steps,
        seconds=seconds * steps * batch_size / measured,
        step_bytes=step_bytes,
        measured_batch=measured,
        device=str(device),
    )
