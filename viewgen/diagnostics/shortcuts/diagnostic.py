"""Whether an encoder's optimum would be left along a new dimension, on a sample of projections."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.features import evaluation_mode
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.shortcuts.limit import Normalisation, lifted_curvature, lim_nce, optimal_value
from viewgen.documents import read_object
from viewgen.errors import CorruptDataError, UsageError
from viewgen.networks.encoder import Encoder
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.draws import ImageDraws
from viewgen.views.expert import ExpertSource
from viewgen.views.source import Images

__all__ = ["ENTRY", "Shortcuts", "ShortcutsConfig"]

DEFAULT_TEMPERATURE = 0.1


class ShortcutsConfig(Settings):
    """Sample and temperature of the measurement."""

    title = "shortcuts"

    num_images: int = setting(500, "test images, each with two expert views", ge=2, le=1000)
    temperature: float | None = setting(
        None, "τ of the loss; by default the training's own, or 0.1 where it has none", gt=0
    )
    normalisation: Normalisation = setting(
        "pairs", "pairs: attraction as a mean over positive pairs; printed: over all n² pairs"
    )


class Shortcuts:
    """E_limNCE of projections of expert views, and the curvature along a dimension that they do not use.

    Args:
        config: sample and temperature.
    """

    needs = frozenset({"encoder", "test", "expert"})

    def __init__(self, config: ShortcutsConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the loss, its optimum, the smallest eigenvalue of Q, and what the way out tells apart.

        `escape_share` of an attribute is the share of the eigenvector's variance between its classes: 1 if
        the new dimension would separate its values alone, about (K − 1) / n if it ignores them.

        Raises:
            UsageError: the encoder has several branches.
            CorruptDataError: the record of a training is damaged.
        """
        if not isinstance(subject.encoder, Encoder):
            raise UsageError("views of different roles have no joint projections")
        config = self.config
        count = min(config.num_images, len(subject.test))
        rows = np.linspace(0, len(subject.test) - 1, count).round().astype(np.int64)
        points = self._projections(subject, rows, seed).double().cpu()
        positives = partners(count)
        tau = config.temperature or _trained_temperature(subject) or DEFAULT_TEMPERATURE
        how = config.normalisation
        energy = float(lim_nce(points, positives, tau, how))
        values, vectors = torch.linalg.eigh(lifted_curvature(points, positives, tau, how))
        on = f"{count:,} {subject.test.split}, two expert views of each, τ {tau:g}"
        found = {
            "lim_nce": energy,
            "optimal_lim_nce": optimal_value(points.shape[1], tau),
            "smallest_curvature": float(values[0]),
        }
        measures = [Measure(name=name, value=value, on=on) for name, value in found.items()]
        for attribute in subject.test.attributes:
            labels = subject.test.target(attribute.name)[rows]
            if attribute.kind == "class" and (labels >= 0).all():
                share = between_classes(vectors[:, 0], torch.from_numpy(labels).repeat(2))
                measures.append(Measure(name="escape_share", value=share, on=on, group=attribute.name))
        return measures

    @torch.no_grad()
    def _projections(self, subject: Subject, rows: NDArray[np.int64], seed: int) -> Tensor:
        """Return unit projections of two expert views of each image, the first ones first, `(2·N, D)`."""
        source, found = ExpertSource(subject.expert, name="shortcuts"), []
        with evaluation_mode(subject.encoder):
            for part in np.array_split(rows, -(-len(rows) // subject.batch_size)):
                index = torch.from_numpy(part)
                pixels = torch.from_numpy(subject.test.images(part)).to(subject.device)
                images = Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index))
                views = source.views(images, 2).model
                found.append(subject.encoder(views.flatten(0, 1)).unflatten(0, (2, -1)))
        return F.normalize(torch.cat(found, dim=1).flatten(0, 1), dim=1)


def _trained_temperature(subject: Subject) -> float | None:
    """Return τ of the objective of a training; None for another subject, or an objective without one."""
    if not subject.has("run"):
        return None
    path = subject.part("run") / "config.json"
    record = read_object(path).get("config")
    settings = record
    if isinstance(record, dict) and "objective" in record:
        settings = record["objective"].get("settings") if isinstance(record["objective"], dict) else None
    elif isinstance(record, dict):  # of version 0.1.0, with a temperature that SimSiam does not use
        bare = {"simsiam", "A2-simsiam"} & {record.get("loss"), record.get("assimilation")}
        settings = {} if bare else record
    if not isinstance(settings, dict):
        raise CorruptDataError(f"{path} has the settings {settings!r} of its objective; expected a table")
    tau = settings.get("temperature")
    if tau is not None and not (isinstance(tau, int | float) and tau > 0):
        raise CorruptDataError(f"{path} has the temperature {tau!r}; expected a number above 0")
    return tau


def partners(count: int) -> Tensor:
    """Return λ of two views each of `count` images: 1 for the other view of an image, `(2·N, 2·N)`."""
    return torch.eye(count, dtype=torch.float64).repeat(2, 2) - torch.eye(2 * count, dtype=torch.float64)


def between_classes(values: Tensor, labels: Tensor) -> float:
    """Return the share of the variance of values `(N,)` that lies between classes `(N,)`; 0 without any."""
    centred = values - values.mean()
    total = float(centred.square().sum())
    _, index = labels.unique(return_inverse=True)
    sums = torch.zeros(int(index.max()) + 1, dtype=values.dtype).index_add_(0, index, centred)
    counts = index.bincount()
    return float((sums.square() / counts).sum()) / total if total > 0 else 0.0


ENTRY = Entry(
    name="shortcuts",
    summary="curvature of the limit loss along a new dimension, and the attributes that it would tell apart",
    settings=ShortcutsConfig,
    needs=Shortcuts.needs,
    build=Shortcuts,
    on_request=True,
)
