"""Training of the StyleGAN2 generator and discriminator.

Non-saturating loss, lazy R1 (γ = 10, every 16 steps), lazy path length (weight 2, every 4 steps), style
mixing with probability 0.9, and an exponential moving average of the generator with a half-life of 10,000
images. DiffAugment for small data sets, always or with a probability that adapts to the discriminator's
overfitting.

References:
    Analyzing and Improving the Image Quality of StyleGAN, Karras, Laine, Aittala, Hellsten, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/1912.04958
    Training Generative Adversarial Networks with Limited Data, Karras, Aittala, Hellsten, Laine, Lehtinen and
    Aila, 2020, https://arxiv.org/abs/2006.06676
    Which Training Methods for GANs do actually Converge?, Mescheder, Geiger and Nowozin, 2018,
    https://arxiv.org/abs/1801.04406
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.datasets import ImageDataset
from viewgen.images import to_model, to_storage
from viewgen.networks.layout import channels_last
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen.picture import tile
from viewgen.randomness import addressed_normal
from viewgen_pretrained.diffaugment import diffaugment
from viewgen_pretrained.settings import GeneratorTrainingConfig
from viewgen_train.loop import Trainer
from viewgen_train.sampler import batch_rows

__all__ = ["GeneratorTrainer", "r1_penalty"]

NUM_PICTURE_ROWS, NUM_PICTURE_COLUMNS = 8, 16


def r1_penalty(discriminator: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return ½·mean‖∇ d̃(x)‖² over real images `(B, 3, H, W)` (Mescheder et al., 2018), without γ.

    `labels`, `(B,)`: labels of the images, for a class-conditional discriminator.
    """
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        discriminator(images).sum() if labels is None else discriminator(images, labels).sum(),
        images,
        create_graph=True,
    )
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


class AdaptiveProbability:
    """Augmentation probability p, controlled by r_t = E[sign d̃(x)] (Karras et al., 2020, §3).

    Attributes:
        probability: augmentation probability p, in [0, 1]; initially 0.
    """

    def __init__(self, config: GeneratorTrainingConfig) -> None:
        self.target, self.interval = config.ada_target, config.ada_interval
        self.change = config.batch_size * config.ada_interval / config.ada_images
        self.probability = 0.0
        self.signs: list[float] = []

    def update(self, real_sign: float, step: int) -> float:
        """Record the mean sign of a batch, update p every `interval` steps, and return p."""
        self.signs.append(real_sign)
        if (step + 1) % self.interval == 0:
            overfitting = sum(self.signs) / len(self.signs) - self.target
            moved = self.probability + math.copysign(self.change, overfitting) * (overfitting != 0)
            self.probability = min(1.0, max(0.0, moved))
            self.signs.clear()
        return self.probability

    def state(self) -> dict[str, Any]:
        """Return p and the signs recorded since its last update."""
        return {"probability": self.probability, "signs": list(self.signs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.probability, self.signs = state["probability"], list(state["signs"])


class GeneratorTrainer(Trainer):
    """Trainer of a generator and a discriminator, with lazy regularisation."""

    kind = "generator"

    def __init__(self, dataset: ImageDataset, config: GeneratorTrainingConfig, device: torch.device) -> None:
        self.dataset = dataset
        self.config = config
        self.device = device
        self.seed = config.seed
        self.num_steps = math.ceil(config.num_images / config.batch_size)
        settings = config.to_json()
        if not config.ada_target:  # runs and cards from before ADA have none of its settings
            settings = {name: value for name, value in settings.items() if not name.startswith("ada_")}
        self.identity = {"dataset": dataset.digest, **settings}
        torch.manual_seed(config.seed)
        size = dataset.image_size
        channels = config.channels[: int(math.log2(size)) - 1] if size >= 8 else config.channels
        self.generator = Generator(
            GeneratorConfig(image_size=size, channels=channels, num_mapping_layers=config.num_mapping_layers)
        ).to(device)
        self.discriminator = channels_last(
            Discriminator(DiscriminatorConfig(image_size=size, channels=channels)).to(device)
        )
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.generator_optimiser = self._adam(
            self.generator, config.path_interval if config.path_weight else 0
        )
        self.discriminator_optimiser = self._adam(
            self.discriminator, config.r1_interval if config.r1_weight else 0
        )
        self.mean_path_length = torch.zeros((), device=device)
        self.ada = AdaptiveProbability(config) if config.ada_target else None

    def _adam(self, network: nn.Module, interval: int) -> torch.optim.Adam:
        # lazy regularisation adds a step every `interval` steps, so the moments are shortened accordingly
        ratio = interval / (interval + 1) if interval else 1.0
        return torch.optim.Adam(
            network.parameters(), lr=self.config.learning_rate * ratio, betas=(0.0, 0.99**ratio)
        )

    def _codes(self, batch_size: int) -> Tensor:
        """Return W⁺ codes `(B, L, 512)`, a share `style_mixing` mixed from two w at a random layer."""
        num_layers = self.generator.num_layers
        z = torch.randn(2 * batch_size, self.generator.config.style_dim, device=self.device)
        first, second = self.generator.mapping(z).chunk(2)
        cut = torch.randint(1, num_layers, (batch_size, 1), device=self.device)
        mixed = torch.rand(batch_size, 1, device=self.device) < self.config.style_mixing
        cut = torch.where(mixed, cut, num_layers)
        layer = torch.arange(num_layers, device=self.device)
        return torch.where((layer < cut)[..., None], first[:, None], second[:, None])

    def step(self, step: int) -> dict[str, float]:
        """Train both networks on one batch."""
        config = self.config
        rows = batch_rows(len(self.dataset), config.batch_size, step, config.seed)
        real = to_model(self.dataset.images(rows), self.device)
        metrics = self._discriminator_step(real, step) | self._generator_step(len(rows), step)
        half_life = min(config.ema_half_life, 0.05 * (step + 1) * config.batch_size)
        decay = 0.5 ** (config.batch_size / max(half_life, 1e-8))
        with torch.no_grad():
            averaged: list[Tensor] = list(self.average.parameters())
            current: list[Tensor] = list(self.generator.parameters())
            torch._foreach_lerp_(averaged, current, 1 - decay)
        return metrics

    def _discriminator_step(self, real: Tensor, step: int) -> dict[str, float]:
        config = self.config
        with torch.no_grad():
            fake = self.generator.synthesis(self._codes(len(real)), noise="random")
        fake_logit = self.discriminator(self._augmented(fake))
        real_logit = self.discriminator(self._augmented(real))
        loss = F.softplus(fake_logit).mean() + F.softplus(-real_logit).mean()
        metrics = {
            "d_loss": float(loss.detach()),
            "real_sign": float(real_logit.detach().sign().mean()),
        }
        self._update(self.discriminator_optimiser, loss)
        if self.ada is not None:
            metrics["ada_p"] = self.ada.update(metrics["real_sign"], step)
        if config.r1_weight and step % config.r1_interval == 0:
            penalty = r1_penalty(self.discriminator, self._augmented(real))
            self._update(self.discriminator_optimiser, penalty * config.r1_weight * config.r1_interval)
            metrics["r1"] = float(penalty.detach())
        return metrics

    def _generator_step(self, batch_size: int, step: int) -> dict[str, float]:
        config = self.config
        self.discriminator.requires_grad_(False)
        fake = self.generator.synthesis(self._codes(batch_size), noise="random")
        loss = F.softplus(-self.discriminator(self._augmented(fake))).mean()
        metrics = {"g_loss": float(loss.detach())}
        self._update(self.generator_optimiser, loss)
        self.discriminator.requires_grad_(True)
        if config.path_weight and step % config.path_interval == 0:
            codes = self._codes(max(1, batch_size // 2))
            images = self.generator.synthesis(codes, noise="random")
            noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
            (gradient,) = torch.autograd.grad((images * noise).sum(), codes, create_graph=True)
            lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
            self.mean_path_length = torch.lerp(self.mean_path_length, lengths.detach().mean(), 0.01)
            penalty = (lengths - self.mean_path_length).square().mean()
            self._update(self.generator_optimiser, penalty * config.path_weight * config.path_interval)
            metrics["path_length"] = float(self.mean_path_length)
        return metrics

    def _augmented(self, images: Tensor) -> Tensor:
        return diffaugment(images, self.config.augment, None if self.ada is None else self.ada.probability)

    @staticmethod
    def _update(optimiser: torch.optim.Adam, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def finish(self) -> Generator:
        """Return the averaged generator, with its mean latent."""
        self.average.latent_avg.copy_(self.average.mean_latent())
        return self.average

    @torch.no_grad()
    def picture(self) -> np.ndarray[Any, Any]:
        """Return samples of the averaged generator above a strip of real images."""
        count = NUM_PICTURE_ROWS * NUM_PICTURE_COLUMNS
        z = addressed_normal((count, self.generator.config.style_dim), "picture").to(self.device)
        samples = to_storage(self.average(z)).cpu().numpy()
        real = self.dataset.images(np.arange(2 * NUM_PICTURE_COLUMNS) % len(self.dataset))
        return tile(np.concatenate([samples, real]), NUM_PICTURE_COLUMNS)

    def state(self) -> dict[str, Any]:
        """Return networks, optimisers and running means."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "mean_path_length": self.mean_path_length,
            **({} if self.ada is None else {"ada": self.ada.state()}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.load_state_dict(state["average"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        self.mean_path_length = state["mean_path_length"].to(self.device)
        if self.ada is not None:
            self.ada.restore(state["ada"])
