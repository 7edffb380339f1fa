"""Trifeature: one textured, coloured shape per image, each attribute with ten values.

Designed by Hermann and Lampinen, 2020; used by Robinson et al., 2021 (sections 2.2 and 4.1). Shape and
texture are rotated independently by up to 45°. The shape is 4/7 of the frame wide and lies anywhere in it;
the ground (seen through the texture) is mid-grey. Images are rendered from signed distances at the size of
``trifeature:SIZE``, by default 64 pixels. The texture is coarser than the original's, so that it survives at
32 pixels.

Image i of a split has combination 619·i mod 1000: any 1000 consecutive images hold each combination once, and
a short prefix already mixes all three attributes. Train has 100 images per combination, test 10. With
``?split=combinations``, a fifth of the combinations, drawn once, is in the test split alone: train has 100
images of each of the other 800, test 10 of each of these 200.

References:
    What shapes feature representations? Exploring datasets, architectures, and training, Hermann and
    Lampinen, 2020, https://arxiv.org/abs/2006.12433
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021,
    https://arxiv.org/abs/2106.11230
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.shapes import SHAPES, shape_distance
from viewgen.datasets.textures import TABLE_SIZE, TEXTURES, texture_distance
from viewgen.settings import Settings, setting

__all__ = ["COLORS", "ENTRY", "TrifeatureSettings"]

Array = NDArray[np.float32]

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "pink": (255, 102, 255),
    "cyan": (0, 255, 255),
    "purple": (77, 0, 128),
    "ocean": (26, 102, 128),
    "orange": (255, 153, 0),
    "white": (255, 255, 255),
}
GROUND = 128
NUM_VALUES = 10
NUM_COMBINATIONS = NUM_VALUES**3
NUM_HELD_OUT = 200
MIXER = 619
DEFAULT_SIZE = 64
MIN_SIZE, MAX_SIZE = 16, 512
SHAPE_WIDTH = 4 / 7
PERIODS = 7
MAX_ANGLE = np.pi / 4
CHUNK_PIXELS = 64 * 64 * 64


def attribute_labels(num_images: int) -> NDArray[np.int64]:
    """Return (shape, texture, color) of the first `num_images` images, `(N, 3)`."""
    return _of_combinations(np.arange(num_images, dtype=np.int64) * MIXER % NUM_COMBINATIONS)


def held_out_labels(split: str, renderings: int) -> NDArray[np.int64]:
    """Return (shape, texture, color) of a split by combinations, `(N, 3)`: of 800, or of the other 200.

    Args:
        split: ``"train"`` or ``"test"``.
        renderings: images of a combination.
    """
    from viewgen.randomness import addressed_seed

    numbers = np.random.Generator(np.random.PCG64(addressed_seed("trifeature", "combinations")))
    drawn = np.argsort(numbers.random(NUM_COMBINATIONS), kind="stable")
    chosen = drawn[:NUM_HELD_OUT] if split == "test" else drawn[NUM_HELD_OUT:]
    return _of_combinations(np.tile(chosen, renderings))


def _of_combinations(combination: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([combination // 100, combination // 10 % 10, combination % 10], axis=1)


@dataclass(frozen=True, slots=True)
class RenderedTrifeature:
    """Images rendered on demand; image `index` of `split` depends on these two alone."""

    split: str
    image_size: int
    targets: NDArray[np.int64]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        size = self.image_size
        out = np.empty((len(indices), 3, size, size), np.uint8)
        chunk = max(1, CHUNK_PIXELS // size**2)
        for start in range(0, len(indices), chunk):
            out[start : start + chunk] = self._render(indices[start : start + chunk])
        return out

    def _render(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Render a chunk. Shapes: B images, H = W = size; coordinates in pixels from the corner."""
        size = self.image_size
        places, tables = self._draw(indices)
        # Sine and cosine in float64: the rest is exactly rounded, so no machine differs from another.
        shape_turn, texture_turn = (
            (np.cos(angle).astype(np.float32)[:, None, None], np.sin(angle).astype(np.float32)[:, None, None])
            for angle in (places[:, 0], places[:, 1])
        )
        left, top, phase_u, phase_v = places[:, 2:].T.astype(np.float32)[..., None, None]
        half_width = np.float32(SHAPE_WIDTH * size / 2)
        # The turned square around the shape stays in the frame.
        margin = half_width * (np.abs(shape_turn[0]) + np.abs(shape_turn[1]))
        pixels = np.arange(size, dtype=np.float32) + np.float32(0.5)
        x = pixels[None, None, :] - (margin + left * (size - 2 * margin))
        y = pixels[None, :, None] - (margin + top * (size - 2 * margin))
        shape_x, shape_y = _turn(x / half_width, y / half_width, *shape_turn)
        period = np.float32(size / PERIODS)
        texture_u, texture_v = _turn(x / period, y / period, *texture_turn)

        labels = self.targets[indices]
        coverage = np.empty((len(indices), size, size), np.float32)
        for value in np.unique(labels[:, 0]):
            rows = labels[:, 0] == value
            distance = shape_distance(SHAPES[value], shape_x[rows], shape_y[rows])
            coverage[rows] = _coverage(distance * half_width)
        for value in np.unique(labels[:, 1]):
            rows = labels[:, 1] == value
            u, v = texture_u[rows] + phase_u[rows] * TABLE_SIZE, texture_v[rows] + phase_v[rows] * TABLE_SIZE
            coverage[rows] *= _coverage(texture_distance(TEXTURES[value], u, v, tables[rows]) * period)
        palette = np.array(list(COLORS.values()), np.float32)
        paint = palette[labels[:, 2]][:, :, None, None]
        mixed = GROUND + (paint - GROUND) * coverage[:, None]
        out: NDArray[np.uint8] = np.floor(mixed + np.float32(0.5)).astype(np.uint8)
        return out

    def _draw(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float64], Array]:
        """Return angles, position and phase `(B, 6)`, and random tables `(B, TABLE_SIZE, TABLE_SIZE)`."""
        # Imported here because it brings torch, which the list of data sets should not wait for.
        from viewgen.randomness import addressed_seed

        draws = np.empty((len(indices), 6 + TABLE_SIZE**2))
        for row, index in enumerate(indices.tolist()):
            seed = addressed_seed("trifeature", self.split, index)
            draws[row] = np.random.Generator(np.random.PCG64(seed)).random(draws.shape[1])
        places = draws[:, :6]
        places[:, :2] = (2 * places[:, :2] - 1) * MAX_ANGLE
        return places, draws[:, 6:].reshape(-1, TABLE_SIZE, TABLE_SIZE).astype(np.float32)


def _turn(x: Array, y: Array, cosine: Array, sine: Array) -> tuple[Array, Array]:
    """Return `(x, y)` in a frame turned by an angle of that cosine and sine."""
    return cosine * x + sine * y, cosine * y - sine * x


def _coverage(distance: Array) -> Array:
    """Return the share of a pixel that lies inside an edge `distance` pixels from its centre."""
    covered: Array = np.clip(np.float32(0.5) - distance, 0, 1)
    return covered


class TrifeatureSettings(Settings):
    """Size of the images, and the difference between train and test."""

    title: ClassVar[str] = "trifeature"
    size: int = setting(DEFAULT_SIZE, "side of the images, in pixels", ge=MIN_SIZE, le=MAX_SIZE)
    renderings: int = setting(
        100, "train images of a combination; the test split has a tenth, at least one", ge=1, le=1000
    )
    split: Literal["renderings", "combinations"] = setting(
        "renderings", "what only the test split has: other renderings, or 200 of the 1000 combinations"
    )


def load(settings: TrifeatureSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Return one split; images are rendered when they are read."""
    name = "trifeature" if settings.size == DEFAULT_SIZE else f"trifeature:{settings.size}"
    fields = type(settings).model_fields
    chosen = {one: getattr(settings, one) for one in ("renderings", "split")}
    told = [f"{one}={value}" for one, value in chosen.items() if value != fields[one].default]
    name += "?" * bool(told) + "&".join(told)
    split = canonical_split(name, split, INFO.num_images)
    renderings = settings.renderings if split == "train" else max(1, settings.renderings // 10)
    if settings.split == "combinations":
        targets = held_out_labels(split, renderings)
    else:
        targets = attribute_labels(renderings * NUM_COMBINATIONS)
    return ImageDataset(
        name=name,
        split=split,
        image_size=settings.size,
        num_classes=NUM_VALUES,
        class_names=(),
        pixels=RenderedTrifeature(split, settings.size, targets),
        targets=targets,
        attribute_names=("shape", "texture", "color"),
        attribute_values=(SHAPES, TEXTURES, tuple(COLORS)),
        digest_images=NUM_COMBINATIONS,
    )


INFO = DatasetInfo(
    name="trifeature",
    image_size=DEFAULT_SIZE,
    num_classes=NUM_VALUES,
    num_images={"train": 100 * NUM_COMBINATIONS, "test": 10 * NUM_COMBINATIONS},
    source="rendered; also :SIZE",
    licence="Apache-2.0",
)
ENTRY = DatasetEntry(
    name="trifeature",
    summary="one textured, coloured shape per image, rendered",
    settings=TrifeatureSettings,
    build=load,
    info=INFO,
)
