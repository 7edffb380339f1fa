"""Scores of every view of a cache, for filters and weights in a training.

- label_margin: score of the class of the image minus the largest of the others, by the classifier of
  `viewgen.diagnostics.label_kept`; below 0 where a view is read as another class, NaN for all views of an
  image that is misread itself or has no label;
- density: number of balls of other real images that hold the view, divided by k (see
  `viewgen.diagnostics.realism`), in f's features, or in those of patches where there is no encoder;
- nearest_view: distance under f to the nearest other view of the same image, for caches with two views or
  more and an encoder; near 0 where a view repeats another.

The distance of each view from its anchor is an array of the cache anyway.

Shape legend: N images of the cache, V views of each, B images of a block, M reference images.

References:
    GenView: Enhancing View Quality with Pretrained Generative Model for Self-Supervised Learning, Li et al.,
    2024 (scores of pairs in the loss), https://arxiv.org/abs/2403.12003
    Reliable Fidelity and Diversity Metrics for Generative Models, Naeem et al., 2020 (density),
    https://arxiv.org/abs/2002.09797
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.classifier import NUM_FILTERS, NUM_IMAGES
from viewgen.diagnostics.feature_nets import EncoderFeatures, FeatureNet
from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.label_kept import reader_of
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.mutual_information.views import check_cache
from viewgen.diagnostics.patches import PatchFeatures
from viewgen.diagnostics.realism import balls_holding
from viewgen.errors import DataError
from viewgen.networks.batched import images_at_once, project
from viewgen.networks.encoder import Encoder
from viewgen.store import CacheReader

__all__ = ["label_margins", "nearest_views", "view_scores"]

NUM_NEIGHBOURS = 5
NUM_REFERENCES = 2_000
BLOCK = 256


def label_margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the score of each label minus the largest other one, `(B,)`, of scores `(B, K)`."""
    own = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(dim=1)


def nearest_views(encoder: Encoder, views: Tensor) -> Tensor:
    """Return the distance of each view to the nearest other view of its image under f, `(B, V)`.

    Args:
        encoder: f, on the device of the views.
        views: uint8 `(B, V, C, H, W)`, V at least 2.
    """
    at_once = images_at_once(views.shape[-1], views.device)
    z = project(encoder, views.flatten(0, 1), at_once).unflatten(0, views.shape[:2]).cpu()
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.eye(views.shape[1], dtype=torch.bool)
    return distance.masked_fill(own, torch.inf).amin(dim=2)


def view_scores(subject: Subject) -> dict[str, NDArray[np.float32]]:
    """Return name → scores `(N, V)`, float32, NaN where a view has none.

    Args:
        subject: subject with the parts ``cache`` and ``train``, and ``encoder`` where there is one.

    Raises:
        DataError: the cache holds no views, or too few images.
    """
    reader: CacheReader = subject.part("cache")
    check_cache(reader, subject.train)
    references = reader.rows[spread(len(reader), NUM_REFERENCES)]
    if len(references) < NUM_NEIGHBOURS + 3:
        raise DataError(
            f"{reader.url} has {len(references)} images; scores compare at least {NUM_NEIGHBOURS + 3}"
        )
    found = {"density": _unknown(reader)}
    of_labels = _LabelMargin.of(subject)
    if of_labels is not None:
        found["label_margin"] = _unknown(reader)
    if subject.has("encoder") and reader.spec.num_views > 1:
        found["nearest_view"] = _unknown(reader)
    density = _Density(subject, reader.array("source_index", references))
    done = 0
    for rows in np.array_split(reader.rows, -(-len(reader) // BLOCK)):
        source, views = reader.array("source_index", rows), reader.views(rows)
        for view in range(views.shape[1]):
            found["density"][rows, view] = density.of(views[:, view], source).numpy()
            if of_labels is not None:
                found["label_margin"][rows, view] = of_labels.of_views(views[:, view], source).numpy()
        if "nearest_view" in found:
            pixels = torch.from_numpy(views).to(subject.device)
            found["nearest_view"][rows] = nearest_views(subject.encoder, pixels).numpy()
        done += len(rows)
        subject.tell("scores", done, len(reader))
    return found


def _unknown(reader: CacheReader) -> NDArray[np.float32]:
    return np.full((reader.spec.num_images, reader.spec.num_views), np.nan, np.float32)


class _LabelMargin:
    """Margins of views by the classifier of a subject's images."""

    def __init__(self, subject: Subject) -> None:
        self.dataset, self.reader = subject.train, reader_of(subject, NUM_FILTERS, NUM_IMAGES)

    @classmethod
    def of(cls, subject: Subject) -> "_LabelMargin | None":
        """Return the margins of a subject; None, with a note, if its images have no single label each."""
        try:
            return cls(subject)
        except DataError as error:
            subject.note(f"label margins were not computed: {error}")
            return None

    def of_views(self, views: NDArray[np.uint8], source: NDArray[np.int64]) -> Tensor:
        """Return margins `(B,)`; NaN for images that are misread themselves."""
        labels = torch.from_numpy(self.dataset.labels(source))
        known = self.reader.scores(self.dataset.images(source), source).argmax(dim=1) == labels
        margins = label_margins(self.reader.scores(views, source), labels)
        return margins.masked_fill(~known, torch.nan)


class _Density:
    """Densities of views among real images."""

    def __init__(self, subject: Subject, references: NDArray[np.int64]) -> None:
        self.device = subject.device
        images = subject.train.images(references)
        self.net: FeatureNet = (
            EncoderFeatures(subject.encoder)
            if subject.has("encoder")
            else PatchFeatures.of_images(images, NUM_FILTERS).on(self.device)
        )
        self.place = {source: number for number, source in enumerate(references.tolist())}
        self.real = torch.cat(
            [self._features(part) for part in np.array_split(images, -(-len(images) // BLOCK))]
        )

    def of(self, views: NDArray[np.uint8], source: NDArray[np.int64]) -> Tensor:
        """Return densities `(B,)`."""
        own = torch.tensor([self.place.get(one, -1) for one in source.tolist()])
        held = balls_holding(self._features(views), self.real, NUM_NEIGHBOURS, own=own)
        return held.sum(dim=1) / NUM_NEIGHBOURS

    def _features(self, images: NDArray[np.uint8]) -> Tensor:
        return self.net.features(torch.from_numpy(images).to(self.device)).cpu()
