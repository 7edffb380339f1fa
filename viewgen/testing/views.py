"""Contract of view sources; see `viewgen.testing`."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from viewgen.memory import BatchSize
from viewgen.networks.files import Models
from viewgen.status import Status
from viewgen.testing.entries import EntryContract
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources, TrainingResources, ViewEntry
from viewgen.views.offline import Batch, offline_step
from viewgen.views.source import Images, LearnedSource, Views, ViewSource

__all__ = ["LearnedSourceContract", "ViewSourceContract"]


class ViewSourceContract(EntryContract):
    """Contract of a view source: shapes, status, columns, and views that depend on (seed, image, view) alone.

    Attributes:
        image_size: H = W of the images, in pixels.
        num_images: number of images in the test, at least 4.
        random: True if another seed gives other views.
        exact: True if a view is equal to the last bit in any batch. Otherwise it may differ by one grey
            level, the rounding of networks at different batch sizes.
    """

    entry: ClassVar[ViewEntry]
    image_size: ClassVar[int] = 8
    num_images: ClassVar[int] = 6
    random: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    @pytest.fixture
    def models(self) -> Models:
        """Networks of the entry, frozen; override it if the entry needs networks."""
        return Models(device=torch.device("cpu"))

    @pytest.fixture
    def codes(self) -> Tensor | None:
        """Refined codes of the images, `(num_images, *code_shape)`; override it if the entry needs them."""
        return None

    @cached_property
    def pixels(self) -> Tensor:
        """The images, uint8 `(num_images, 3, H, W)`."""
        shape = (self.num_images, 3, self.image_size, self.image_size)
        random = torch.Generator().manual_seed(3)
        return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)

    @cached_property
    def index(self) -> Tensor:
        """Source indices of the images, far apart and unordered."""
        return torch.arange(self.num_images).flip(0) * 1009 + 2

    @property
    def num_views(self) -> int:
        """V."""
        return self.entry.num_views or 3

    def images(self, codes: Tensor | None, rows: Any = None, *, seed: int = 0, offset: int = 0) -> Images:
        """Return some of the images as a batch, with source indices shifted by `offset`."""
        rows = torch.arange(self.num_images) if rows is None else torch.tensor(rows)
        index = self.index[rows] + offset
        return Images(
            pixels=self.pixels[rows],
            source_index=index,
            labels=torch.zeros(len(rows), dtype=torch.long),
            draws=ImageDraws(seed, index),
            codes=None if codes is None else codes[rows],
            code_error=None if codes is None else torch.zeros(len(rows)),
        )

    def resources(self, models: Models, batch_size: BatchSize = None) -> Resources:
        """Return the resources of the source; those of a training step if it is made in one only."""
        if "training" not in self.entry.needs:
            return Resources(models=models, batch_size=batch_size)
        return TrainingResources(models=models, batch_size=batch_size, average_gradients=lambda _: None)

    def build(self, models: Models, batch_size: BatchSize = None) -> ViewSource:
        """Return a new source, with the same initial weights at each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built: ViewSource = self.choice.build(self.resources(models, batch_size))
        return built

    @pytest.fixture
    def source(self, models: Models) -> ViewSource:
        """The source under test."""
        return self.build(models)

    @pytest.fixture
    def made(self, source: ViewSource, codes: Tensor | None) -> Views:
        """Views of all images."""
        return source.views(self.images(codes), self.num_views)

    def test_shapes_and_types(self, source: ViewSource, made: Views) -> None:
        side = self.entry.side(self.choice.settings, self.image_size)
        shape = (self.num_views, self.num_images, 3, side, side)
        assert made.pixels.shape == shape
        assert made.pixels.dtype == torch.uint8 or made.pixels.is_floating_point()
        assert made.storage.dtype == torch.uint8
        assert bool(torch.isfinite(made.model).all())
        assert float(made.model.detach().min()) >= -1 - 1e-5
        assert float(made.model.detach().max()) <= 1 + 1e-5
        named = tuple(role.name for role in self.entry.roles)
        assert source.roles == (named or ("view",))
        assert len(named) in (0, self.num_views)
        for role in self.entry.roles:
            role.num_channels(3)

    def test_status_says_how_each_image_fared(self, made: Views) -> None:
        if made.status is not None:
            assert made.status.shape == (self.num_images,)
            assert set(made.status.tolist()) <= {int(status) for status in Status}

    def test_columns_have_a_row_for_each_image(self, made: Views) -> None:
        for name, column in made.columns.items():
            assert len(column) == self.num_images, name

    def test_declared_columns_are_returned(self, models: Models, codes: Tensor | None) -> None:
        out = self._offline(models, codes)
        declared = {column.name: column for column in self.entry.columns}
        assert declared.keys() <= out.keys()
        for name, column in declared.items():
            leading = (self.num_images, self.num_views) if column.per_view else (self.num_images,)
            assert out[name].shape[: len(leading)] == leading
            if not column.codes:
                assert out[name].shape == (*leading, *column.shape)
        if self.entry.keeps_codes:
            assert out["w_plus"].shape[:2] == (self.num_images, self.num_views)

    def test_a_cache_gets_what_it_stores(self, models: Models, codes: Tensor | None) -> None:
        out = self._offline(models, codes)
        assert out.keys() >= {"views", "distance", "steps", "inversion_error", "status"}
        assert str(out["views"].dtype) == "uint8"
        assert str(out["distance"].dtype) == "float32"
        assert out["views"].shape[:2] == out["distance"].shape == (self.num_images, self.num_views)

    def test_an_image_has_the_same_views_in_any_company(
        self, source: ViewSource, codes: Tensor | None, made: Views
    ) -> None:
        last = self.num_images - 1
        for rows in ([0], [last, 1], [*range(last, -1, -1)]):
            found = source.views(self.images(codes, rows), self.num_views)
            self._same(found.storage, made.storage[:, rows])

    def test_equal_batches_give_equal_bits(
        self, source: ViewSource, codes: Tensor | None, made: Views
    ) -> None:
        again = source.views(self.images(codes), self.num_views)
        assert torch.equal(again.pixels, made.pixels)

    def test_the_batch_size_changes_no_view(self, models: Models, codes: Tensor | None, made: Views) -> None:
        for batch_size in (1, 5):
            found = self.build(models, batch_size).views(self.images(codes), self.num_views)
            self._same(found.storage, made.storage)

    def test_another_seed_or_image_gives_other_views(
        self, source: ViewSource, codes: Tensor | None, made: Views
    ) -> None:
        if not self.random:
            pytest.skip("the source draws no random numbers")
        for changes in ({"seed": 1}, {"offset": 100_000}):
            other = source.views(self.images(codes, **changes), self.num_views)
            assert not torch.equal(other.storage, made.storage), changes

    def test_images_are_left_as_they_are(self, source: ViewSource, codes: Tensor | None) -> None:
        before = self.pixels.clone()
        source.views(self.images(codes), self.num_views)
        assert torch.equal(self.pixels, before)

    def _offline(self, models: Models, codes: Tensor | None) -> Batch:
        """Return the result of a worker on the images."""
        batch: Batch = {
            "image": self.pixels.numpy(),
            "source_index": self.index.numpy(),
            "label": np.zeros(self.num_images, np.int64),
        }
        if codes is not None:
            batch |= {"anchor_w_plus": codes.numpy(), "anchor_error": np.zeros(self.num_images, np.float32)}
        resources = self.resources(models)
        return offline_step(self.build(models), resources, seed=0, num_views=self.num_views)(batch)

    def _same(self, found: Tensor, expected: Tensor) -> None:
        apart = (found.int() - expected.int()).abs()
        assert int(apart.max()) <= (0 if self.exact else 1)


class LearnedSourceContract(ViewSourceContract):
    """Contract of a view source with networks that train beside the encoder."""

    def test_its_networks_have_a_state(self, source: ViewSource, models: Models) -> None:
        assert isinstance(source, LearnedSource)
        found, other = source.networks(), self.build(models)
        assert found
        assert isinstance(other, LearnedSource)
        for name, part in found.items():
            other.networks()[name].load_state_dict(part.state_dict())

    def test_a_step_trains_them_on_the_encoders_loss(
        self, source: ViewSource, models: Models, codes: Tensor | None, made: Views
    ) -> None:
        assert isinstance(source, LearnedSource)
        images = self.images(codes)
        source.views(images, self.num_views)

        def loss_of(views: Tensor) -> Tensor:
            assert views.shape == made.pixels.shape
            return (views - 1).square().mean()

        metrics = source.after_step(images, loss_of)
        assert all(bool(torch.isfinite(value)) for value in metrics.values())
        changed = source.views(images, self.num_views)
        assert not torch.equal(changed.model, made.model)
