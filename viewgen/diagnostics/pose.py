"""Key points read out of frozen maps: a decoder of four layers, told as PCKh.

Three transposed 4×4 convolutions with batch normalisation and rectifier, and a 1×1 convolution, lead from the
encoder's last map to a heat map of each key point. The decoder learns Gaussians around the annotated points,
by the mean squared error; points that are not annotated, or lie outside of the image, weigh nothing. A
predicted point is the largest value of its heat map, a quarter of a pixel towards the larger neighbour. PCKh
is the share of annotated test points whose error is at most half of the head's size. That of a pair is the
mean of left and right, however many of either are annotated; the total weighs every annotated point alike.

Any data set can be read out that has, for each key point NAME, a class attribute NAME (1 where it is
annotated), real numbers NAME.x and NAME.y, and a real number head_size, in pixels (`viewgen.datasets.mpii`).

Shape legend: N images, B batch, P key points, F features, h, w sides of a map, S side of an image.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, Tables 2 and 9,
    https://arxiv.org/abs/2012.09962
    Simple Baselines for Human Pose Estimation and Tracking, Xiao, Wu and Wei, 2018,
    https://arxiv.org/abs/1804.06208
    2D Human Pose Estimation: New Benchmark and State of the Art Analysis, Andriluka et al., 2014 (PCKh),
    https://doi.org/10.1109/CVPR.2014.471
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.features import evaluation_mode
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import DataError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.randomness import addressed_generator, addressed_seed
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = [
    "ENTRY",
    "KeyPoints",
    "Pose",
    "PoseConfig",
    "heat_maps",
    "key_points",
    "pckh",
    "pose_decoder",
    "read_off",
]

HEAD_SIZE = "head_size"
SIDES = ("left_", "right_")


class PoseConfig(Settings):
    """Training of the decoder by Adam, and the distance that counts as right."""

    title = "pose"

    epochs: int = setting(30, "passes over the training images", ge=1)
    batch_size: int = setting(64, "images of a step", ge=1)
    learning_rate: float = setting(1e-3, "learning rate; a tenth in the last quarter of the epochs", gt=0)
    width: int = setting(256, "channels of the decoder", ge=1)
    deviation: float = setting(2.0, "deviation of a Gaussian, in pixels of the heat map", gt=0)
    threshold: float = setting(0.5, "largest error that is right, as a share of the head's size", gt=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPoints:
    """Key points of N images.

    Attributes:
        names: names of the P points.
        places: x and y in pixels, float32 `(N, P, 2)`.
        annotated: bool `(N, P)`.
        head_size: in pixels, float32 `(N,)`.
    """

    names: tuple[str, ...]
    places: Tensor
    annotated: Tensor
    head_size: Tensor


def key_points(dataset: ImageDataset) -> KeyPoints:
    """Return the key points of all images.

    Raises:
        UsageError: the data set has none.
    """
    names = tuple(name.removesuffix(".x") for name in dataset.real_names if name.endswith(".x"))
    if not names or HEAD_SIZE not in dataset.real_names:
        raise UsageError(f"{dataset.name} has no key points with a head_size, as mpii:PATH has")
    places = np.stack(
        [np.stack([dataset.target(f"{name}.{axis}") for axis in "xy"], axis=1) for name in names], axis=1
    )
    return KeyPoints(
        names=names,
        places=torch.from_numpy(places.astype(np.float32)),
        annotated=torch.from_numpy(np.stack([dataset.target(name) == 1 for name in names], axis=1)),
        head_size=torch.from_numpy(np.array(dataset.target(HEAD_SIZE), np.float32)),
    )


def pose_decoder(features: int, num_points: int, width: int = 256) -> nn.Sequential:
    """Return the decoder from maps `(B, F, h, w)` to heat maps `(B, P, 8·h, 8·w)`."""
    layers: list[nn.Module] = []
    for channels in (features, width, width):
        layers += [
            nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Conv2d(width, num_points, 1))


def heat_maps(places: Tensor, side: int, image_size: int, deviation: float) -> Tensor:
    """Return Gaussians of height 1 around points, `(B, P, side, side)`.

    Args:
        places: x and y in pixels of the image, `(B, P, 2)`.
        side: side of the heat maps.
        image_size: S.
        deviation: deviation of the Gaussians, in pixels of the heat map.
    """
    centres = (places + 0.5) * (side / image_size) - 0.5
    pixels = torch.arange(side, device=places.device, dtype=places.dtype)
    along = (-((pixels - centres[..., None]) ** 2) / (2 * deviation**2)).exp()
    return along[..., 1, :, None] * along[..., 0, None, :]


def read_off(maps: Tensor, image_size: int) -> Tensor:
    """Return the points that heat maps `(B, P, h, w)` show, in pixels of the image, `(B, P, 2)`."""
    height, width = maps.shape[2:]
    best = maps.flatten(2).argmax(dim=2)
    row, column = best // width, best % width
    flat = maps.flatten(2)

    def towards(place: Tensor, size: int, stride: int) -> Tensor:
        """Return a quarter towards the larger neighbour along one axis, 0 at the ends."""
        before = flat.gather(2, (best - stride).clamp_min(0)[..., None])[..., 0]
        after = flat.gather(2, (best + stride).clamp_max(height * width - 1)[..., None])[..., 0]
        inside = (place > 0) & (place < size - 1)
        return 0.25 * (after - before).sign() * inside

    x = column + towards(column, width, 1)
    y = row + towards(row, height, width)
    return (torch.stack([x, y], dim=2) + 0.5) * (image_size / width) - 0.5


def pckh(predicted: Tensor, points: KeyPoints, threshold: float = 0.5) -> Tensor:
    """Return which points are right, bool `(N, P)`; False where they are not annotated.

    Args:
        predicted: x and y in pixels, `(N, P, 2)`.
        points: the annotated ones.
        threshold: largest error, as a share of the head's size.
    """
    error = (predicted - points.places).norm(dim=2)
    right: Tensor = (error <= threshold * points.head_size[:, None]) & points.annotated
    return right


def by_name(right: Tensor, points: KeyPoints) -> dict[str, tuple[float, int]]:
    """Return PCKh and the number of annotated points of each key point, and of ``"all"``.

    Left and right are one key point, with the mean of their PCKh, or the only one that is annotated.

    Args:
        right: see `pckh`, `(N, P)`.
        points: the annotated ones.
    """
    counts, hits = points.annotated.sum(dim=0).tolist(), right.sum(dim=0).tolist()
    shares: dict[str, list[float]] = {}
    totals: dict[str, int] = {}
    for name, count, hit in zip(points.names, counts, hits, strict=True):
        if count:
            side = next((one for one in SIDES if name.startswith(one)), "")
            row = name.removeprefix(side)
            shares.setdefault(row, []).append(hit / count)
            totals[row] = totals.get(row, 0) + count
    found = {row: (sum(each) / len(each), totals[row]) for row, each in shares.items()}
    return {**found, "all": (sum(hits) / sum(counts), sum(counts))} if found else {}


class Pose:
    """PCKh of key points that a decoder reads out of an encoder's frozen maps.

    Args:
        config: training of the decoder.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: PoseConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return ``pckh`` of each key point, the mean of left and right, and of all.

        Raises:
            UsageError: the images have no key points, or the encoder has several branches.
            DataError: no test point is annotated.
        """
        train, test = key_points(subject.train), key_points(subject.test)
        encoder = subject.encoder
        if not isinstance(encoder, Encoder):
            raise UsageError("an encoder of several branches has no single map to read key points from")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(addressed_seed(seed, "pose decoder"))
            decoder = pose_decoder(encoder.embedding_dim, len(train.names), self.config.width)
        decoder = decoder.to(subject.device)
        with evaluation_mode(encoder):
            self._train(decoder, encoder, train, subject, seed)
            predicted = self._predicted(decoder, encoder, subject)
        right = pckh(predicted, test, self.config.threshold)
        if not bool(test.annotated.any()):
            raise DataError(f"{subject.test.name} {subject.test.split} has no annotated key point")
        on = f"{len(test.places):,} {subject.test.split}, {len(train.places):,} {subject.train.split}"
        return [
            Measure(name="pckh", value=value, on=f"{count:,} points of {on}", group=name)
            for name, (value, count) in by_name(right, test).items()
        ]

    def _train(
        self, decoder: nn.Sequential, encoder: Encoder, points: KeyPoints, subject: Subject, seed: int
    ) -> None:
        config, images, size = self.config, subject.train, subject.train.image_size
        optimiser = torch.optim.Adam(decoder.parameters(), lr=config.learning_rate)
        inside = ((points.places > -0.5) & (points.places < size - 0.5)).all(dim=2) & points.annotated
        decoder.train()
        for epoch in range(config.epochs):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * (0.1 if epoch >= 0.75 * config.epochs else 1)
            order = torch.randperm(len(images), generator=addressed_generator(seed, "pose", epoch))
            for rows in order.split(config.batch_size):
                with torch.no_grad():
                    maps = encoder.feature_map(to_model(images.images(rows.numpy()), subject.device))
                found = decoder(maps)
                wanted = heat_maps(
                    points.places[rows].to(maps.device), found.shape[-1], size, config.deviation
                )
                weights = inside[rows].to(maps.device)[..., None, None]
                loss = 0.5 * (weights * (found - wanted) ** 2).mean()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            subject.tell("pose decoder", epoch + 1, config.epochs)

    @torch.no_grad()
    def _predicted(self, decoder: nn.Sequential, encoder: Encoder, subject: Subject) -> Tensor:
        images, found = subject.test, []
        decoder.eval()
        for rows in torch.arange(len(images)).split(self.config.batch_size):
            maps = encoder.feature_map(to_model(images.images(rows.numpy()), subject.device))
            found.append(read_off(decoder(maps), images.image_size).cpu())
        return torch.cat(found)


ENTRY = Entry(
    name="pose",
    summary="key points (PCKh) that a decoder of four layers reads out of frozen maps",
    settings=PoseConfig,
    needs=Pose.needs,
    build=Pose,
    on_request=True,
)
