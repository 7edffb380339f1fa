"""Collapse of an encoder: features that fall on one point, or in few directions.

- RankMe and effective rank count the directions that features use, from 1 to the smaller of their number and
  their dimension. RankMe is the exponential of the entropy of the singular values' shares, without centring;
  the effective rank is that of the centred features' variances.
- The deviation is √D times the mean standard deviation of the coordinates of unit vectors: 1 if they lie
  evenly on the sphere, 0 if all are equal.
- Alignment and uniformity are those of `viewgen.diagnostics.alignment`, of projections of two expert views.

Shape legend: N images, D dimension.

References:
    RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank,
    Garrido et al., 2023, https://arxiv.org/abs/2210.02885
    The Effective Rank: A Measure of Effective Dimensionality, Roy and Vetterli, 2007,
    https://www.eurasip.org/Proceedings/Eusipco/Eusipco2007/Papers/a5p-h05.pdf
    Exploring Simple Siamese Representation Learning, Chen and He, 2021 (deviation), section 4.1,
    https://arxiv.org/abs/2011.10566
    Understanding Dimensional Collapse in Contrastive Self-supervised Learning, Jing et al., 2022,
    https://arxiv.org/abs/2110.09348
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.diagnostics.alignment import MAX_IMAGES, alignment, uniformity
from viewgen.diagnostics.features import evaluation_mode
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.branched import BranchedEncoder
from viewgen.views.draws import ImageDraws
from viewgen.views.expert import ExpertSource
from viewgen.views.source import Images

__all__ = [
    "ENTRY",
    "Collapse",
    "CollapseConfig",
    "collapse_warning",
    "constant_warning",
    "effective_rank",
    "feature_measures",
    "projection_measures",
    "rankme",
    "unit_deviation",
]

COLLAPSED_DEVIATION = 0.05
COLLAPSED_RANK = 1.5
# of the largest projection, below which a deviation is rounding
CONSTANT = 1e-6
IMAGES_AT_ONCE = 256


def rankme(features: Tensor) -> float:
    """Return RankMe of features `(N, D)`; 0 if all are 0."""
    return _entropy_rank(_gram_eigenvalues(features.double()).sqrt())


def effective_rank(features: Tensor) -> float:
    """Return the effective rank of the covariance matrix of features `(N, D)`; 0 without variance."""
    features = features.double()
    return _entropy_rank(_gram_eigenvalues(features - features.mean(dim=0)))


def unit_deviation(features: Tensor) -> float:
    """Return √D times the mean standard deviation of the coordinates of normalised features `(N, D)`."""
    z = F.normalize(features.double(), dim=1)
    return float(z.shape[1] ** 0.5 * z.std(dim=0, correction=0).mean())


def _gram_eigenvalues(x: Tensor) -> Tensor:
    """Return the squared singular values of `(N, D)` that exceed rounding, in float64."""
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    values: Tensor = torch.linalg.eigvalsh(gram.cpu()).clamp_min(0)
    noise = torch.finfo(values.dtype).eps * max(x.shape) * float(x.square().sum())
    return values[values > noise]


def _entropy_rank(values: Tensor) -> float:
    """Return the exponential of the entropy of the shares of positive values."""
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_measures(features: Tensor) -> dict[str, float]:
    """Return ``rankme``, ``effective_rank`` and ``feature_sd`` of backbone features `(N, D)`."""
    return {
        "rankme": rankme(features),
        "effective_rank": effective_rank(features),
        "feature_sd": unit_deviation(features),
    }


def projection_measures(z1: Tensor, z2: Tensor | None = None) -> dict[str, float]:
    """Return ``projection_sd`` and ``projection_rankme``, of two views ``alignment`` and ``uniformity`` too.

    Args:
        z1, z2: projections of any length, `(N, D)`; at most 2048 images are compared, the first. z2 is None
            for objectives of one view.
    """
    z1 = F.normalize(z1[:MAX_IMAGES].double(), dim=1)
    found = {"projection_sd": unit_deviation(z1), "projection_rankme": rankme(z1)}
    if z2 is None:
        return found
    z2 = F.normalize(z2[:MAX_IMAGES].double(), dim=1)
    return found | {
        "alignment": alignment(z1, z2),
        "uniformity": (uniformity(z1) + uniformity(z2)) / 2,
    }


def collapse_warning(measures: Mapping[str, float]) -> str | None:
    """Return a sentence about a collapse of projections, or None if there is none.

    Features are no evidence: those behind a rectifier have a large common part, and data may have one factor.

    Args:
        measures: values of `projection_measures`, among others.
    """
    deviation = measures.get("projection_sd", 1.0)
    if deviation < COLLAPSED_DEVIATION:
        return (
            f"the encoder has collapsed: the projections of all images are nearly the same (their standard "
            f"deviation is {deviation:.2g}, where evenly spread ones have 1). Lower the learning rate, or "
            "choose an --objective that keeps images apart by negatives or variances"
        )
    rank = measures.get("projection_rankme", COLLAPSED_RANK)
    if rank < COLLAPSED_RANK:
        return (
            f"the encoder has collapsed: the projections of all images lie on one line (their RankMe is "
            f"{rank:.2g}, at least 1). Lower the learning rate, or choose an --objective that decorrelates "
            "dimensions or has negatives"
        )
    return None


class CollapseConfig(Settings):
    """Extent of the measurement."""

    title = "collapse"

    num_images: int = setting(MAX_IMAGES, "test images whose expert views are compared", ge=2, le=MAX_IMAGES)


class Collapse:
    """Rank and spread of features of test images, alignment and uniformity of their expert views.

    Args:
        config: extent of the measurement.
    """

    needs = frozenset({"encoder", "train", "test", "expert"})

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config

    def values(self, subject: Subject, seed: int) -> dict[str, float]:
        """Return all measures by name; those of projections only if the encoder has joint ones."""
        _, test = subject.features
        values = feature_measures(test.embeddings)
        if isinstance(subject.encoder, BranchedEncoder):
            subject.note("collapse: views of different roles have no joint projection to compare")
        elif len(subject.test) > 1:
            values |= projection_measures(*self._projections(subject, seed))
        return values

    @torch.no_grad()
    def _projections(self, subject: Subject, seed: int) -> tuple[Tensor, Tensor]:
        """Return the projections of two expert views of evenly spread test images, `(N, D)` each."""
        count = min(self.config.num_images, len(subject.test))
        rows = np.linspace(0, len(subject.test) - 1, count).round().astype(np.int64)
        source, found = ExpertSource(subject.expert, name="collapse"), []
        with evaluation_mode(subject.encoder):
            for start in range(0, count, IMAGES_AT_ONCE):
                part = rows[start : start + IMAGES_AT_ONCE]
                index = torch.from_numpy(part)
                pixels = torch.from_numpy(subject.test.images(part)).to(subject.device)
                images = Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index))
                views = source.views(images, 2).model
                found.append(subject.encoder(views.flatten(0, 1)).unflatten(0, (2, -1)))
        z1, z2 = torch.cat(found, dim=1)
        return z1, z2

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the measures, and note a collapse."""
        values = self.values(subject, seed)
        warning = collapse_warning(values)
        if warning is not None:
            subject.note(warning)
        on = f"{len(subject.test):,} {subject.test.split}"
        return [Measure(name=name, value=value, on=on) for name, value in values.items()]


ENTRY = Entry(
    name="collapse",
    summary="rank and spread of the features, alignment and uniformity of expert views",
    settings=CollapseConfig,
    needs=Collapse.needs,
    build=Collapse,
)


def constant_warning(projections: Tensor) -> str | None:
    """Return a sentence about dimensions of projections that are the same for all images, or None.

    Args:
        projections: projections of a batch, of any length, `(N, D)`.
    """
    deviation = projections.std(dim=0, correction=0)
    still = int((deviation <= CONSTANT * projections.abs().amax().clamp_min(1e-30)).sum())
    if not still or len(projections) < 2:
        return None
    return (
        f"{still} of {projections.shape[1]} dimensions of the projections are the same for all images of a "
        "batch: they tell nothing. Lower the learning rate"
    )
