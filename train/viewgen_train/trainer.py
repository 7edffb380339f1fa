"""The training of an encoder on expert and generated views: a step, its state, the accuracy on the way."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.features import Features, extract_features
from viewgen.diagnostics.knn import knn_accuracies
from viewgen.diagnostics.probe import linear_probe, probe_config
from viewgen.randomness import addressed_generator
from viewgen_train.augment import expert_batch
from viewgen_train.batch import StepBatch
from viewgen_train.checkpoints import restore_weights, settle_weights, write_best, write_weights
from viewgen_train.config import TrainConfig
from viewgen_train.distributed import World, synchronise_batchnorm
from viewgen_train.generated_views import GeneratedViews, ViewmakerViews
from viewgen_train.loader import ImageMemory
from viewgen_train.loop import Trainer, TrainingDivergedError
from viewgen_train.network import ContrastiveNetwork
from viewgen_train.objectives.assimilation import assimilation_loss
from viewgen_train.sampler import RowOrder

__all__ = ["AssimilationTrainer", "KnnSets", "learning_rate"]

# images whose features the 5-NN accuracy during training uses at most, of either split
KNN_IMAGES = 50_000
HELD_OUT_SHARE = 0.2
# steps ahead of which a streamed shard is asked for
LOOK_AHEAD = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KnnSets:
    """What the accuracy on the way is measured on.

    Attributes:
        train: labelled images that are neighbours.
        test: images to classify; None where the data set has no other split.
    """

    train: ImageDataset
    test: ImageDataset | None


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine to 0 or a constant."""
    warm_up = min(round(config.warm_up_epochs * num_steps / config.epochs), num_steps // 2)
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warm_up) / max(1, num_steps - warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class AssimilationTrainer(Trainer):
    """SGD on the assimilation loss.

    Args:
        network: encoder and predictor, on the device.
        images: the images, uint8.
        order: which images each step has.
        generated: where generated views come from.
        config: the settings.
        identity: JSON values that say what is trained on what; a resumed run must share them.
        world: this process among those that train.
        folder: of the run.
        knn: what accuracy is measured on; None to leave it out.
        notes: JSON values for the headers of weights.

    Attributes:
        steps_per_epoch: whole batches of a pass over the images.
    """

    kind = "encoder"

    def __init__(
        self,
        network: ContrastiveNetwork,
        images: ImageMemory,
        order: RowOrder,
        generated: GeneratedViews,
        config: TrainConfig,
        *,
        identity: Mapping[str, Any],
        world: World,
        folder: Path,
        knn: KnnSets | None,
        notes: Mapping[str, Any],
    ) -> None:
        self.config, self.world, self.folder = config, world, folder
        self.device = images.device
        self.network, self.images, self.order, self.generated = network, images, order, generated
        synchronise_batchnorm(network, world)
        self._parallel: nn.Module = world.data_parallel(network)
        self.seed = config.seed
        self.steps_per_epoch = order.steps_per_epoch
        self.num_steps = config.epochs * self.steps_per_epoch
        self.identity = {**identity, **order.identity, **generated.identity}
        self.settle_every = 20 if self.device.type == "cuda" else 1
        self.optimiser = torch.optim.SGD(
            network.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=self.device.type == "cuda",
        )
        self._knn, self._notes = knn, dict(notes)
        self._best = -math.inf
        self._steps_done = 0
        # of this process: when it began to train, spent on accuracy, and steps
        self._started, self._evaluation_seconds, self._own_steps = 0.0, 0.0, 0

    def batch(self, step: int) -> StepBatch:
        """Return this process's part of a step's batch."""
        rows = self.world.share(self.order.rows(step))
        return StepBatch(
            step=step,
            seed=self.seed,
            world=self.world,
            global_size=self.config.batch_size,
            rows=rows,
            images=self.images.read(rows),
        )

    def views(self, batch: StepBatch) -> Tensor:
        """Return the views of a step, expert ones first, `(K, B, 3, H, W)` in [−1, 1]."""
        expert = expert_batch(batch, "expert", self.config.num_expert, self.config.expert)
        with torch.no_grad():
            generated = self.generated.views(batch)
        return torch.cat([expert, generated])

    def step(self, step: int) -> Mapping[str, float | Tensor]:
        """Train on one batch; now and then measure the accuracy."""
        config = self.config
        if not self._own_steps:
            self._started = time.perf_counter()
        self._own_steps += 1
        if step + LOOK_AHEAD < self.num_steps:
            self.generated.expect(self.world.share(self.order.rows(step + LOOK_AHEAD)))
        rate = learning_rate(config, step, self.num_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        batch = self.batch(step)
        views = self.views(batch)
        loss = self._loss(views, self._parallel)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        metrics: dict[str, float | Tensor] = {"loss": loss.detach(), "learning_rate": rate}
        if config.gradient_clip > 0:
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
            metrics["gradient_norm"] = norm.detach()
        self.optimiser.step()
        if isinstance(self.generated, ViewmakerViews):
            metrics["viewmaker_loss"] = self._train_viewmaker(self.generated, batch, views)
        self._steps_done = step + 1
        return metrics | self._accuracy(step)

    def images_per_second(self) -> float:
        """Return images trained on per second, over all processes, since this process's first step.

        Measuring accuracy is left out. NaN before the first step.
        """
        seconds = time.perf_counter() - self._started - self._evaluation_seconds
        return self._own_steps * self.config.batch_size / seconds if self._own_steps else math.nan

    def _loss(self, views: Tensor, network: nn.Module) -> Tensor:
        outputs = self.world.gather(network(views)).transpose(0, 1)
        if self.network.predictor is None:
            return assimilation_loss(outputs, None, self.config)
        z, predictions = outputs.chunk(2, dim=2)
        return assimilation_loss(z, predictions, self.config)

    def _train_viewmaker(self, source: ViewmakerViews, batch: StepBatch, views: Tensor) -> Tensor:
        """Take one step of the Viewmaker up the loss that the encoder just went down."""
        views = torch.cat([views[: self.config.num_expert], source.views(batch)])
        parameters = list(source.viewmaker.parameters())
        loss = -self._loss(views, self.network)
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.world.average_gradients(parameters)
        source.optimiser.step()
        return loss.detach()

    def _accuracy(self, step: int) -> dict[str, float]:
        """Return accuracies after an epoch whose turn it is, and keep the best weights."""
        done = step + 1
        knn = done == self.num_steps or self._is_due(done, self.config.knn_every)
        probe = self._is_due(done, self.config.probe_every)
        if not knn and not probe:
            return {}
        if not finite(self.network.encoder):
            # a loss that the session has not looked at yet says more than features that cannot be measured
            return {}
        started = time.perf_counter()
        if self.world.is_main:
            values = {} if self._knn is None else self._measure(self._knn, knn=knn, probe=probe)
            score = values.get("knn5_heldout", 0.0 if done == self.num_steps else -math.inf)
            if score > self._best:
                self._best = score
                write_best(self.network.encoder, self.folder, done, self._notes)
        else:
            values = {}
        self._evaluation_seconds += time.perf_counter() - started
        return values

    def _is_due(self, done: int, every: int) -> bool:
        """Tell whether what happens every so many epochs happens after `done` steps."""
        return every > 0 and done % (every * self.steps_per_epoch) == 0

    def _measure(self, sets: KnnSets, *, knn: bool, probe: bool) -> dict[str, float]:
        encoder = self.network.encoder
        order = torch.randperm(len(sets.train), generator=addressed_generator(self.seed, "knn"))[:KNN_IMAGES]
        train = extract_features(encoder, sets.train, device=self.device, rows=order.numpy())
        # the first rows of the random order are classified by the others
        count = max(1, int(HELD_OUT_SHARE * len(train)))
        parts = {"heldout": (_part(train, slice(count, None)), _part(train, slice(count)))}
        if sets.test is not None:
            rows = torch.arange(min(len(sets.test), KNN_IMAGES)).numpy()
            parts["top1"] = (train, extract_features(encoder, sets.test, device=self.device, rows=rows))
        values = {f"knn5_{name}": _knn(*pair) for name, pair in parts.items()} if knn else {}
        if probe:
            name = "top1" if "top1" in parts else "heldout"
            config = probe_config(sets.train.name, num_seeds=1, augmentation="none")
            values[f"probe_{name}"] = linear_probe(*parts[name], config, seed=self.seed).mean
        return values

    def state(self) -> dict[str, Any]:
        """Return everything but the encoder's weights, which lie beside the checkpoint."""
        predictor = self.network.predictor
        return {
            "step": self._steps_done,
            "optimiser": self.optimiser.state_dict(),
            "predictor": None if predictor is None else predictor.state_dict(),
            "generated": {name: part.state_dict() for name, part in self.generated.networks().items()},
            # an infinity would look like a diverged training
            "best": None if self._best == -math.inf else self._best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned, and the weights beside it."""
        restore_weights(self.network.encoder, self.folder, state["step"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.network.predictor is not None:
            self.network.predictor.load_state_dict(state["predictor"])
        for name, part in self.generated.networks().items():
            part.load_state_dict(state["generated"][name])
        self._steps_done = state["step"]
        self._best = -math.inf if state["best"] is None else state["best"]

    def before_checkpoint(self, folder: Path, next_step: int) -> None:
        """Write the weights that belong to the checkpoint."""
        encoder = self.network.encoder
        if not finite(encoder):
            raise TrainingDivergedError(
                f"encoder training: a weight is not finite after step {next_step - 1}; the checkpoint before "
                f"it, if any, stays in {folder}. Lower the learning rate"
            )
        write_weights(encoder, folder, next_step, self._notes)

    def after_checkpoint(self, folder: Path, next_step: int) -> None:
        """Call the weights ``last``."""
        settle_weights(folder, next_step)

    def on_divergence(self, folder: Path, step: int) -> str:
        """Write down which images were in the batch."""
        path = folder / "diverged.json"
        rows = self.order.rows(step).tolist()
        path.write_text(json.dumps({"step": step, "source_index": rows}) + "\n", encoding="utf-8")
        return f" (the source indices of its {len(rows)} images are in {path})"


def finite(network: nn.Module) -> bool:
    """Tell whether every tensor of a network is finite."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def _part(features: Features, rows: slice) -> Features:
    return Features(embeddings=features.embeddings[rows], labels=features.labels[rows])


def _knn(train: Features, test: Features) -> float:
    """Return the 5-NN accuracy, the mean over a label's attributes."""
    neighbours = min(5, len(train))
    return float(knn_accuracies(train, test, neighbours=(neighbours,))[0].mean())
