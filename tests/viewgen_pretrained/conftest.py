"""An image folder of 8-px pictures, and trainings of networks small enough for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen_pretrained.generator import GeneratorTrainer
from viewgen_pretrained.inverter import InverterTrainer
from viewgen_pretrained.pretrain import training_config
from viewgen_pretrained.settings import GeneratorTrainingConfig, InverterTrainingConfig
from viewgen_train.loop import Trainer

TRAINERS: dict[str, tuple[Any, type]] = {
    "generator": (GeneratorTrainer, GeneratorTrainingConfig),
    "inverter": (InverterTrainer, InverterTrainingConfig),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "generator": {
        "channels": [6, 4],
        "num_mapping_layers": 2,
        "batch_size": 4,
        "num_images": 28,
        "r1_weight": 1.0,
        "r1_interval": 3,
        "path_weight": 2.0,
        "path_interval": 2,
        "style_mixing": 0.9,
        "augment": ["translation", "color", "cutout"],
    },
    "inverter": {
        "channels": [6, 4],
        "hidden_dim": 16,
        "batch_size": 4,
        "num_steps": 7,
        "r1_interval": 3,
        "perceptual": "discriminator",
    },
}


def save_pictures(folder: Path, count: int, random: np.random.Generator) -> None:
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 128, (8, 8, 3)) + 127 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 20 training and 12 test pictures in two classes, ``train/`` and ``test/``."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    save_pictures(folder / "train", 10, random)
    save_pictures(folder / "test", 6, random)
    return folder


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data-root")


@pytest.fixture(scope="session")
def dataset(pictures: Path, data_root: Path) -> ImageDataset:
    return load_dataset(f"folder:{pictures}", data_root=data_root)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-equal runs need one number of threads, in subprocesses too; small networks are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def adversaries() -> dict[str, Any]:
    return make_adversaries()


def make_adversaries() -> dict[str, Any]:
    """A generator and a discriminator with random weights, for the inverter."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        generator = Generator(GeneratorConfig(image_size=8, channels=(6, 4), num_mapping_layers=2))
        discriminator = Discriminator(DiscriminatorConfig(image_size=8, channels=(6, 4)))
        generator.latent_avg.copy_(generator.mean_latent(100))
    return {
        "generator": generator.eval().requires_grad_(False),
        "discriminator": discriminator.eval().requires_grad_(False),
        "depends": {"generator": "sha256:0", "discriminator": "sha256:1"},
    }


@pytest.fixture(scope="session")
def make_trainer(dataset: ImageDataset, adversaries: dict[str, Any]) -> Callable[..., Trainer]:
    """Return a factory (kind, **settings) of fresh trainers."""

    def make(kind: str, **settings: Any) -> Trainer:
        trainer, config_class = TRAINERS[kind]
        config = training_config(config_class, kind, dataset.name, SETTINGS[kind])
        config = config.replace(**settings)
        more = adversaries if kind == "inverter" else {}
        return trainer(dataset, config, torch.device("cpu"), **more)

    return make


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Trainer], dict[str, torch.Tensor]]:
    """Return a function trainer → every tensor of its networks and optimisers by name.

    It reads them off the trainer rather than off `Trainer.state`, which could leave one out.
    """

    def flatten(value: Any, name: str) -> dict[str, torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return {name: value.clone()}
        if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
            value = value.state_dict()
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        items = value.items() if isinstance(value, dict) else ()
        return {
            inner: tensor for key, part in items for inner, tensor in flatten(part, f"{name}.{key}").items()
        }

    return lambda trainer: flatten(vars(trainer), "")
