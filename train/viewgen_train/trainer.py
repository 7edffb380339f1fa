"""Training of an encoder on expert and generated views: step, state and accuracy during training."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewgen.images import to_model
from viewgen.networks.branches import Branches
from viewgen.randomness import addressed_seed
from viewgen.registry import Choice
from viewgen.views.branched import BranchedEncoder, ImageEncoder
from viewgen.views.expert import ExpertSource
from viewgen.views.source import Images
from viewgen_train.batch import StepDraws
from viewgen_train.checkpoints import restore_weights, settle_weights, write_beside, write_best, write_weights
from viewgen_train.diagnostics import CollapseWatch, KnnSets, accuracies
from viewgen_train.distributed import World, synchronise_batchnorm
from viewgen_train.gradients import backbone_norms, drop_idle_gradients
from viewgen_train.jigsaw import JigsawPatches
from viewgen_train.loader import Codes, ImageMemory
from viewgen_train.loop import Trainer, TrainingDivergedError
from viewgen_train.masking import Corrupted, Corruption, mean_color
from viewgen_train.network import ContrastiveNetwork, group_shuffle
from viewgen_train.objectives.contrast import Counted
from viewgen_train.objectives.objective import Allocated, Objective, Outputs, Widths
from viewgen_train.objectives.pair_weights import pair_weights
from viewgen_train.objectives.reconstruction import Reconstruction
from viewgen_train.optimiser import Optimiser
from viewgen_train.records import nested_record, read_record, record
from viewgen_train.sampler import RowOrder
from viewgen_train.second_view import second_expert
from viewgen_train.settings import TrainSettings
from viewgen_train.transform import TransformedSource

__all__ = ["AssimilationTrainer"]

# outputs that only some objectives need, with the word in their entry
NEEDS = {"features": "features", "patches": "patches", "patch_projections": "patches"}
# steps ahead of which a streamed shard is asked for
LOOK_AHEAD = 8


class AssimilationTrainer(Trainer):
    """Training on an objective of expert and generated views.

    Args:
        network: encoder and head, on the training device.
        objective: loss of a step; its parameters, if any, are also trained.
        images: loader of uint8 images.
        order: order of the images.
        generated: source of generated views.
        settings: settings of the training.
        identity: JSON values that identify settings and data; they must be equal in a resumed run.
        world: rank of this process and number of processes.
        folder: folder of the run.
        codes: refined codes of the images, if generated views start from them.
        knn: data sets of the accuracy measurements; None to measure no accuracy.
        splitting: view source that splits an image into views of different roles, or None.
        notes: JSON values for the headers of weight files.
        files: see `Trainer`.

    Attributes:
        steps_per_epoch: number of full batches of a pass over the images.
    """

    kind = "encoder"

    def __init__(
        self,
        network: ContrastiveNetwork,
        objective: Objective,
        images: ImageMemory,
        order: RowOrder,
        generated: TransformedSource,
        settings: TrainSettings,
        *,
        identity: Mapping[str, Any],
        world: World,
        folder: Path,
        codes: Codes | None = None,
        knn: KnnSets | None = None,
        splitting: Choice[Any] | None = None,
        notes: Mapping[str, Any],
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.files = files or {}
        self.settings, self.world, self.folder = settings, world, folder
        self.device = images.device
        self.network, self.images, self.order, self.generated = network, images, order, generated
        self.objective, self.codes = objective, codes
        other = second_expert(settings.expert, settings.second)
        self._expert = ExpertSource(settings.expert, name="expert", second=other)
        synchronise_batchnorm(network, world)
        self._parallel: nn.Module = world.data_parallel(network)
        self.seed = settings.seed
        self._allocate()
        # every process has the whole batch's outputs, and so the whole gradient of the objective's weights
        self._module = objective.to(self.device) if isinstance(objective, nn.Module) else nn.Module()
        self.steps_per_epoch = order.steps_per_epoch
        optimiser = settings.optimiser
        self.num_steps = optimiser.num_steps or optimiser.epochs * self.steps_per_epoch
        self.identity = {**identity, "config": record(settings), **order.identity}
        self.settle_every = 20 if self.device.type == "cuda" else 1
        self.optimiser = Optimiser(
            optimiser,
            (network, self._module),
            network.predictor,
            self.num_steps,
            fused=self.device.type == "cuda",
        )
        self._corruption: Corruption | None = None
        if settings.reconstruction.active:
            size = self.network.encoder.config.image_size
            fill = None if network.roles else mean_color(images)
            self._corruption = Corruption(settings.reconstruction, size, fill)
        self._patches = JigsawPatches(grid, settings.expert) if (grid := objective.head.jigsaw) else None
        self._rebuilding = objective if isinstance(objective, Reconstruction) else None
        if self._rebuilding is not None:
            self._rebuilding.whole_graph = world.size > 1
        self._knn, self._notes = knn, dict(notes)
        self._readout: ImageEncoder
        if isinstance(network.encoder, Branches):
            assert splitting is not None
            self._readout = BranchedEncoder(network.encoder, splitting)
        else:
            self._readout = network.encoder
        self._collapse = CollapseWatch(self._readout, images, self.seed)
        self._best = -math.inf
        self._steps_done = 0
        # step of the checkpoint that this run began with, until it writes one
        self._restored: int | None = None
        # of this process: when it began to train, spent on accuracy, and steps
        self._started, self._evaluation_seconds, self._own_steps = 0.0, 0.0, 0

    def _allocate(self) -> None:
        """Create the objective's state, equal in all processes."""
        if not isinstance(self.objective, Allocated):
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(addressed_seed(self.seed, "objective"))
            self.objective.allocate(
                Widths(
                    features=self.network.encoder.embedding_dim,
                    projections=self.settings.network.projection_dim,
                    classes=self.images.classes,
                )
            )

    def earlier_identity(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return an identity of format 1, converted to the format of this training."""
        config = found.get("config")
        if not isinstance(config, dict) or self.identity["config"].get("format") == config.get("format"):
            return found
        return {**found, "config": nested_record(read_record(config))}

    def batch(self, step: int) -> Images:
        """Return this process's part of a step's batch."""
        rows = self.world.share(self.order.rows(step))
        return Images(
            pixels=self.images.read(rows),
            source_index=torch.tensor(rows),
            draws=StepDraws(
                step=step,
                seed=self.seed,
                world=self.world,
                global_size=self.settings.optimiser.batch_size,
                device=self.device,
            ),
            codes=None if self.codes is None else self.codes.read(rows),
        )

    def views(self, images: Images) -> Tensor:
        """Return the views of a step, expert views first, `(K, B, 3, H, W)` in [−1, 1]."""
        return self._scored_views(images)[0]

    def _scored_views(self, images: Images) -> tuple[Tensor, Tensor | None]:
        """Return the views of a step, and the scores of the generated ones, `(B, m)`, if they have any."""
        with torch.no_grad():
            generated = self.generated.views(images, self.objective.num_generated)
        if not self.objective.num_expert:  # generated ones may have another size
            return generated.pixels, generated.columns.get("score")
        expert = self._expert.views(images, self.objective.num_expert).pixels
        return torch.cat([expert, generated.pixels]), generated.columns.get("score")

    def step(self, step: int) -> Mapping[str, float | Tensor]:
        """Train on one batch; measure accuracies after epochs in which they are due."""
        if not self._own_steps:
            self._started = time.perf_counter()
        self._own_steps += 1
        if step + LOOK_AHEAD < self.num_steps:
            self.generated.expect(self.world.share(self.order.rows(step + LOOK_AHEAD)))
        self.network.train()
        self._module.train()
        images = self.batch(step)
        views, scores = self._scored_views(images)
        weights = self._weights(scores)
        context: dict[str, Any] = {"weights": weights, "progress": step / self.num_steps}
        corrupted = None if self._corruption is None else self._corruption(views, images)
        patches = None if self._patches is None else self._patches(images)
        out = dataclasses.replace(self._outputs(views, images, self._parallel, corrupted, patches), **context)
        losses = self.losses(out)
        self.optimiser.zero_grad()
        norms = self._gradient_norms(step, out, losses)
        losses["loss"].backward()
        if self._rebuilding is not None and not self._rebuilding.contrasts(out.progress):
            drop_idle_gradients(self.network, self.optimiser.parameters)
        metrics: dict[str, float | Tensor] = {name: loss.detach() for name, loss in losses.items()}
        metrics |= norms
        metrics["learning_rate"] = self.optimiser.at(step)
        clip = self.settings.optimiser.gradient_clip
        if clip > 0:
            norm = nn.utils.clip_grad_norm_(self.optimiser.parameters, clip)
            metrics["gradient_norm"] = norm.detach()
        self.optimiser.step()
        self.network.follow(step / self.num_steps)
        expert = views[: self.objective.num_expert]

        def loss_of(generated: Tensor) -> Tensor:
            changed = torch.cat([expert, generated])
            out = dataclasses.replace(self._outputs(changed, images, self.network), **context)
            return self.losses(out)["loss"]

        # before the objective's: learned views climb this step's loss, whose keys no queue must hold yet
        metrics |= self.generated.after_step(images, loss_of)
        with torch.no_grad():
            self.objective.after_step(out.detach())
        self._steps_done = step + 1
        return metrics | self._diagnostics(step, out)

    def _gradient_norms(self, step: int, out: Outputs, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the norms of both terms' gradients in steps where they are due, of one process alone."""
        every = self.settings.reconstruction.gradients_every
        if self._rebuilding is None or self.world.size > 1 or not every or step % every:
            return {}
        return backbone_norms(self.network, self._rebuilding, losses, out.progress)

    def _weights(self, scores: Tensor | None) -> Tensor | None:
        """Return the weights of the generated views of all processes, `(m, N)`, if the settings use them."""
        gamma = getattr(self.settings.views.settings, "score_weight", 0.0)
        if scores is None or not gamma:
            return None
        return pair_weights(self.world.gather(scores.to(self.device)).T, gamma)

    def losses(self, out: Outputs) -> dict[str, Tensor]:
        """Return the scaled loss and the other metrics of the objective."""
        losses = self.objective.loss(out)
        if isinstance(self.objective, Counted) and out.weights is None:
            candidates = self.objective.num_candidates(out.z.shape[1])
            # of the two views alone, where the loss has another term
            contrastive = losses.get("contrastive_loss", losses["loss"])
            losses = {**losses, "i_nce": math.log(candidates) - contrastive.detach()}
        return {**losses, "loss": self.settings.optimiser.loss_scale * losses["loss"]}

    def outputs(self, views: Tensor, images: Images) -> Outputs:
        """Return the network's outputs on views `(K, B, C, H, W)` of images, without data parallelism."""
        return self._outputs(views, images, self.network)

    def _outputs(
        self,
        views: Tensor,
        images: Images,
        network: nn.Module,
        corrupted: Corrupted | None = None,
        patches: Tensor | None = None,
    ) -> Outputs:
        needs = self.settings.objective.entry.needs
        gather = self.world.gather
        found: dict[str, Any] = {
            name: gather(part).transpose(0, 1)
            for name, part in network(views, self._shuffle(images), corrupted, patches).items()
            if NEEDS.get(name, name) in needs or name not in NEEDS
        }
        if "views" in needs:
            found["views"] = gather(views.transpose(0, 1)).transpose(0, 1)
        if "images" in needs:
            found["images"] = gather(to_model(images.pixels))
        if "labels" in needs:
            found["labels"] = gather(self.images.labels(images.source_index.numpy()))
        return Outputs(**found)

    def _shuffle(self, images: Images) -> Tensor | None:
        """Return the permutation of the images for the target network's batch statistics, `(B,)`, if any."""
        head = self.objective.head
        if not head.shuffled:
            return None
        numbers = images.draws.uniform("shuffle", 1)[:, 0]
        return group_shuffle(numbers, head.key_groups).to(self.device)

    def images_per_second(self) -> float:
        """Return the training throughput in images per second, over all processes, since the first step.

        Accuracy measurements are excluded. NaN before the first step.
        """
        seconds = time.perf_counter() - self._started - self._evaluation_seconds
        return self._own_steps * self.settings.optimiser.batch_size / seconds if self._own_steps else math.nan

    def _diagnostics(self, step: int, out: Outputs) -> dict[str, float]:
        """Return accuracies and measures of collapse due after this step, and save the best weights."""
        done = step + 1
        knn = done == self.num_steps or self._is_due(done, self.settings.diagnostics.knn_every)
        probe = self._is_due(done, self.settings.diagnostics.probe_every)
        if not knn and not probe:
            return {}
        if not finite(self.network.encoder):
            # a loss that the session has not looked at yet says more than features that cannot be measured
            return {}
        started = time.perf_counter()
        values: dict[str, float] = {}
        if self.world.is_main:
            if self._knn is not None:
                values = accuracies(self._readout, self._knn, self.device, self.seed, knn=knn, probe=probe)
            unknown = 0.0 if done == self.num_steps else -math.inf
            score = values.get("knn5_heldout", values.get("knn5_r2_heldout", unknown))
            if score > self._best:
                self._best = score
                write_best(self.network.encoder, self.folder, done, self._notes)
            if knn:
                values |= self._collapse.measure(out.detach())
        self._evaluation_seconds += time.perf_counter() - started
        return values

    def _is_due(self, done: int, every: int) -> bool:
        """Return whether a measurement with a period of `every` epochs is due after `done` steps."""
        return every > 0 and done % (every * self.steps_per_epoch) == 0

    def state(self) -> dict[str, Any]:
        """Return the state without the encoder's weights, which are stored beside the checkpoint."""
        predictor = self.network.predictor
        more = {"objective": self._module.state_dict()}
        more |= {name: part.state_dict() for name, part in self._beside().items()}
        return {
            "step": self._steps_done,
            "optimiser": self.optimiser.state(),
            "predictor": None if predictor is None else predictor.state_dict(),
            "generated": {name: part.state_dict() for name, part in self.generated.networks().items()},
            # an infinity would look like a diverged training
            "best": None if self._best == -math.inf else self._best,
            **{name: part for name, part in more.items() if part},
        }

    def _beside(self) -> dict[str, nn.Module]:
        """Return the networks beside encoder and predictor, by name."""
        found = {name: getattr(self.network, name) for name in ("decoder", "target", "jigsaw")}
        return {name: part for name, part in found.items() if part is not None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`, and the weights beside the checkpoint."""
        restore_weights(self.network.encoder, self.folder, state["step"])
        self._restored = int(state["step"])
        self.optimiser.restore(state["optimiser"])
        if self.network.predictor is not None:
            self.network.predictor.load_state_dict(state["predictor"])
        for name, part in self._beside().items():
            part.load_state_dict(state[name])
        self._module.load_state_dict(state.get("objective", {}))
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
        if self._restored is not None:
            # of a process that died before it did so; all ranks have read them by now
            settle_weights(folder, self._restored)
            self._restored = None
        write_weights(encoder, folder, next_step, self._notes)

    def after_checkpoint(self, folder: Path, next_step: int) -> None:
        """Rename the weights to ``last``."""
        settle_weights(folder, next_step)

    def after_training(self, folder: Path) -> None:
        """Write the networks that trained beside the encoder."""
        write_beside(self.generated.networks(), folder, self._steps_done, self._notes)

    def on_divergence(self, folder: Path, step: int) -> str:
        """Write the source indices of the batch to ``diverged.json``; return a sentence for the message."""
        path = folder / "diverged.json"
        rows = self.order.rows(step).tolist()
        path.write_text(json.dumps({"step": step, "source_index": rows}) + "\n", encoding="utf-8")
        return f" (the source indices of its {len(rows)} images are in {path})"


def finite(network: nn.Module) -> bool:
    """Return whether every tensor of a network is finite."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
