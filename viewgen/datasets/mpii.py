"""``mpii:PATH?size=64``: people with key points, as the MPII Human Pose data set is published.

    PATH/mpii_human_pose_v1_u12_1.mat   annotations, a MATLAB structure RELEASE
    PATH/images/015601864.jpg …         the pictures that they name

Each annotated person of a training picture is an image: a square around the given centre, 1.25 · 200 px times
the given scale wide, black where it leaves the picture, at the size of the name. The annotations of the
published test pictures are withheld; a tenth of the annotated pictures (``?test=0.1``), chosen by their names
(`viewgen.datasets.shares`), is the test split.

Thirteen of the sixteen key points are kept, without pelvis, thorax and upper neck. Each has a class, 1 where
it is annotated, and two real numbers in pixels of the image, ``left_wrist.x`` and ``left_wrist.y``, 0 where
it is not. ``head_size`` is 0.6 times the diagonal of the head's box, in pixels of the image: the unit of
PCKh (`viewgen.diagnostics.pose`). Coordinates are kept to a thousandth of a pixel.

References:
    2D Human Pose Estimation: New Benchmark and State of the Art Analysis, Andriluka et al., 2014,
    https://doi.org/10.1109/CVPR.2014.471
    Simple Baselines for Human Pose Estimation and Tracking, Xiao, Wu and Wei, 2018 (centre, scale and head
    size), https://arxiv.org/abs/1804.06208
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import Blocks, Labelling, decoded_folder, load_decoded
from viewgen.datasets.files import stamp
from viewgen.datasets.folder import read_picture
from viewgen.datasets.labelled import check_size, settings_text
from viewgen.datasets.matlab import read_structures
from viewgen.datasets.pictures import decode_blocks
from viewgen.datasets.shares import divide
from viewgen.errors import CorruptDataError, DataError, MissingFileError, UsageError, ViewgenError
from viewgen.extras import need
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "KEY_POINTS", "MpiiSettings"]

ANNOTATIONS = "mpii_human_pose_v1_u12_1.mat"
# number in the annotations → name
KEY_POINTS = {
    0: "right_ankle", 1: "right_knee", 2: "right_hip", 3: "left_hip", 4: "left_knee", 5: "left_ankle",
    9: "head_top", 10: "right_wrist", 11: "right_elbow", 12: "right_shoulder", 13: "left_shoulder",
    14: "left_elbow", 15: "left_wrist",
}  # fmt: skip
REAL_NAMES = (*(f"{name}.{axis}" for name in KEY_POINTS.values() for axis in "xy"), "head_size")
PERSON_PIXELS = 200 * 1.25  # side of the square around a person of scale 1
HEAD_SHARE = 0.6
UNITS_PER_PIXEL = 1000


class MpiiSettings(Settings):
    """Folder, size and test split of the images."""

    title: ClassVar[str] = "mpii"
    path: str = setting("", f"folder with {ANNOTATIONS} and images")
    size: int = setting(64, "side of the images, in pixels")
    test: float = setting(0.1, "share of the pictures that is held out as the test split", gt=0, lt=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """An annotated person, in pixels of its picture.

    Attributes:
        file: picture.
        centre: centre of the person, `(x, y)`.
        scale: height of the person over 200 px.
        points: number of a key point → its place.
        head: corners of the head's box, `(x1, y1, x2, y2)`.
    """

    file: Path
    centre: tuple[float, float]
    scale: float
    points: dict[int, tuple[float, float]]
    head: tuple[float, float, float, float]

    @property
    def square(self) -> tuple[int, int, int]:
        """Left, top and side of the square around the person, in whole pixels."""
        side = max(1, round(PERSON_PIXELS * self.scale))
        return round(self.centre[0] - side / 2), round(self.centre[1] - side / 2), side

    def labels(self, size: int) -> list[int]:
        """Return 13 classes, 26 coordinates and the head's size, in thousandths of an image's pixel."""
        left, top, side = self.square
        scale = size / side
        known = [int(number in self.points) for number in KEY_POINTS]
        numbers: list[float] = []
        for number in KEY_POINTS:
            if number in self.points:
                # pixel x covers x … x + 1, before and after scaling
                places = zip(self.points[number], (left, top), strict=True)
                numbers += [(place + 0.5 - start) * scale - 0.5 for place, start in places]
            else:
                numbers += [0.0, 0.0]
        x1, y1, x2, y2 = self.head
        numbers.append(HEAD_SHARE * math.hypot(x2 - x1, y2 - y1) * scale)
        return [*known, *(round(UNITS_PER_PIXEL * one) for one in numbers)]

    def crop(self, size: int) -> NDArray[np.uint8]:
        """Return the square around the person, `(3, size, size)`."""
        left, top, side = self.square
        pixels = read_picture(self.file, None)
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        cut = picture.crop((left, top, left + side, top + side))
        return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def load(settings: MpiiSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, cutting its images on first use and again when the annotations changed.

    Raises:
        UsageError: no path, or an impossible size.
        MissingFileError: annotations or a picture are missing.
        MissingExtraError: SciPy, which reads the annotations, is not installed.
        DataError: the split has nobody.
        CorruptDataError: the annotations have another structure, or are larger than any published ones.
    """
    check_size(settings.size)
    if not settings.path:
        raise UsageError("mpii: needs a path, for example mpii:/data/mpii?size=64")
    path = Path(settings.path).expanduser().resolve()
    name = f"mpii:{path}{settings_text(settings)}"
    split = canonical_split(name, split, ("train", "test"), {"val": "test"})
    annotations = path / ANNOTATIONS
    if not annotations.is_file():
        raise MissingFileError(f"there is no {annotations}; expected MPII as it is published, beside images/")
    found = load_decoded(
        name,
        split,
        decoded_folder(root, "mpii", name, split),
        {"size": settings.size, "test": settings.test, "annotations": stamp(str(annotations))},
        lambda: _blocks(path, split, settings),
        num_images=0,
    )
    kept = len(KEY_POINTS)
    return replace(
        found,
        num_classes=2,
        targets=found.targets[:, :kept],
        attribute_names=tuple(KEY_POINTS.values()),
        attribute_values=(("not annotated", "annotated"),) * kept,
        real_targets=(found.targets[:, kept:] / UNITS_PER_PIXEL).astype(np.float32),
        real_names=REAL_NAMES,
    )


def _blocks(path: Path, split: str, settings: MpiiSettings) -> Blocks:
    people = list(_people(path))
    pictures = [(file, 0) for file in dict.fromkeys(person.file for person in people)]
    chosen = {file for file, _ in divide(pictures, path, test=settings.test, val=0)[split]}
    people = [person for person in people if person.file in chosen]
    if not people:
        raise DataError(f"split {split!r} of {path} has nobody with centre, scale, head and key points")
    yield from decode_blocks(people, lambda person: person.crop(settings.size))
    return Labelling(np.array([person.labels(settings.size) for person in people], np.int64), ())


def _people(path: Path) -> Iterator[Person]:
    """Yield the people of the training pictures who are fully described, in the order of the annotations."""
    need("readouts")
    annotations = path / ANNOTATIONS
    try:
        release = read_structures(annotations)["RELEASE"]
        pictures = np.atleast_1d(release.annolist)
        trained = np.atleast_1d(release.img_train)
        for picture, train in zip(pictures, trained, strict=True):
            if train != 1:
                continue
            file = path / "images" / Path(str(picture.image.name)).name
            for person in np.atleast_1d(picture.annorect):
                if (found := _person(file, person)) is None:
                    continue
                if not file.is_file():
                    raise MissingFileError(f"{annotations} names {file}, which is not there")
                yield found
    except ViewgenError:
        raise
    except Exception as error:  # of structures with other fields, they are of many kinds
        raise CorruptDataError(f"{annotations} is not the published annotations: {error}") from error


def _person(file: Path, record: Any) -> Person | None:
    """Return a person; None where centre, scale, head or key points are missing."""
    try:
        points = np.atleast_1d(record.annopoints.point)
        head = tuple(float(getattr(record, name)) for name in ("x1", "y1", "x2", "y2"))
        centre = (float(record.objpos.x) - 1, float(record.objpos.y) - 1)  # MATLAB counts from 1
        scale = float(record.scale)
    except (AttributeError, TypeError):  # empty arrays, or none, of people who are not described
        return None
    if scale <= 0:
        return None
    places = {int(point.id): (float(point.x) - 1, float(point.y) - 1) for point in points}
    return Person(file=file, centre=centre, scale=scale, points=places, head=head)  # type: ignore[arg-type]


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError("mpii:PATH is read from your disk; the archives are at human-pose.mpi-inf.mpg.de")


ENTRY = DatasetEntry(
    name="mpii",
    summary="people with key points, in a folder",
    settings=MpiiSettings,
    build=load,
    info=DatasetInfo(
        name="mpii:PATH",
        image_size=64,
        num_classes=2,
        num_images={},
        source="MPII: pictures, .mat file",
        licence="simplified BSD",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
)
