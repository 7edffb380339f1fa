"""`viewgen models evaluate` as a function: the quality of g, e and f in one table, and a picture.

g: Fréchet and kernel distance, precision and recall of samples against training images, and the same numbers
for the test images, which say what is small. e: mean squared error (model units), PSNR, LPIPS and feature
distance of held-out images' reconstructions, unrefined and refined. f: nearest-neighbour accuracy, on test
images and on their reconstructions. Images are measured as they are stored, in 8 bits; samples are drawn with
ψ 1 and fixed noise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.diagnostics.knn import knn_accuracy
from viewgen.errors import MissingFileError, UsageError, nearest_name
from viewgen.images import to_model, to_storage
from viewgen.inversion.perceptual import LpipsDistance, resolve_perceptual
from viewgen.networks.files import Models, file_digest, load_models
from viewgen.networks.generator import SamplingGenerator, class_labels
from viewgen.networks.weights import find_models
from viewgen.randomness import addressed_normal
from viewgen.recipes import recipe
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import offline_step
from viewgen_pretrained.feature_nets import EncoderFeatures, FeatureNet, InceptionFeatures, has_inception
from viewgen_pretrained.quality import kernel_distance, psnr
from viewgen_pretrained.quality_grid import quality_grid
from viewgen_pretrained.statistics import frechet_distance, precision_recall

__all__ = ["NETWORKS", "Evaluation", "Measure", "evaluate"]

# what users call the networks → kind, and what else helps to measure them
NETWORKS = {"g": "generator", "e": "inverter", "f": "encoder"}
HELPFUL = {
    "generator": {"encoder"},
    "inverter": {"generator", "encoder", "discriminator"},
    "encoder": {"generator", "inverter"},
}
NEEDED = {"generator": set(), "inverter": {"generator"}, "encoder": set()}
BATCH = 256
NUM_SHOWN = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number.

    Attributes:
        network: ``"g"``, ``"e"`` or ``"f"``.
        name: of the measure; in brackets the network whose features it is taken on.
        value: of it.
        on: the images measured, with their counts: samples or a split, then what they are compared with.
    """

    network: str
    name: str
    value: float
    on: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        dataset: name of the data set.
        measures: the table.
        files: kind → path and sha256 of the networks used.
        notes: what could not be measured, and why.
        grid: originals, reconstructions and samples, uint8 `(height, width, 3)`; None without a generator.
    """

    dataset: str
    measures: list[Measure]
    files: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)
    grid: np.ndarray[Any, Any] | None = None


class _Evaluator:
    def __init__(
        self, models: Models, train: ImageDataset, test: ImageDataset, num_images: int, seed: int
    ) -> None:
        self.models, self.train, self.test, self.seed = models, train, test, seed
        self.train_rows = _spread(len(train), num_images)
        self.test_rows = _spread(len(test), num_images)
        self.held_out = f"{len(self.test_rows):,} {test.split}"
        self.notes: list[str] = []
        self.measures: list[Measure] = []
        self._reconstructions: np.ndarray[Any, Any] | None = None

    def add(self, network: str, name: str, value: float, on: str) -> None:
        self.measures.append(Measure(network=network, name=name, value=float(value), on=on))

    def generator(self, nets: Iterable[FeatureNet]) -> None:
        """Compare samples with training images; test images with them show what is small."""
        count = len(self.train_rows)
        samples = self.samples(count)
        for net in nets:
            real = _features(net, self.train.images(self.train_rows))
            pairs = [(samples, f"{count:,} samples, {count:,} {self.train.split}", "")]
            if self.test.split != self.train.split:
                pairs.append(
                    (
                        self.test.images(self.test_rows),
                        f"{self.held_out}, {count:,} {self.train.split}",
                        " of test images",
                    )
                )
            for images, on, suffix in pairs:
                features = _features(net, images)
                precision, recall = precision_recall(features, real)
                for statistic, value in (
                    ("frechet_distance", frechet_distance(features, real)),
                    ("kernel_distance", kernel_distance(features, real, scaled=net.scaled)),
                    ("precision", precision),
                    ("recall", recall),
                ):
                    self.add("g", net.name(statistic) + suffix, value, on)

    @torch.no_grad()
    def samples(self, count: int) -> np.ndarray[Any, Any]:
        """Return storage images of `count` seeded codes; of a class-conditional generator, with the labels
        of as many training images.
        """
        generator = self.models.generator
        assert isinstance(generator, SamplingGenerator)
        parts = []
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            z = addressed_normal((size, generator.noise_dim), self.seed, "quality", start)
            labels = None
            if generator.num_classes:
                rows = self.train_rows[np.arange(start, start + size) % len(self.train_rows)]
                labels = self._labels(self.train, rows)
            parts.append(to_storage(generator.sample(z.to(self.models.device), labels)).cpu().numpy())
        return np.concatenate(parts)

    def _labels(self, images: ImageDataset, rows: np.ndarray[Any, Any]) -> Tensor | None:
        assert self.models.generator is not None
        labels = torch.from_numpy(images.labels(rows)).to(self.models.device)
        return class_labels(labels, self.models.generator.num_classes)

    @torch.no_grad()
    def reconstructions(self) -> np.ndarray[Any, Any]:
        """Return g(e(x)) of the held-out images, uint8 `(N, 3, H, W)`."""
        generator = self.models.inverting()
        if self._reconstructions is None:
            parts = []
            for rows in np.array_split(self.test_rows, -(-len(self.test_rows) // BATCH)):
                x = to_model(self.test.images(rows), self.models.device)
                codes = generator.start(x, self._labels(self.test, rows))
                parts.append(to_storage(generator.decode(codes)).cpu().numpy())
            self._reconstructions = np.concatenate(parts)
        return self._reconstructions

    def refined(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return reconstructions from refined codes, by the data set's recipe."""
        values = recipe(self.test.name, "invert")
        name = resolve_perceptual(
            values.get("perceptual", "auto"), has_discriminator=self.models.discriminator is not None
        )
        resources = Resources(models=self.models)
        source = VIEWS.resolve("invert", self.test.name, {"perceptual": name}).build(resources)
        step = offline_step(source, resources, seed=self.seed, num_views=1)
        return np.asarray(step(self.test.batch(rows))["views"][:, 0])

    def inverter(self, num_refined: int) -> None:
        """Compare held-out images with their reconstructions."""
        originals = self.test.images(self.test_rows)
        self._compare(originals, self.reconstructions(), "", self.held_out)
        count = min(num_refined, len(self.test_rows))
        if count:
            rows = self.test_rows[_spread(len(self.test_rows), count)]
            on = f"{count:,} {self.test.split}"
            self._compare(self.test.images(rows), self.refined(rows), " refined", on)

    def _compare(
        self, originals: np.ndarray[Any, Any], made: np.ndarray[Any, Any], suffix: str, on: str
    ) -> None:
        rows = np.array_split(np.arange(len(originals)), -(-len(originals) // BATCH))
        lpips = self._lpips()
        sums: dict[str, list[Tensor]] = {}
        for part in rows:
            x, y = (to_model(images[part], self.models.device) for images in (originals, made))
            found = {"mse": (x - y).square().mean(dim=(1, 2, 3)), "psnr_db": psnr(y, x)}
            if lpips is not None:
                with torch.no_grad():
                    found["lpips"] = lpips.distance(lpips.features(x), lpips.features(y))
            if self.models.encoder is not None:
                with torch.no_grad():
                    distance = (self.models.encoder(y) - self.models.encoder(x)).norm(dim=1)
                found["feature_distance[viewgen encoder]"] = distance
            for name, values in found.items():
                sums.setdefault(name, []).append(values.cpu())
        for name, per_batch in sums.items():
            self.add("e", name + suffix, float(torch.cat(per_batch).mean()), on)

    def _lpips(self) -> LpipsDistance | None:
        try:
            resolve_perceptual("lpips", has_discriminator=False)
        except MissingFileError as error:
            note = f"LPIPS was not measured: {error}"
            if note not in self.notes:
                self.notes.append(note)
            return None
        return LpipsDistance(self.models.device)

    def encoder(self) -> None:
        """Classify held-out images, and their reconstructions, by their nearest training images."""
        assert self.models.encoder is not None
        labels = [
            torch.from_numpy(part.labels(rows))
            for part, rows in ((self.train, self.train_rows), (self.test, self.test_rows))
        ]
        if labels[0].ndim > 1 or any(bool((part < 0).any()) for part in labels):
            self.notes.append("nearest neighbours were not measured: the images have no single label each")
            return
        net = EncoderFeatures(self.models.encoder)
        known = _features(net, self.train.images(self.train_rows))
        probes = {"knn5_top1": self.test.images(self.test_rows)}
        if self.models.generator is not None and self.models.inverter is not None:
            probes["knn5_top1 of reconstructions"] = self.reconstructions()
        for name, images in probes.items():
            accuracy = knn_accuracy(known, labels[0], _features(net, images), labels[1])
            self.add("f", name, accuracy, f"{self.held_out}, {len(self.train_rows):,} {self.train.split}")

    def grid(self, num_refined: int) -> np.ndarray[Any, Any] | None:
        """Return the picture; None without a generator."""
        if self.models.generator is None:
            return None
        size = self.models.generator.image_size
        shown = _spread(len(self.test_rows), NUM_SHOWN)
        sections = [(f"originals ({self.test.split})", self.test.images(self.test_rows[shown]))]
        if self.models.inverter is not None:
            sections.append(("reconstructions g(e(x))", self.reconstructions()[shown]))
            if num_refined:
                sections.append(("refined reconstructions", self.refined(self.test_rows[shown])))
        sections.append(("samples g(z)", self.samples(2 * NUM_SHOWN)))
        return quality_grid(sections, title=f"{self.test.name}, {size} px")


def _spread(total: int, count: int) -> np.ndarray[Any, Any]:
    """Return `count` rows spread over `total`: image folders are sorted by class."""
    count = min(total, count)
    return np.arange(count) * total // max(1, count)


def _features(net: FeatureNet, images: np.ndarray[Any, Any]) -> Tensor:
    parts = np.array_split(images, -(-len(images) // BATCH))
    return torch.cat([net.features(torch.from_numpy(part)).cpu() for part in parts])


def _find(
    dataset: str,
    kinds: Iterable[str],
    models_dir: str | Path | None,
    overrides: Mapping[str, str | Path],
) -> dict[str, Path]:
    """Return the files of the networks asked for, and of those that help and are there."""
    kinds = set(kinds)
    needed = kinds.union(*(NEEDED[kind] for kind in kinds))
    found = find_models(dataset, needed, models_dir=models_dir, overrides=overrides)
    for kind in set().union(*(HELPFUL[kind] for kind in kinds)) - needed:
        try:
            found |= find_models(dataset, {kind}, models_dir=models_dir, overrides=overrides)
        except MissingFileError:
            if overrides.get(kind):
                raise
    return found


def evaluate(
    networks: Iterable[str],
    dataset: str,
    *,
    models_dir: str | Path | None = None,
    overrides: Mapping[str, str | Path] | None = None,
    data_root: str | None = None,
    num_images: int = 10_000,
    num_refined: int = 128,
    features: str = "auto",
    seed: int = 0,
    device: str = "cpu",
) -> Evaluation:
    """Measure networks on a data set.

    Args:
        networks: of ``"g"``, ``"e"`` and ``"f"``.
        dataset: name of the data set; its train split is the reference, its test split is held out.
        models_dir, overrides: as in `find_models`.
        data_root: where data sets are.
        num_images: images of each split, and samples, at most.
        num_refined: held-out images whose codes are refined too.
        features: ``"inception"`` (FID, KID), ``"encoder"``, or ``"auto"``: whatever of them is at hand.
        seed: of the samples.
        device: torch device.

    Raises:
        UsageError: an unknown network or kind of features, too few images.
        MissingFileError: networks, images or the Inception weights asked for are not there.
    """
    wanted = list(dict.fromkeys(networks))
    for name in wanted:
        if name not in NETWORKS:
            raise UsageError(
                f"no network {name!r}{nearest_name(name, NETWORKS)} (known: {', '.join(NETWORKS)})"
            )
    if features not in ("auto", "inception", "encoder"):
        raise UsageError(f"features is {features!r}; expected 'auto', 'inception' or 'encoder'")
    if num_images < 4 or num_refined < 0 or not wanted:
        raise UsageError("expected at least one network, at least 4 images, and at least 0 to be refined")
    paths = _find(dataset, [NETWORKS[name] for name in wanted], models_dir, overrides or {})
    train = load_dataset(dataset, "train", data_root=data_root)
    try:
        test = load_dataset(dataset, "test", data_root=data_root)
    except UsageError:  # an image folder without a test split
        test = train
    models = load_models(paths, device)
    for kind in paths:
        size = getattr(models, kind).config.image_size
        if size != train.image_size:
            raise UsageError(
                f"the {kind} at {paths[kind]} is for {size}-px images, those of {train.name} have "
                f"{train.image_size} px"
            )
    evaluator = _Evaluator(models, train, test, num_images, seed)
    if test is train:
        evaluator.notes.append(f"{dataset} has no test split: nothing is held out, all is measured on train")
    if "g" in wanted:
        evaluator.generator(_nets(models, features))
    if "e" in wanted:
        evaluator.inverter(num_refined)
    if "f" in wanted:
        evaluator.encoder()
    return Evaluation(
        dataset=train.name,
        measures=evaluator.measures,
        files={kind: {"file": str(path), "sha256": file_digest(path)} for kind, path in paths.items()},
        notes=evaluator.notes,
        grid=evaluator.grid(num_refined if "e" in wanted else 0),
    )


def _nets(models: Models, features: str) -> list[FeatureNet]:
    nets: list[FeatureNet] = []
    if features == "inception" or (features == "auto" and has_inception()):
        nets.append(InceptionFeatures(models.device))
    if features != "inception" and models.encoder is not None:
        nets.append(EncoderFeatures(models.encoder))
    if not nets:
        raise MissingFileError(
            "a generator is measured on features: neither Inception weights (pip install 'viewgen[fid]' and "
            "its file) nor an encoder (viewgen pretrain encoder, or --encoder FILE) are at hand"
        )
    return nets
