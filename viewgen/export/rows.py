"""The images of a cache as encoded pictures with their labels and scores, shard by shard.

A view of a role has the channels of that role alone, with the stored values: one channel as a grey picture;
of several, each at its place in a colour picture whose other channels are mid-grey.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import DataError, ViewgenError
from viewgen.store import CacheReader, Storage
from viewgen.store.quality import read_scores

__all__ = ["PICTURES", "ExportedRow", "Rows"]

Picture = Literal["png", "jpg", "webp"]
# of the channels that a view of a role does not have
MID_GREY = 128
# extension → arguments of Pillow's writer
PICTURES: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedRow:
    """An image of a cache.

    Attributes:
        row: row in the cache.
        index: place of the image in its data set.
        label: class index, or class indices of several attributes; −1 without.
        class_name: the label in words.
        views: encoded pictures of the views.
        image: encoded picture of the image, or None.
        scores: name → score of each view, `(V,)`.
    """

    row: int
    index: int
    label: int | list[int]
    class_name: str
    views: list[bytes]
    image: bytes | None
    scores: dict[str, list[float]]


class Rows:
    """The readable images of a cache, encoded.

    Args:
        reader: the cache.
        storage: its storage.
        picture: extension of the encoded pictures: png and webp are lossless, jpg is not.
        originals: True to add the images that the views were made of.
        data_root: folder of the data sets.

    Attributes:
        class_names: names of the classes; empty if the data set is not at hand.
        score_names: names of the scores.
        originals: True if rows have the images themselves.

    Raises:
        DataError: pictures have 1 or 3 channels, the views other ones; the data set holds other images.
        MissingFileError: the data set is not there for `originals`.
    """

    def __init__(
        self,
        reader: CacheReader,
        storage: Storage,
        *,
        picture: str = "png",
        originals: bool = False,
        data_root: str | None = None,
    ) -> None:
        spec = reader.spec
        if spec.channels not in (1, 3):
            raise DataError(
                f"{reader.url} holds views of {spec.channels} channels, pictures have 1 or 3; read it with "
                "viewgen.ViewDataset, or as Zarr"
            )
        self.reader, self._picture = reader, picture
        own = [c.name for c in spec.columns if c.per_view and not c.codes and not c.shape]
        self._arrays = ["distance", *own]
        self._scores = {
            name: values for name, values in read_scores(storage, spec).items() if name not in self._arrays
        }
        self.score_names = (*self._arrays, *self._scores)
        self._dataset = self._opened(originals, data_root)
        self.originals = originals
        named = self._dataset is not None and not spec.label_shape
        self.class_names = self._dataset.class_names if named and self._dataset is not None else ()

    @property
    def about_roles(self) -> str:
        """Markdown about the pictures of views of different kinds; empty if there is one kind."""
        roles = self.reader.spec.roles
        if not roles:
            return ""
        found = []
        for number, role in enumerate(roles):
            channels = f", channel {' and '.join(map(str, role.channels))}" if role.channels else ""
            zero = ", with 127.5 for zero" if role.signed else ""
            found.append(f"view {number} is `{role.name}`{channels}{zero}")
        parts = (
            " A picture has the channels of its view alone (counted from 0): one as grey, several in their "
            f"places among red, green and blue, the others of which are {MID_GREY} throughout."
        )
        return f"An image's views are of different kinds: {'; '.join(found)}." + (
            parts if any(role.channels for role in roles) else ""
        )

    def _opened(self, originals: bool, data_root: str | None) -> ImageDataset | None:
        """Return the data set of the images; None where it is not at hand and only names its classes."""
        made_of = self.reader.spec.dataset
        try:
            dataset = load_dataset(made_of["name"], made_of["split"], data_root=data_root, download=originals)
            if dataset.digest != made_of.get("digest"):
                raise DataError(
                    f"{self.reader.url} was made of other images than {dataset.name} {dataset.split} holds "
                    "now; export without the originals, or make the cache again"
                )
            return dataset
        except (ViewgenError, KeyError):
            if originals:
                raise
            return None

    def shard(self, shard_id: int) -> Iterator[ExportedRow]:
        """Yield the readable images of a shard."""
        contents = self.reader.shard(shard_id, ["views", "label", "source_index", *self._arrays])
        images = None
        if self.originals and self._dataset is not None and len(contents["row"]):
            images = self._dataset.images(contents["source_index"])
        for place, row in enumerate(contents["row"].tolist()):
            label = contents["label"][place].tolist()
            scores = {name: contents[name][place] for name in self._arrays}
            scores |= {name: values[row] for name, values in self._scores.items()}
            yield ExportedRow(
                row=row,
                index=int(contents["source_index"][place]),
                label=label,
                class_name=self._class_name(label),
                views=[
                    self._encoded(self._of_role(number, view))
                    for number, view in enumerate(contents["views"][place])
                ],
                image=None if images is None else self._encoded(images[place]),
                scores={name: np.asarray(values, np.float64).tolist() for name, values in scores.items()},
            )

    def _class_name(self, label: int | list[int]) -> str:
        if self._dataset is not None:
            return self._dataset.label_text(label)
        return "-".join(map(str, label)) if isinstance(label, list) else str(label)

    def _of_role(self, number: int, view: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what a view `(C, H, W)` shows: the channels of its role as `(1, H, W)` or `(C, H, W)`."""
        roles = self.reader.spec.roles
        if not roles or not roles[number].channels:
            return view
        shown: NDArray[np.uint8] = roles[number].of(view)
        if len(shown) == 1:
            return shown
        among_grey = np.full_like(view, MID_GREY)
        among_grey[list(roles[number].channels)] = shown
        return among_grey

    def _encoded(self, image: NDArray[np.uint8]) -> bytes:
        pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(out, **PICTURES[self._picture])
        return out.getvalue()
