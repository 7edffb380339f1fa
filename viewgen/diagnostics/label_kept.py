"""Label kept: the share of views that a classifier, which is not f, reads as the class of their image.

f cannot judge its own views: W-search holds it fixed. The classifier is fitted to real images and
cross-fitted (`viewgen.diagnostics.classifier`), so that no image is read by a classifier that has seen it.
Counted are images that it reads right themselves and whose reconstruction it reads right: what it misreads
before a view is made says nothing about views, and is reported apart.

Without single labels, two feature spaces judge instead. For each view, the share of its 5 nearest real images
under f that are among its 5 nearest under patch features; beside it, the same for the images themselves. A
view that f alone takes for its image has neighbours on which the two disagree.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, https://arxiv.org/abs/2304.00601
    GenView: Enhancing View Quality with Pretrained Generative Model for Self-Supervised Learning, Li et al.,
    2024 (views of another class as false positives), https://arxiv.org/abs/2403.12003
"""

import torch
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_over_images
from viewgen.diagnostics.classifier import NUM_FILTERS, NUM_IMAGES, ImageClassifier, image_classifier
from viewgen.diagnostics.feature_nets import EncoderFeatures
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.patches import PatchFeatures
from viewgen.diagnostics.view_sample import NUM_IMAGES as NUM_SAMPLED
from viewgen.diagnostics.view_sample import ViewSample, view_sample
from viewgen.errors import DataError
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "LabelKept", "LabelKeptConfig", "neighbours_shared", "reader_of"]

NUM_NEIGHBOURS = 5


class LabelKeptConfig(Settings):
    """Images, and the classifier that reads their views."""

    title = "label_kept"

    num_images: int = setting(NUM_SAMPLED, "images whose views are read, at most", ge=1)
    num_filters: int = setting(NUM_FILTERS, "patches in the classifier's dictionary", ge=1)
    num_training_images: int = setting(NUM_IMAGES, "real images that it is fitted to, at most", ge=10)
    per_class: bool = setting(True, "whether each class is reported too")


def reader_of(subject: Subject, num_filters: int, num_images: int) -> ImageClassifier:
    """Return the classifier of a subject's training images, built once.

    Raises:
        DataError: the images have no single label each, or are too few.
    """
    return subject.derived(
        f"classifier {num_filters} {num_images}",
        lambda: image_classifier(
            subject.train, num_filters=num_filters, num_images=num_images, device=subject.device
        ),
    )


def neighbours_shared(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], own: Tensor) -> Tensor:
    """Return the share of nearest real images that two feature spaces have in common, `(M,)`.

    Args:
        first: features of probes `(M, D)` and of real images `(B, D)` in one space.
        second: the same in the other space.
        own: number of the real image that each probe was made from, `(M,)`; it is left out.
    """
    found = []
    for probes, real in (first, second):
        distance = torch.cdist(probes, real)
        distance[torch.arange(len(own)), own] = torch.inf
        count = min(NUM_NEIGHBOURS, len(real) - 1)
        nearest = distance.topk(count, dim=1, largest=False).indices
        found.append(torch.zeros_like(distance, dtype=torch.bool).scatter_(1, nearest, True))
    return (found[0] & found[1]).sum(dim=1) / found[0].sum(dim=1)


class LabelKept:
    """Views that keep the class of their image.

    Args:
        config: images, and the classifier.
    """

    needs = frozenset({"cache", "train"})

    def __init__(self, config: LabelKeptConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return shares of views and images, with the classifier's accuracy on real images."""
        sample = view_sample(subject, self.config.num_images)
        try:
            reader = reader_of(subject, self.config.num_filters, self.config.num_training_images)
        except DataError as error:
            subject.note(f"labels were not read: {error}")
            return self._neighbours(subject, sample, seed)
        return self._read(subject, sample, reader, seed)

    def _read(
        self, subject: Subject, sample: ViewSample, reader: ImageClassifier, seed: int
    ) -> list[Measure]:
        labels, source = torch.from_numpy(sample.labels), sample.source_index
        kept = torch.stack(
            [
                reader.scores(sample.views[:, view], source).argmax(dim=1) == labels
                for view in range(sample.num_views)
            ],
            dim=1,
        )
        known = reader.scores(sample.images, source).argmax(dim=1) == labels
        used = len(reader.hits)
        measures = [
            bootstrap_measure(
                "classifier_accuracy",
                mean_over_images(reader.hits),
                used,
                seed=seed,
                on=f"{used:,} real images, held out by folds",
            )
        ]
        if sample.reconstructions is not None and bool(known.any()):
            rebuilt = reader.scores(sample.reconstructions, source).argmax(dim=1) == labels
            measures.append(
                bootstrap_measure(
                    "reconstruction_misread",
                    mean_over_images((known & ~rebuilt), known),
                    len(known),
                    seed=seed,
                    on=f"{int(known.sum()):,} images read right",
                )
            )
            known &= rebuilt
        if not bool(known.any()):
            subject.note(
                "label kept was not measured: the classifier reads no image and reconstruction right"
            )
            return measures
        share, foreign = kept.double().mean(dim=1), ~kept.all(dim=1)
        on = f"{int(known.sum()):,} images read right, of {len(sample):,}"
        for name, values in (("label_kept", share), ("images_with_foreign_view", foreign.double())):
            measures.append(_share(name, values, known, seed=seed, on=on))
        for number, name in enumerate(subject.train.class_names) if self.config.per_class else ():
            chosen = known & (labels == number)
            if bool(chosen.any()):
                on = f"{int(chosen.sum()):,} images"
                measures.append(_share("label_kept", share, chosen, seed=seed, on=on, group=name))
        return measures

    def _neighbours(self, subject: Subject, sample: ViewSample, seed: int) -> list[Measure]:
        if len(sample) < 3 or not subject.has("encoder"):
            subject.note("neighbours were not compared: that takes an encoder and at least 3 images")
            return []
        patches = PatchFeatures.of_images(sample.images, self.config.num_filters).on(subject.device)
        nets = (EncoderFeatures(subject.encoder), patches)
        real = [net.features(torch.from_numpy(sample.images).to(subject.device)).cpu() for net in nets]
        own = torch.arange(len(sample))
        shared = []
        for view in range(sample.num_views):
            pixels = torch.from_numpy(sample.views[:, view]).to(subject.device)
            probes = [net.features(pixels).cpu() for net in nets]
            shared.append(neighbours_shared((probes[0], real[0]), (probes[1], real[1]), own))
        of_images = neighbours_shared((real[0], real[0]), (real[1], real[1]), own)
        found = {
            "neighbours_agreed[f, patches]": torch.stack(shared).double().mean(dim=0),
            "neighbours_agreed[f, patches] of images": of_images.double(),
        }
        return [
            bootstrap_measure(name, mean_over_images(values), len(sample), seed=seed, on=sample.of)
            for name, values in found.items()
        ]


def _share(name: str, values: Tensor, counted: Tensor, *, seed: int, on: str, group: str = "") -> Measure:
    """Return the mean over the images that are counted, bool `(B,)`."""
    values = values[counted]
    return bootstrap_measure(name, mean_over_images(values), len(values), seed=seed, on=on, group=group)


ENTRY = Entry(
    name="label_kept",
    summary="views that a classifier of real images reads as their image's class",
    settings=LabelKeptConfig,
    needs=LabelKept.needs,
    build=LabelKept,
)
