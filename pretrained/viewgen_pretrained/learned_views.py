"""Training of learned views: a flow of colours against, or beside, the encoders of its two views.

The first channel of g(X) is one view, the other two are the second. With their encoders f₁, f₂ and
classifiers c₁, c₂ the objectives are

- unsupervised: min over g, max over f₁, f₂ of I_NCE,
- semi-supervised: the same plus the cross-entropies of c₁ and c₂ on labelled images, minimised over g and
  these,
- supervised: these cross-entropies alone.

A step of the encoders comes before each step of the flow, on the same images. Channels are standardised over
the batch before they are encoded: scaling a channel hides nothing of it. A channel whose standard deviation
still approaches 0 would be lost in rounding; the training then stops.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    equations 2 and 3, appendix B.5, https://arxiv.org/abs/2005.10243

Shape legend: B images, L of them labelled, H, W space, D projection dimension.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import DataError, UsageError
from viewgen.images import to_model, to_storage
from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import EncoderConfig
from viewgen.networks.flow import Flow, FlowConfig
from viewgen.picture import tile
from viewgen.randomness import addressed_generator, addressed_seed
from viewgen.role_pictures import role_pictures
from viewgen.views.augmentation import expert_uniforms, expert_views
from viewgen.views.color import ColorConfig
from viewgen.views.color import fit as fit_colors
from viewgen.views.color_spaces import from_rgb
from viewgen.views.compositions import dataset_expert
from viewgen.views.expert_settings import ExpertConfig
from viewgen.views.flow import ENTRY, LEAST_DEVIATION
from viewgen_pretrained.settings import ViewsTrainingConfig
from viewgen_train.loop import Trainer, TrainingDivergedError
from viewgen_train.sampler import FullOrder, batch_rows

__all__ = ["FlowTrainer", "Labelled", "info_nce", "labelled_images", "num_steps", "standardised"]

ROLES = tuple(role.name for role in ENTRY.roles)
ADAM_BETAS = (0.5, 0.999)
# standard deviations of a channel that a picture of the views shows on either side
SHOWN_SPAN = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Images whose classes a training uses.

    Attributes:
        dataset: their data set.
        rows: their source indices, int64 `(M,)`.
        attribute: name of the class attribute.
        targets: class of every image of the data set, int64 `(N,)`.
        num_classes: number of classes.
    """

    dataset: ImageDataset
    rows: NDArray[np.int64] = field(repr=False)
    attribute: str
    targets: NDArray[np.int64] = field(repr=False)
    num_classes: int


def labelled_images(
    dataset: ImageDataset, config: ViewsTrainingConfig, data_root: str | None = None
) -> Labelled | None:
    """Return the labelled images of a training, or None if it is unsupervised.

    They are images of the split, or of the training split if that of the training has no labels.

    Raises:
        UsageError: fewer labels than classes are asked for, or more than there are.
        DataError: there are no labels.
    """
    if config.objective == "unsupervised":
        return None
    classes = [one for one in dataset.attributes if one.kind == "class"]
    if not classes:
        raise DataError(
            f"the images of {dataset.name} have no classes; expected some for objective "
            f"{config.objective!r}. Choose unsupervised"
        )
    name = config.attribute or classes[0].name
    chosen = next((one for one in classes if one.name == name), None)
    targets = dataset.target(name)
    if chosen is None:
        raise UsageError(f"attribute {name!r} of {dataset.name} is a real number; expected classes")
    if dataset.split != "train" and (targets < 0).all():
        return labelled_images(load_dataset(dataset.name, "train", data_root=data_root), config)
    rows = np.flatnonzero(targets >= 0)
    count = len(rows) if config.labels is None else config.labels
    if count > len(rows) or count < int(chosen.num_classes or 1):
        raise UsageError(
            f"labels is {count}; expected at least one for each of the {chosen.num_classes} classes, and at "
            f"most the {len(rows)} images of {dataset.name} {dataset.split} that have one"
        )
    order = torch.randperm(len(rows), generator=addressed_generator(config.seed, "labelled")).numpy()
    return Labelled(
        dataset=dataset,
        rows=np.sort(rows[order[:count]]),
        attribute=name,
        targets=targets,
        num_classes=int(chosen.num_classes or 1),
    )


def num_steps(config: ViewsTrainingConfig, num_images: int, num_labelled: int) -> int:
    """Return the number of steps of a training."""
    seen = num_labelled if config.objective == "supervised" else num_images
    return config.epochs * max(1, seen // config.batch_size)


def info_nce(first: Tensor, rest: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE's loss of unit vectors of both views, `(B, D)` each, mean of both directions, `()`."""
    logits = first @ rest.T / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def by_role(channels: Tensor) -> dict[str, Tensor]:
    """Return the views of channels `(B, 3, H, W)`, by role."""
    return {role.name: role.of(channels) for role in ENTRY.roles}


def standardised(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Return channels `(B, 3, H, W)` with mean 0 and deviation 1 over the batch, and the least deviation.

    A deviation below `LEAST_DEVIATION` counts as that much.
    """
    variance, mean = torch.var_mean(channels, dim=(0, 2, 3), keepdim=True, correction=0)
    deviation = variance.sqrt()
    return (channels - mean) / deviation.clamp_min(LEAST_DEVIATION), deviation.detach().min()


class FlowTrainer(Trainer):
    """Trainer of a flow, with the encoders and classifiers of its views.

    Args:
        dataset: images.
        labelled: images with classes; None for an unsupervised training.
        config: settings of the training.
        device: device of the networks.
    """

    kind = "flow"

    def __init__(
        self,
        dataset: ImageDataset,
        labelled: Labelled | None,
        config: ViewsTrainingConfig,
        device: torch.device,
    ) -> None:
        self.dataset, self.labelled, self.config, self.device = dataset, labelled, config, device
        self.settle_every = 20 if device.type == "cuda" else 1
        self.contrasts = config.objective != "supervised"
        self.seed = config.seed
        self._order: FullOrder | None = None
        if self.contrasts:
            self._order = FullOrder(len(dataset), min(config.batch_size, len(dataset)), config.seed)
        self.num_steps = num_steps(config, len(dataset), 0 if labelled is None else len(labelled.rows))
        self.identity = {"dataset": dataset.digest, **config.to_json()}
        del self.identity["measure_steps"]  # of the card
        if labelled is not None:
            self.identity["labelled"] = labelled.dataset.digest
        colors = fit_colors(ColorConfig(space=config.space), dataset)
        assert colors.mean is not None
        assert colors.deviation is not None
        torch.manual_seed(config.seed)
        self.flow = Flow(
            FlowConfig(
                image_size=dataset.image_size,
                space=config.space,
                coupling=config.coupling,
                num_blocks=config.num_blocks,
                hidden=config.hidden,
                mean=colors.mean,
                deviation=colors.deviation,
            )
        ).to(device)
        self.critic = self._branches("mlp", config.projection_dim) if self.contrasts else None
        self.classifiers = None if labelled is None else self._branches("linear", labelled.num_classes)
        learned = [self.flow, *([] if self.classifiers is None else [self.classifiers])]
        self.optimiser = torch.optim.Adam(
            nn.ModuleList(learned).parameters(), lr=config.view_learning_rate, betas=ADAM_BETAS
        )
        self.critic_optimiser: torch.optim.Optimizer | None = None
        if self.critic is not None:
            self.critic_optimiser = torch.optim.Adam(
                self.critic.parameters(), lr=config.critic_learning_rate, betas=ADAM_BETAS
            )
        self._crop: ExpertConfig | None = None
        if config.crop < 1:
            self._crop = dataset_expert(dataset.name).crop_only().replace(crop_scale=(config.crop, 1.0))
            self.identity["expert"] = self._crop.record()

    def _branches(self, projector: Literal["mlp", "linear"], projection_dim: int) -> Branches:
        """Return an encoder of each view."""
        config = self.config
        shapes = {
            role.name: EncoderConfig(
                image_size=self.dataset.image_size,
                backbone=config.backbone,
                width=config.width,
                projector=projector,
                projection_dim=projection_dim,
                in_channels=role.num_channels(3),
            )
            for role in ENTRY.roles
        }
        return Branches(BranchesConfig(branches=shapes)).to(self.device)

    def _channels(self, dataset: ImageDataset, rows: NDArray[np.int64]) -> Tensor:
        """Return normalised channels of randomly cropped and flipped images, `(B, 3, H, W)`."""
        x = to_model(dataset.images(rows), self.device)
        if self._crop is not None:
            uniforms = expert_uniforms(lambda _, count: torch.rand(len(rows), count), "crop", self._crop)
            x = expert_views(x, uniforms, self._crop)
        return self.flow.normalised(from_rgb((x + 1) / 2, self.config.space))

    def _batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the channels of a step, labelled images last, and the classes of these, int64 `(L,)`."""
        config, labelled = self.config, self.labelled
        parts, rows, targets = [], np.empty(0, np.int64), None
        if labelled is not None:
            # in another order than the images, of which they may be a part
            count = min(config.batch_size, len(labelled.rows))
            order = addressed_seed(config.seed, "labelled")
            rows = labelled.rows[batch_rows(len(labelled.rows), count, step, order)]
            targets = torch.from_numpy(labelled.targets[rows]).to(self.device)
        if self._order is not None:
            images = self._order.rows(step)
            if labelled is not None and labelled.dataset is self.dataset:
                images = images[~np.isin(images, rows)]  # none is its own negative
            if len(images):
                parts.append(self._channels(self.dataset, images))
        if labelled is not None:
            parts.append(self._channels(labelled.dataset, rows))
        return torch.cat(parts), targets

    def step(self, step: int) -> Mapping[str, float | Tensor]:
        """Train the encoders, then the flow and the classifiers, on one batch."""
        x, targets = self._batch(step)
        views, least = standardised(self.flow(x))
        if self.critic is not None:
            for _ in range(self.config.critic_steps):
                self._update(self.critic_optimiser, self._info_nce(self.critic, views.detach()))
        metrics: dict[str, float | Tensor] = {"least_deviation": least}
        losses = []
        if self.critic is not None:
            self.critic.requires_grad_(False)
            i_nce = math.log(len(x)) - self._info_nce(self.critic, views)
            self.critic.requires_grad_(True)
            losses.append(i_nce)
            metrics["i_nce"] = i_nce.detach()
        if self.classifiers is not None and targets is not None:
            scores = self.classifiers.project(by_role(views[-len(targets) :]))
            for role in ROLES:
                losses.append(F.cross_entropy(scores[role], targets))
                metrics[f"cross_entropy_{role}"] = losses[-1].detach()
        self._update(self.optimiser, torch.stack(losses).sum())
        return metrics

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Stop if a channel of the flow was not finite in a step, or varied too little.

        Raises:
            TrainingDivergedError: one did.
        """
        least = metrics["least_deviation"]
        if not least >= LEAST_DEVIATION:
            raise TrainingDivergedError(
                f"flow training: the least standard deviation of a channel is {least:.2g} at step {step}, "
                f"expected at least {LEAST_DEVIATION}: the channel collapses. Lower view_learning_rate, or "
                "choose the additive coupling or objective semi"
            )

    def _info_nce(self, critic: Branches, channels: Tensor) -> Tensor:
        z = critic(by_role(channels))
        first, rest = (z[role] for role in ROLES)
        return info_nce(first, rest, self.config.temperature)

    @staticmethod
    def _update(optimiser: torch.optim.Optimizer | None, loss: Tensor) -> None:
        assert optimiser is not None
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def picture(self) -> np.ndarray[Any, Any]:
        """Return a grid: a row of images, their first views, and their second ones."""
        rows = np.linspace(0, len(self.dataset) - 1, min(16, len(self.dataset))).round().astype(np.int64)
        images = self.dataset.images(rows)
        channels = from_rgb((to_model(images, self.device) + 1) / 2, self.config.space)
        views, _ = standardised(self.flow(self.flow.normalised(channels)))
        stored = to_storage((views / SHOWN_SPAN).clamp(-1, 1)).cpu().numpy()
        shown = role_pictures(np.repeat(stored[:, None], len(ROLES), axis=1), ENTRY.roles)
        return tile(np.concatenate([images, *shown.swapaxes(0, 1)]), len(rows))

    def _parts(self) -> dict[str, Any]:
        """Return the networks and optimisers by name."""
        found = {
            "flow": self.flow,
            "critic": self.critic,
            "classifiers": self.classifiers,
            "optimiser": self.optimiser,
            "critic_optimiser": self.critic_optimiser,
        }
        return {name: part for name, part in found.items() if part is not None}

    def state(self) -> dict[str, Any]:
        """Return networks and optimisers."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
