"""Recognition of held-out images, and of their reconstructions, by their nearest training images.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, https://arxiv.org/abs/2304.00601
"""

import torch

from viewgen.diagnostics.feature_nets import EncoderFeatures
from viewgen.diagnostics.generated import compared_rows, net_features, reconstructions
from viewgen.diagnostics.knn import knn_accuracy
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Recognition", "RecognitionConfig"]


class RecognitionConfig(Settings):
    """Number of compared images."""

    title = "recognition"

    num_images: int = setting(10_000, "images of each split at most", ge=1)


class Recognition:
    """5-NN accuracy on held-out images, and on their reconstructions where g and e are available.

    Args:
        config: number of compared images.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: RecognitionConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the accuracies; no randomness is involved."""
        train_rows, test_rows = compared_rows(subject, self.config.num_images)
        labels = [
            torch.from_numpy(part.labels(rows))
            for part, rows in ((subject.train, train_rows), (subject.test, test_rows))
        ]
        if labels[0].ndim > 1 or any(bool((part < 0).any()) for part in labels):
            subject.note("nearest neighbours were not measured: the images have no single label each")
            return []
        net = EncoderFeatures(subject.encoder)
        known = net_features(net, subject.train.images(train_rows))
        shown = {"knn5_top1": subject.test.images(test_rows)}
        if subject.has("inverting"):
            shown["knn5_top1 of reconstructions"] = reconstructions(subject, test_rows)
        on = f"{len(test_rows):,} {subject.test.split}, {len(train_rows):,} {subject.train.split}"
        return [
            Measure(
                name=name,
                value=knn_accuracy(known, labels[0], net_features(net, images), labels[1]),
                on=on,
                group="f",
            )
            for name, images in shown.items()
        ]


ENTRY = Entry(
    name="recognition",
    summary="5-NN accuracy on held-out images and on their reconstructions",
    settings=RecognitionConfig,
    needs=Recognition.needs,
    build=Recognition,
)
