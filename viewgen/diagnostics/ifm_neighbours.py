"""What IFM's perturbations look like: training images nearest to perturbed positives and negatives.

With v the projection of an expert view of an image, v⁺ that of a second one and v⁻ that of another image, IFM
replaces v⁺ by v⁺ − εv and v⁻ by v⁻ + εv. The picture shows the training image whose projection has the
largest cosine with each. As ε grows, a positive loses what it shares with the anchor, and a negative takes it
on.

References:
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021, section 3 and Figure 4,
    https://arxiv.org/abs/2106.11230
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.features import evaluation_mode
from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import UsageError
from viewgen.images import to_model, to_storage
from viewgen.networks.encoder import Encoder
from viewgen.picture import tile
from viewgen.randomness import addressed_generator
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.draws import ImageDraws
from viewgen.views.expert import ExpertSource
from viewgen.views.source import Images

__all__ = ["ENTRY", "IfmNeighbours", "IfmNeighboursConfig", "perturbed"]

KINDS = ("positive", "negative")
GAP = 4
LEAST_SIDE = 48  # of a picture's tile, in pixels


class IfmNeighboursConfig(Settings):
    """Perturbations, and images that are looked at."""

    title = "ifm_neighbours"

    epsilons: tuple[float, ...] = setting((0.0, 0.1, 0.2, 1.0), "ε of the perturbations", min_length=1)
    num_images: int = setting(8, "anchors in the picture", ge=1, le=100)
    num_anchors: int = setting(256, "anchors that are measured, training images", ge=2)
    bank_size: int = setting(5000, "training images among which the nearest is looked for", ge=2)


def perturbed(anchors: Tensor, others: Tensor, epsilon: float, kind: str) -> Tensor:
    """Return v⁺ − εv of positives, v⁻ + εv of negatives, `(B, D)`.

    Args:
        anchors: v, `(B, D)`.
        others: v⁺ or v⁻, `(B, D)`.
        epsilon: ε.
        kind: ``"positive"`` or ``"negative"``.
    """
    return others - epsilon * anchors if kind == "positive" else others + epsilon * anchors


class IfmNeighbours:
    """How often the nearest training image still is the perturbed view's own, or has the anchor's class.

    Args:
        config: perturbations and images.
    """

    needs = frozenset({"encoder", "train", "expert"})

    def __init__(self, config: IfmNeighboursConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return ``own_image``, and ``anchor_class`` of each attribute, for every kind and ε.

        Raises:
            UsageError: the encoder has several branches, or a perturbation is negative.
        """
        config, train = self.config, subject.train
        if not isinstance(subject.encoder, Encoder):
            raise UsageError("views of different roles have no joint projections")
        if min(config.epsilons) < 0:
            raise UsageError(f"epsilons are {list(config.epsilons)}; expected 0 or more")
        rows = spread(len(train), config.bank_size)
        chosen = spread(len(rows), min(config.num_anchors, len(rows)))
        with evaluation_mode(subject.encoder), torch.no_grad():
            bank = torch.cat([self._project(subject, part) for part in _parts(rows, subject.batch_size)])
            views = _expert_views(subject, rows[chosen], seed)
            first, second = (
                torch.cat([subject.encoder(part) for part in one.split(subject.batch_size)]) for one in views
            )
        # the next one in a random order: no image is its own negative
        order = torch.randperm(len(chosen), generator=addressed_generator(seed, "negatives"))
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)
        others = {"positive": second, "negative": second[partner]}
        own = {"positive": chosen, "negative": chosen[partner.numpy()]}
        nearest = {
            (kind, epsilon): (perturbed(first, others[kind], epsilon, kind) @ bank.T)
            .argmax(dim=1)
            .cpu()
            .numpy()
            for kind in KINDS
            for epsilon in config.epsilons
        }
        on = f"{len(chosen):,} of {len(rows):,} {train.split}"
        measures = []
        for (kind, epsilon), found in nearest.items():
            group = f"{kind}, ε {epsilon:g}"
            measures.append(
                Measure(name="own_image", value=float((found == own[kind]).mean()), on=on, group=group)
            )
            if not train.has_classes:
                continue
            for name in (one.name for one in train.attributes if one.kind == "class"):
                labels = train.target(name)[rows]
                same = float((labels[found] == labels[chosen]).mean())
                measures.append(Measure(name="anchor_class", value=same, on=on, group=f"{name}, {group}"))
        count = min(config.num_images, len(chosen))
        shown = {
            "positive": to_storage(views[1][:count]).cpu().numpy(),
            "negative": to_storage(views[1][partner[:count]]).cpu().numpy(),
        }
        found_rows = {key: rows[found[:count]] for key, found in nearest.items()}
        subject.keep_file("neighbours.png", lambda: _picture(train, rows[chosen[:count]], shown, found_rows))
        return measures

    def _project(self, subject: Subject, rows: NDArray[np.int64]) -> Tensor:
        found: Tensor = subject.encoder(to_model(subject.train.images(rows), subject.device))
        return F.normalize(found, dim=1)


def _parts(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return np.array_split(rows, -(-len(rows) // size))


def _expert_views(subject: Subject, rows: NDArray[np.int64], seed: int) -> Tensor:
    """Return two expert views of each image, `(2, B, C, H, W)`."""
    source, found = ExpertSource(subject.expert, name="ifm neighbours"), []
    for part in _parts(rows, subject.batch_size):
        index = torch.from_numpy(part)
        pixels = torch.from_numpy(subject.train.images(part)).to(subject.device)
        found.append(
            source.views(Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index)), 2).model
        )
    return torch.cat(found, dim=1)


def _picture(
    train: ImageDataset,
    anchors: NDArray[np.int64],
    views: dict[str, NDArray[np.uint8]],
    nearest: dict[tuple[str, float], NDArray[np.int64]],
) -> bytes:
    """Return a PNG with two rows of each anchor: image, view, and the nearest image at every ε.

    The first row has the positive view, the second a view of another image.
    """
    columns = 2 + len(nearest) // len(KINDS)
    tiles = []
    for index in range(len(anchors)):
        for kind in KINDS:
            rows = [found[index] for (one, _), found in nearest.items() if one == kind]
            tiles += [train.images(anchors[[index]]), views[kind][[index]], train.images(np.array(rows))]
    scale = max(1, -(-LEAST_SIDE // train.image_size))
    data = io.BytesIO()
    Image.fromarray(tile(np.concatenate(tiles), columns, gap=GAP, scale=scale)).save(data, format="PNG")
    return data.getvalue()


ENTRY = Entry(
    name="ifm_neighbours",
    summary="training images nearest to IFM's perturbed positives and negatives (--plots draws them)",
    settings=IfmNeighboursConfig,
    needs=IfmNeighbours.needs,
    build=IfmNeighbours,
    on_request=True,
)
