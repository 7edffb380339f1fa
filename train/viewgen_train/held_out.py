"""I_NCE of the views of a training on held-out images, with the training's own critic.

I_NCE = ln K − L, where L is InfoNCE's loss among K candidates, one of which is right. It is a lower bound of
the mutual information of the two views for any critic, and at most ln K. The critic is that of the objective:
the product of both projections, divided by τ. Both directions are averaged, whatever the objective does. Of
an objective that changes InfoNCE's negatives (IFM, hard negatives) or adds a reconstruction it is that of
InfoNCE alone, so that ln K − I_NCE compares encoders by one loss.

References:
    Representation Learning with Contrastive Predictive Coding, van den Oord et al., 2018,
    https://arxiv.org/abs/1807.03748
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    https://arxiv.org/abs/2005.10243

Shape legend: N images, D projection dimension.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.datasets.moving_digits import RenderedClips
from viewgen.diagnostics.features import evaluation_mode
from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimate import bootstrap
from viewgen.diagnostics.mutual_information.infonce import InfoNCE
from viewgen.networks.branches import Branches
from viewgen.networks.encoder import Encoder
from viewgen.randomness import addressed_generator
from viewgen.views.branched import BranchedEncoder, ImageEncoder
from viewgen.views.draws import ImageDraws
from viewgen.views.source import Images
from viewgen_train.checkpoints import CHECKPOINT, LAST, read_checkpoint
from viewgen_train.distributed import World
from viewgen_train.network import ContrastiveNetwork, of_role
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.contrast import Counted
from viewgen_train.objectives.objective import Combinator, Widths
from viewgen_train.objectives.sequence import Sequence
from viewgen_train.run import read_step
from viewgen_train.settings import TrainSettings
from viewgen_train.worker import build_source

__all__ = ["held_out_i_nce", "trained_objective", "training_ceiling"]

MAX_IMAGES, IMAGES_AT_ONCE = 1024, 128
FEWEST_IMAGES = 8


@torch.no_grad()
def held_out_i_nce(
    settings: TrainSettings,
    encoder: ImageEncoder,
    dataset: ImageDataset,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    objective_state: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Return I_NCE of the two views that a training contrasts, on images that it has not seen.

    Args:
        settings: settings of the training.
        encoder: its encoder, or encoders of the roles, on `device`; not changed.
        dataset: held-out images, of which at most 1024 are used, evenly spread and in random order: of images
            sorted by class the candidates would all be of one.
        seed: seed of the order, the views and the interval's resamplings.
        device: device of the encoder.
        objective_state: trained networks of the objective, see `trained_objective`; a clip has none without.

    Returns:
        ``nats`` with the ends ``low`` and ``high`` of its 95 % interval over the images, ``ceiling`` ln K,
        ``saturated`` within 1 nat of it, ``candidates`` K (a training's batch, or all images if they are
        fewer) and ``images``, those of whole batches of K; None if the objective has no InfoNCE loss of two
        views, or the views of held-out images are not at hand. Of clips one of the two is the clip.
    """
    views = encoder.views if isinstance(encoder, BranchedEncoder) else settings.views
    settings = replace(settings, views=views)
    objective = _unchanged(build_objective(settings))
    count = min(MAX_IMAGES, len(dataset))
    usable = isinstance(objective, Counted) and settings.assimilation.kind == "none"
    if not usable or count < FEWEST_IMAGES:
        return None
    assert isinstance(objective, Counted)
    network = encoder.branches if isinstance(encoder, BranchedEncoder) else encoder
    is_clip = isinstance(objective, Sequence) and isinstance(dataset.pixels, RenderedClips)
    if isinstance(objective, Sequence):
        if objective_state is None or not is_clip or not isinstance(network, Encoder):
            return None
        widths = Widths(features=network.embedding_dim, projections=settings.network.projection_dim)
        objective.allocate(widths)
        objective.load_state_dict(objective_state)
        objective.to(device)
    elif views.entry.needs:
        return None
    roles = encoder.roles if isinstance(encoder, BranchedEncoder) else ()
    contrastive = ContrastiveNetwork(network, objective.head, None, separate=True, bf16=False, roles=roles)
    clips = dataset if is_clip else None
    source = build_source(settings, contrastive, World(), torch.device(device), dataset=clips)
    spread = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64)
    rows = spread[torch.randperm(count, generator=addressed_generator(seed, "held-out i_nce")).numpy()]
    sides: list[tuple[Tensor, Tensor]] = []
    with evaluation_mode(network):
        for start in range(0, count, IMAGES_AT_ONCE):
            part = rows[start : start + IMAGES_AT_ONCE]
            index = torch.from_numpy(part)
            pixels = torch.from_numpy(dataset.images(part)).to(device)
            images = Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index))
            num_views = objective.num_generated if isinstance(objective, Sequence) else 2
            made = source.views(images, num_views).model
            if isinstance(objective, Sequence):
                clip = objective.clip(torch.stack([network.embed(frames) for frames in made[:-1]]))
                sides.append((clip.cpu(), _projected(network, made, -1, roles)))
            else:
                sides.append((_projected(network, made, 0, roles), _projected(network, made, 1, roles)))
    z1, z2 = (torch.cat(side).double() for side in zip(*sides, strict=True))
    candidates = min(settings.optimiser.batch_size, count)
    scores = (z1 @ z2.T / objective.temperature)[None]
    found = bootstrap(InfoNCE(candidates), [scores], MIConfig(), seed)
    return {
        "nats": round(found.nats, 6),
        "low": round(found.low, 6),
        "high": round(found.high, 6),
        "ceiling": round(float(np.log(candidates)), 6),
        "saturated": found.saturated,
        "candidates": candidates,
        "images": count // candidates * candidates,
    }


def trained_objective(folder: Path, settings: TrainSettings) -> dict[str, Any] | None:
    """Return the trained networks of an objective, as far as held-out I_NCE needs them: the LSTM of clips.

    They are in the checkpoint alone. None for other objectives, or without a checkpoint of the last weights.

    Raises:
        CorruptDataError: the checkpoint is damaged.
    """
    if not isinstance(_unchanged(build_objective(settings)), Sequence):
        return None
    checkpoint = read_checkpoint(folder / CHECKPOINT)
    if checkpoint is None or checkpoint["trainer"]["step"] != read_step(folder / LAST):
        return None
    found: dict[str, Any] | None = checkpoint["trainer"].get("objective")
    return found


def _unchanged(objective: Any) -> Any:
    """Return the objective that others change or add to."""
    while isinstance(objective, Combinator):
        objective = objective.base
    return objective


def training_ceiling(settings: TrainSettings) -> float | None:
    """Return ln K, the most that a training's own I_NCE can be; None if its objective has no such number."""
    objective = build_objective(settings)
    if not isinstance(objective, Counted):
        return None
    return float(np.log(objective.num_candidates(settings.optimiser.batch_size)))


def _projected(network: Any, views: Tensor, place: int, roles: tuple[Any, ...]) -> Tensor:
    """Return unit projections of one of the views `(2, N, C, H, W)`, `(N, D)` on the CPU."""
    view = views[place]
    if isinstance(network, Branches):
        role = roles[place]
        z: Tensor = of_role(network, role.name)(role.of(view))
    else:
        z = network(view)
    return z.cpu()
