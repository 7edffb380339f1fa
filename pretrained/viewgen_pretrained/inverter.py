"""Training of the inverter e with a frozen generator, by in-domain inversion.

The inverter minimises ‖x − g(e(x))‖² + λ·perceptual(x, g(e(x))) + λ_adv·softplus(−d̃(g(e(x)))), while d̃ is
fine-tuned with R1. Class-conditional g and d̃ receive the images' labels; e(x) is then an offset from the mean
latent of the image's class.

References:
    In-Domain GAN Inversion for Real Image Editing, Zhu, Shen, Zhao and Zhou, 2020,
    https://arxiv.org/abs/2004.00049
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from viewgen.datasets import ImageDataset
from viewgen.errors import DataError, ModelError
from viewgen.images import to_model, to_storage
from viewgen.inversion.perceptual import build_perceptual, check_perceptual
from viewgen.networks.generator import class_labels
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.stylegan2 import Discriminator, Generator
from viewgen.picture import tile
from viewgen_pretrained.generator import r1_penalty
from viewgen_pretrained.settings import InverterTrainingConfig
from viewgen_train.loop import Trainer
from viewgen_train.sampler import batch_rows

__all__ = ["InverterTrainer", "inverter_of"]


def inverter_of(config: InverterTrainingConfig, generator: Generator) -> Inverter:
    """Return an untrained inverter of a generator's images."""
    size = generator.config.image_size
    inverter = Inverter(
        InverterConfig(
            image_size=size,
            channels=config.channels[: int(math.log2(size)) - 1],
            hidden_dim=config.hidden_dim,
            style_dim=generator.config.style_dim,
            num_classes=generator.config.num_classes,
        )
    )
    inverter.take_latents(generator)
    return inverter


class InverterTrainer(Trainer):
    """Trainer of an inverter with Adam on images of the data set, with codes in the generator's domain."""

    kind = "inverter"

    def __init__(
        self,
        dataset: ImageDataset,
        config: InverterTrainingConfig,
        device: torch.device,
        *,
        generator: Generator,
        discriminator: Discriminator,
        depends: Mapping[str, str],
    ) -> None:
        size = dataset.image_size
        for network in (generator, discriminator):
            if network.config.image_size != size:
                raise ModelError(
                    f"the {type(network).__name__.lower()} makes {network.config.image_size}-px images, "
                    f"{dataset.name} has {size}-px images"
                )
        every_label = torch.from_numpy(dataset.labels(np.arange(len(dataset))))
        for network in (generator, discriminator):
            class_labels(every_label, network.config.num_classes)
        if discriminator.config.num_classes and bool((every_label < 0).any()):
            raise DataError(
                f"the discriminator is conditional on {discriminator.config.num_classes} classes, and some "
                f"images of {dataset.name} {dataset.split} have no label; train on a split with labels"
            )
        self.dataset = dataset
        self.config = config
        self.device = device
        self.seed = config.seed
        self.num_steps = config.num_steps
        check_perceptual(config.perceptual, has_discriminator=True)
        self.identity = {
            "dataset": dataset.digest,
            **config.to_json(),
            "generator": depends["generator"],
            "discriminator": depends["discriminator"],
        }
        torch.manual_seed(config.seed)
        self.generator = generator
        self.perceptual = build_perceptual(config.perceptual, discriminator, device)
        self.critic = copy.deepcopy(discriminator).train().requires_grad_(True)
        self.inverter = inverter_of(config, generator)
        self.inverter = self.inverter.to(device)
        self.current = copy.deepcopy(self.inverter)
        self.optimiser = torch.optim.Adam(
            self.current.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
        )
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=1e-4, betas=(0.0, 0.99))

    def _labels(self, rows: np.ndarray[Any, Any], network: Generator | Discriminator) -> torch.Tensor | None:
        """Return the labels for a class-conditional network; None if the network has no classes."""
        if not network.config.num_classes:
            return None
        return torch.from_numpy(self.dataset.labels(rows)).to(self.device)

    def step(self, step: int) -> dict[str, float]:
        """Train on one batch."""
        config = self.config
        rows = batch_rows(len(self.dataset), config.batch_size, step, config.seed)
        real = to_model(self.dataset.images(rows), self.device)
        critic_labels = self._labels(rows, self.critic)
        progress = step / self.num_steps
        decayed = 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * progress - 1)))
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * decayed
        self.current.train()
        fake = self.generator.synthesis(self.current(real, self._labels(rows, self.generator)))
        pixel = (fake - real).square().mean()
        loss = pixel
        metrics = {"pixel": float(pixel.detach())}
        if self.perceptual is not None and config.perceptual_weight:
            with torch.no_grad():
                target = self.perceptual.features(real)
            perceptual = self.perceptual.distance(self.perceptual.features(fake), target).mean()
            loss = loss + config.perceptual_weight * perceptual
            metrics["perceptual"] = float(perceptual.detach())
        if config.adversarial_weight:
            self.critic.requires_grad_(False)
            adversarial = F.softplus(-self.critic(fake, critic_labels)).mean()
            self.critic.requires_grad_(True)
            loss = loss + config.adversarial_weight * adversarial
            metrics["adversarial"] = float(adversarial.detach())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        if config.adversarial_weight:
            metrics["critic"] = self._critic_step(real, fake.detach(), critic_labels, step)
        self._average(step)
        return metrics

    def _critic_step(
        self, real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor | None, step: int
    ) -> float:
        config = self.config
        loss = F.softplus(self.critic(fake, labels)).mean() + F.softplus(-self.critic(real, labels)).mean()
        value = float(loss.detach())
        if config.r1_weight and step % config.r1_interval == 0:
            loss = loss + config.r1_weight * config.r1_interval * r1_penalty(self.critic, real, labels)
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.step()
        return value

    @torch.no_grad()
    def _average(self, step: int) -> None:
        half_life = min(self.config.ema_half_life, 0.05 * (step + 1))
        weight = 1 - 0.5 ** (1 / half_life)
        for averaged, current in zip(self.inverter.parameters(), self.current.parameters(), strict=True):
            averaged.lerp_(current, weight)
        for kept, buffer in zip(self.inverter.buffers(), self.current.buffers(), strict=True):
            kept.copy_(buffer)

    @torch.no_grad()
    def picture(self) -> np.ndarray[Any, Any]:
        """Return a grid with rows of images above rows of their reconstructions."""
        columns = 16
        rows = np.arange(4 * columns) % len(self.dataset)
        real = self.dataset.images(rows)
        self.inverter.eval()
        codes = self.inverter(to_model(real, self.device), self._labels(rows, self.generator))
        fake = to_storage(self.generator.synthesis(codes)).cpu().numpy()
        pairs = [part[i : i + columns] for i in range(0, len(rows), columns) for part in (real, fake)]
        return tile(np.concatenate(pairs), columns)

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers."""
        return {
            "inverter": self.inverter.state_dict(),
            "current": self.current.state_dict(),
            "critic": self.critic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.inverter.load_state_dict(state["inverter"])
        self.current.load_state_dict(state["current"])
        self.critic.load_state_dict(state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
