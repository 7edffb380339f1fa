"""The protocol of a view source: images and random numbers in, views out.

The same source makes views for a cache, in a training step and for a measurement. These differ only in the
images and in the addresses of their random numbers.

Shape legend: B images, V views of each, C, H, W channels and space.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import DataError
from viewgen.images import to_model, to_storage
from viewgen.status import Status

__all__ = [
    "Draws",
    "Images",
    "LearnedSource",
    "Status",
    "ViewMemory",
    "ViewScores",
    "ViewSource",
    "Views",
    "required_codes",
]


class Draws(Protocol):
    """Random numbers of a batch, with a separate address for each image."""

    def uniform(self, name: str, num_views: int, *shape: int, device: torch.device | None = None) -> Tensor:
        """Return numbers in [0, 1), `(B, num_views, *shape)`, float32, on the CPU or a device.

        The numbers of a device may differ from those of the CPU.
        """
        ...

    def normal(self, name: str, num_views: int, *shape: int) -> Tensor:
        """Return standard normal numbers, `(B, num_views, *shape)`, float32."""
        ...

    def of(self, rows: Tensor) -> "Draws":
        """Return the draws of some of the images, selected by batch position."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """A batch of images.

    Attributes:
        pixels: storage images, uint8 `(B, C, H, W)`, on the device of the views.
        source_index: rows of the data set, int64 `(B,)`, on the CPU.
        labels: class indices, int64 `(B, *label_shape)`; −1 where an image has none.
        draws: random numbers of the images.
        codes: refined codes of a generator, `(B, *code_shape)`, if the source starts from them.
        code_error: mean squared error of the codes' reconstructions, `(B,)`, in model units.
    """

    pixels: Tensor
    source_index: Tensor
    draws: Draws
    labels: Tensor | None = None
    codes: Tensor | None = None
    code_error: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)


def required_codes(images: Images) -> Tensor:
    """Return the refined codes of images, `(B, *code_shape)`.

    Raises:
        DataError: there are none.
    """
    if images.codes is None:
        raise DataError("this source starts from refined codes of the images, and none were given")
    return images.codes


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Views of a batch.

    Attributes:
        pixels: views, `(V, B, C, H, W)`, storage images (uint8) or model images (floating point).
        status: `Status` of each image, uint8 `(B,)`; None if all are OK.
        columns: name → further array of a cache or its report, `(B, ...)` each.
    """

    pixels: Tensor
    status: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def model(self) -> Tensor:
        """The views as model images, `(V, B, C, H, W)` in [−1, 1]."""
        return to_model(self.pixels) if self.pixels.dtype == torch.uint8 else self.pixels

    @property
    def storage(self) -> Tensor:
        """The views as storage images, uint8 `(V, B, C, H, W)`."""
        return self.pixels if self.pixels.dtype == torch.uint8 else to_storage(self.pixels)


class ViewSource(Protocol):
    """A view source.

    Attributes:
        roles: ``("view",)`` if views are interchangeable; otherwise one name for each view of an image, for
            example ``("luma", "chroma")``, and `num_views` is their number.
    """

    roles: tuple[str, ...]

    def views(self, images: Images, num_views: int) -> Views:
        """Return `num_views` views of every image."""
        ...


@runtime_checkable
class LearnedSource(ViewSource, Protocol):
    """A view source with networks that train beside the encoder."""

    def networks(self) -> Mapping[str, Any]:
        """Return the contents of a checkpoint: name → module or optimiser."""
        ...

    def after_step(self, images: Images, loss_of: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Train for one step after the encoder's.

        Args:
            images: batch of the step.
            loss_of: function that returns the encoder's loss with the generated views `(V, B, C, H, W)` in
                place of this step's.

        Returns:
            metrics by name.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewScores:
    """Scores of a cache's views, as a training uses them.

    Attributes:
        keep: views that may be drawn, bool `(N, V)`.
        standard: score in standard deviations from the mean of those, float32 `(N, V)`, NaN where unknown.
    """

    keep: Tensor
    standard: Tensor


class ViewMemory(Protocol):
    """Views of a cache, in memory or streamed.

    Attributes:
        num_views: V, views per image.
        status: `Status` of every row, uint8 `(N,)`.
    """

    num_views: int
    status: Tensor

    def read(self, rows: NDArray[np.int64], view_index: Tensor) -> Tensor:
        """Return storage images `(B, V, C, H, W)` of rows `(B,)` and view indices `(B, V)`."""
        ...

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Prepare for rows that will be read soon."""
        ...
