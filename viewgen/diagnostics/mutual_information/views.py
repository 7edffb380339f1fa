"""The views of a data set as pairs: one view of each of two sources, drawn for the same image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.measure import ViewPair
from viewgen.diagnostics.mutual_information.pairs import view_picks
from viewgen.errors import DataError, UsageError
from viewgen.networks.files import KINDS, Models
from viewgen.randomness import addressed_generator
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.cached import CachedSource
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.expert import ExpertConfig, ExpertSource
from viewgen.views.original import OriginalSource
from viewgen.views.source import Images, Views, ViewSource

__all__ = [
    "PairDraws",
    "SourcePairs",
    "ViewKind",
    "ViewPairs",
    "cached_kind",
    "check_cache",
    "expert_kind",
    "made_together",
    "original_kind",
    "source_pair",
    "view_pair",
]


@dataclass(frozen=True, slots=True)
class PairDraws:
    """Random numbers of one side of a draw of pairs.

    An image's numbers are addressed by draw and image. Successive draws cycle through a cache's views.

    Attributes:
        address: address of the draw; its last part counts the draws.
        source_index: rows of the data set, int64 `(B,)`, on the CPU.
    """

    address: tuple[int | str, ...]
    source_index: Tensor

    def uniform(self, name: str, num_views: int, *shape: int, device: torch.device | None = None) -> Tensor:
        """Return numbers in [0, 1), `(B, num_views, *shape)`; for ``"cached"``, keys that order its views."""
        if name == "cached":
            return self._turns(shape[0]).expand(-1, num_views, -1).to(device)
        return self._drawn(torch.rand, name, num_views, shape).to(device)

    def normal(self, name: str, num_views: int, *shape: int) -> Tensor:
        """Return standard normal numbers, `(B, num_views, *shape)`."""
        return self._drawn(torch.randn, name, num_views, shape)

    def of(self, rows: Tensor) -> "PairDraws":
        """Return the draws of some of the images, selected by batch position."""
        return PairDraws(self.address, self.source_index[rows.cpu()])

    def _turns(self, num_views: int) -> Tensor:
        """Return keys `(B, 1, V)`: largest for the current view, smaller for each later one."""
        picks = torch.from_numpy(view_picks(np.full(len(self.source_index), num_views), *self.address))
        later = (torch.arange(num_views) - picks[:, None]) % num_views
        keys: Tensor = (num_views - later) / (num_views + 1)
        return keys[:, None]

    def _drawn(
        self, draw: Callable[..., Tensor], name: str, num_views: int, shape: tuple[int, ...]
    ) -> Tensor:
        # the first expert view keeps the address of 0.1.0, which had no name: results on file stay valid
        numbers = [
            draw(shape, generator=addressed_generator(*self.address, image, *_told_apart(name, view)))
            for image in self.source_index.tolist()
            for view in range(num_views)
        ]
        drawn: Tensor = torch.stack(numbers).unflatten(0, (-1, num_views))
        return drawn


def _told_apart(name: str, view: int) -> tuple[int | str, ...]:
    return () if (name, view) == ("expert", 0) else (name, view)


class _DatasetPairs:
    """Pairs of views of a data set's images; its arguments are those of its subclasses."""

    def __init__(self, dataset: ImageDataset, source_index: NDArray[np.int64], num_draws: int) -> None:
        self.dataset, self.source_index = dataset, source_index
        self._num_draws = num_draws

    @property
    def num_images(self) -> int:
        return len(self.source_index)

    @property
    def num_draws(self) -> int:
        return self._num_draws

    def _images(self, positions: NDArray[np.int64], *addresses: tuple[int | str, ...]) -> Iterator[Images]:
        """Yield the images, with the random numbers of each address."""
        rows = self.source_index[positions]
        pixels, ids = torch.from_numpy(self.dataset.images(rows)), torch.from_numpy(rows)
        for address in addresses:
            yield Images(pixels=pixels, source_index=ids, draws=PairDraws(address, ids))


class ViewPairs(_DatasetPairs):
    """Pairs of views of the same image.

    Args:
        x: source of the first view.
        y: source of the second view.
        dataset: the images.
        source_index: rows of the images, int64 `(N,)`; positions are indices into it.
        num_draws: number of draws after which neither source has a new view.
    """

    def __init__(
        self,
        x: ViewSource,
        y: ViewSource,
        dataset: ImageDataset,
        source_index: NDArray[np.int64],
        *,
        num_draws: int,
    ) -> None:
        super().__init__(dataset, source_index, num_draws)
        self.x, self.y = x, y

    def draw(self, positions: NDArray[np.int64], *address: int | str) -> tuple[Tensor, Tensor]:
        *stage, draw = address
        x, y = self._images(positions, (*stage, "x", draw), (*stage, "y", draw))
        return self.x.views(x, 1).model[0], self.y.views(y, 1).model[0]


class SourcePairs(_DatasetPairs):
    """Two views of the same image that one source makes together.

    Args:
        source: source of the views.
        roles: roles of its views; empty if they are interchangeable.
        dataset: the images.
        source_index: rows of the images, int64 `(N,)`; positions are indices into it.
        num_views: number of views that the source makes of an image.
        num_draws: number of draws after which it has no new views.
    """

    def __init__(
        self,
        source: ViewSource,
        roles: tuple[Role, ...],
        dataset: ImageDataset,
        source_index: NDArray[np.int64],
        *,
        num_views: int,
        num_draws: int,
    ) -> None:
        super().__init__(dataset, source_index, num_draws)
        self.source, self.roles, self.num_views = source, roles, num_views

    def draw(self, positions: NDArray[np.int64], *address: int | str) -> tuple[Tensor, Tensor]:
        (images,) = self._images(positions, address)
        views = self.source.views(images, self.num_views).model
        if not self.roles:
            return views[0], views[1]
        return self.roles[0].of(views[0]), self.roles[1].of(views[1])


# views of an image of which there is no end
UNLIMITED = 2**31


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewKind:
    """A kind of view.

    Attributes:
        name: name of the kind.
        source: source of the views.
        num_views: number of different views of an image.
        role: role of the views, if they have one.
    """

    name: str
    source: ViewSource
    num_views: int
    role: Role | None = None


def original_kind() -> ViewKind:
    """Return the images themselves as views."""
    return ViewKind(name="original", source=OriginalSource(), num_views=1)


def expert_kind(config: ExpertConfig) -> ViewKind:
    """Return expert views, generated on request."""
    return ViewKind(name="expert", source=ExpertSource(config), num_views=UNLIMITED)


def cached_kind(reader: CacheReader, name: str, view: int | None = None) -> ViewKind:
    """Return the views of a cache, or only the one of an index; of a role, only its channels."""
    num_views = reader.spec.num_views if view is None else 1
    source: ViewSource = CachedSource(reader, view=view)
    role = reader.spec.roles[view] if view is not None and reader.spec.roles else None
    if role is not None:
        source = _OfRole(source, role)
    return ViewKind(name=name, source=source, num_views=num_views, role=role)


class _OfRole:
    """The channels of a role, out of another source's views."""

    roles: tuple[str, ...] = ("view",)

    def __init__(self, source: ViewSource, role: Role) -> None:
        self.source, self.role = source, role

    def views(self, images: Images, num_views: int) -> Views:
        """Return views `(V, B, C', H, W)`."""
        return Views(pixels=self.role.of(self.source.views(images, num_views).pixels))


def made_together(reader: CacheReader) -> tuple[str, str] | None:
    """Return names of the two views of an image in a cache, if they are a pair; None if they are not.

    They are one if they have different roles, or if their source always makes two, such as two patches.
    """
    spec = reader.spec
    if len(spec.roles) > 1:
        return spec.roles[0].name, spec.roles[1].name
    if spec.method in VIEWS and VIEWS.entry(spec.method).num_views == 2:
        return f"{spec.method} 1", f"{spec.method} 2"
    return None


def view_pair(x: ViewKind, y: ViewKind, dataset: ImageDataset, source_index: NDArray[np.int64]) -> ViewPair:
    """Return a pair of views of the images at `source_index`."""
    num_draws = max(x.num_views, y.num_views)
    views = ViewPairs(x.source, y.source, dataset, source_index, num_draws=num_draws)
    roles = () if x.role is None or y.role is None else (x.role, y.role)
    return ViewPair(x=x.name, y=y.name, views=views, roles=roles)


def source_pair(choice: Choice[ViewEntry], dataset: ImageDataset, rows: NDArray[np.int64]) -> ViewPair:
    """Return the pair of views that a source makes of the images at `rows`; of several roles the first two.

    Raises:
        UsageError: the source needs networks, a cache or a training, or makes one view alone.
        DataError: it cannot use these images.
    """
    entry = choice.entry
    # an encoder serves for distances, which nobody asks for here
    lacking = sorted(entry.uses(choice.settings) & {*KINDS, "cache", "inversions", "training"} - {"encoder"})
    num_views = entry.num_views or 2
    if lacking or num_views < 2:
        reason = f"need {', '.join(lacking)}" if lacking else "come alone"
        raise UsageError(
            f"{choice.name} views {reason}; a pair is made by a source of two views that starts from the "
            "image alone. Views of other sources are measured from their cache (--cache)"
        )
    settings = entry.fit(choice.settings, dataset)
    source = entry.build(settings, Resources(models=Models(device=torch.device("cpu"))))
    views = SourcePairs(
        source,
        entry.roles,
        dataset,
        rows,
        num_views=num_views,
        num_draws=UNLIMITED if entry.random else 1,
    )
    names = [role.name for role in entry.roles] or [f"{entry.name} 1", f"{entry.name} 2"]
    return ViewPair(x=names[0], y=names[1], views=views, roles=entry.roles[:2])


def check_cache(reader: CacheReader, dataset: ImageDataset) -> None:
    """Refuse a cache that does not hold views of a data set.

    Raises:
        DataError: it was made from other images, or its views have another size.
    """
    spec = reader.spec
    made_of = (spec.dataset.get("name"), spec.dataset.get("split"))
    if made_of != (dataset.name, dataset.split):
        raise DataError(
            f"{reader.url} holds views of {made_of[0]} {made_of[1]}, not of {dataset.name} {dataset.split}; "
            "give the data set and split that the cache was made of"
        )
    if made_together(reader) is None and (spec.height, spec.width) != (dataset.image_size,) * 2:
        raise DataError(
            f"{reader.url} holds views of {spec.height}×{spec.width} pixels, the images of {dataset.name} "
            f"have {dataset.image_size}×{dataset.image_size}; the views of a pair must have one size"
        )
    if spec.dataset.get("digest") != dataset.digest:
        raise DataError(
            f"{reader.url} was made of other images than {dataset.name} {dataset.split} holds now (its "
            f"digest is {spec.dataset.get('digest')}, not {dataset.digest}); make the cache again"
        )
    if not len(reader):
        raise DataError(f"{reader.url} has no finished images yet; `viewgen show` tells how far it is")
