"""Fidelity of a generator: distances, precision and recall of its samples against training images.

The same numbers for the test images give the scale. Images are measured as stored, in 8 bits.

References:
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, Heusel et al., 2017
    (FID), https://arxiv.org/abs/1706.08500
    Demystifying MMD GANs, Bińkowski et al., 2018 (KID), https://arxiv.org/abs/1801.01401
    Improved Precision and Recall Metric for Assessing Generative Models, Kynkäänniemi et al., 2019,
    https://arxiv.org/abs/1904.06991
"""

from typing import Literal

import torch

from viewgen.diagnostics.distances import frechet_distance, kernel_distance, precision_recall
from viewgen.diagnostics.feature_nets import EncoderFeatures, FeatureNet, InceptionFeatures, has_inception
from viewgen.diagnostics.generated import compared_rows, net_features, samples
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import MissingFileError
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Fidelity", "FidelityConfig"]


class FidelityConfig(Settings):
    """Samples and images of the measurement."""

    title = "fidelity"

    features: Literal["auto", "inception", "encoder"] = setting(
        "auto", "network of the features: inception gives FID and KID; auto takes all that is at hand"
    )
    num_images: int = setting(10_000, "images of each split, and samples, at most", ge=4)


class Fidelity:
    """Fréchet and kernel distance, precision and recall of samples.

    Args:
        config: samples and images of the measurement.
    """

    needs = frozenset({"generator", "train", "test"})

    def __init__(self, config: FidelityConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the numbers of the samples and of the test images, by feature network."""
        train_rows, test_rows = compared_rows(subject, self.config.num_images)
        train, test, count = subject.train, subject.test, len(train_rows)
        made = samples(subject, train_rows, count, seed)
        measures = []
        for net in self._nets(subject):
            real = net_features(net, train.images(train_rows))
            compared = [(made, f"{count:,} samples, {count:,} {train.split}", "")]
            if test.split != train.split:
                on = f"{len(test_rows):,} {test.split}, {count:,} {train.split}"
                compared.append((test.images(test_rows), on, " of test images"))
            for images, on, suffix in compared:
                features = net_features(net, images)
                precision, recall = precision_recall(features, real)
                for statistic, value in (
                    ("frechet_distance", frechet_distance(features, real)),
                    ("kernel_distance", kernel_distance(features, real, scaled=net.scaled)),
                    ("precision", precision),
                    ("recall", recall),
                ):
                    name = net.name(statistic) + suffix
                    measures.append(Measure(name=name, value=float(value), on=on, group="g"))
        return measures

    def _nets(self, subject: Subject) -> list[FeatureNet]:
        nets: list[FeatureNet] = []
        asked = self.config.features
        if asked == "inception" or (asked == "auto" and has_inception()):
            nets.append(InceptionFeatures(torch.device(subject.device)))
        if asked != "inception" and subject.has("encoder"):
            nets.append(EncoderFeatures(subject.encoder))
        if not nets:
            raise MissingFileError(
                "a generator is measured on features: neither Inception weights (pip install 'viewgen[fid]' "
                "and its file) nor an encoder (viewgen pretrain encoder, or --encoder FILE) are at hand"
            )
        return nets


ENTRY = Entry(
    name="fidelity",
    summary="distances, precision and recall of a generator's samples",
    settings=FidelityConfig,
    needs=Fidelity.needs,
    build=Fidelity,
)
