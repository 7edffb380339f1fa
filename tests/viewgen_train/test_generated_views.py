"""View sources in the training step, their transforms, and the order in which images come."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from viewgen.errors import CorruptDataError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.augmentation import expert_views
from viewgen.views.cached import SampledSource
from viewgen.views.entry import Resources
from viewgen.views.expert import ExpertConfig, ExpertSource
from viewgen.views.online import OnlineConfig, OnlineSource
from viewgen.views.original import OriginalSource
from viewgen.views.source import Images, LearnedSource
from viewgen.views.viewmaker import ViewmakerSource
from viewgen.views.wperturb import WPerturbConfig, WPerturbSource
from viewgen_train.batch import StepDraws
from viewgen_train.distributed import World
from viewgen_train.loader import Codes, ShardBuffer, ViewMemory
from viewgen_train.sampler import BlockOrder, FullOrder
from viewgen_train.transform import TransformedSource
from viewgen_train.worker import build_trainer

CPU = torch.device("cpu")
EXPERT = ExpertConfig()


@pytest.fixture
def batch_of(tiny) -> Callable[..., Images]:
    """Return a factory (rows, step, world, global size, codes) of batches."""

    def make(
        rows: Any,
        step: int = 0,
        world: World | None = None,
        global_size: int | None = None,
        codes: Codes | None = None,
    ) -> Images:
        rows = np.asarray(rows)
        draws = StepDraws(
            step=step, seed=5, world=world or World(), global_size=global_size or len(rows), device=CPU
        )
        return Images(
            pixels=torch.from_numpy(tiny.images(rows)),
            source_index=torch.from_numpy(rows),
            draws=draws,
            codes=None if codes is None else codes.read(rows),
        )

    return make


@pytest.mark.parametrize("num_views", [1, 3])
def test_cached_views_are_views_of_their_images_drawn_without_replacement(tiny_cache, batch_of, num_views):
    reader = CacheReader(tiny_cache)
    source = SampledSource(ViewMemory(reader, CPU, CPU))
    rows = np.array([20, 3, 7, 3])
    seen: dict[int, set[int]] = {row: set() for row in rows.tolist()}
    for step in range(8):
        made = source.views(batch_of(rows, step), num_views).model
        assert made.shape == (num_views, 4, 3, 8, 8)
        for place, row in enumerate(rows):
            cached = to_model(reader.views(int(row)))
            which = [
                [k for k in range(3) if torch.equal(made[view, place], cached[k])]
                for view in range(num_views)
            ]
            assert all(len(found) == 1 for found in which)
            chosen = [found[0] for found in which]
            assert len(set(chosen)) == num_views
            seen[int(row)].update(chosen)
    assert all(found == {0, 1, 2} for found in seen.values())


def test_more_views_than_the_cache_has_are_refused(tiny_cache, batch_of):
    source = SampledSource(ViewMemory(CacheReader(tiny_cache), CPU, CPU))
    with pytest.raises(UsageError, match="4 generated views a step were asked of a cache with 3"):
        source.views(batch_of([0]), 4)


@pytest.mark.parametrize("name", ["cache", "online", "viewmaker"])
def test_sources_of_a_training_step_are_not_built_for_a_cache(name):
    entry = VIEWS.entry(name)
    with pytest.raises(UsageError, match=f"{name} views are made in a training step only"):
        entry.build(entry.settings(), Resources(models=None))  # type: ignore[arg-type]


def test_streamed_views_are_those_held_in_memory(tiny_cache):
    reader = CacheReader(tiny_cache)
    held, streamed = ViewMemory(reader, CPU, CPU), ShardBuffer(reader, 1, CPU)
    index = torch.tensor([[2], [0], [1], [1]])
    for rows in ([20, 3, 7, 3], [9, 10, 0, 20]):
        rows = np.array(rows)
        streamed.expect(rows)
        assert torch.equal(held.read(rows, index), streamed.read(rows, index))


@pytest.mark.parametrize("memory", ["held", "streamed"])
def test_an_image_without_views_gets_an_expert_view(tiny, cache_of, batch_of, memory):
    status = np.ones(21)
    status[[4, 11]] = 3
    reader = CacheReader(cache_of(tiny, status=status))
    views = ViewMemory(reader, CPU, CPU) if memory == "held" else ShardBuffer(reader, 2, CPU)
    assert (views.status != 1).nonzero()[:, 0].tolist() == [4, 11]
    batch = batch_of([4, 5, 11, 12])
    made = TransformedSource(SampledSource(views), "flip", EXPERT).views(batch, 2).pixels
    instead = ExpertSource(EXPERT, name="missing").views(batch, 2).pixels
    assert torch.equal(made[:, [0, 2]], instead[:, [0, 2]])
    assert not torch.equal(made[:, [1, 3]], instead[:, [1, 3]])


def test_transforms_of_generated_views(tiny_cache, batch_of):
    batch = batch_of(np.arange(20))
    source = SampledSource(ViewMemory(CacheReader(tiny_cache), CPU, CPU))
    raw = source.views(batch, 1).model

    def views(transform, **settings):
        return TransformedSource(source, transform, ExpertConfig(**settings)).views(batch, 1).pixels

    flipped = views("flip")
    mirrored = (flipped == raw.flip(4)).all(dim=(2, 3, 4))
    assert bool((mirrored | (flipped == raw).all(dim=(2, 3, 4))).all())
    assert 3 <= int(mirrored.sum()) <= 17
    assert torch.equal(raw, views("flip", flip_probability=0.0))
    cropped = views("weak-crop")
    # the crop keeps 0.9 to 1 of the area: of 8 px it cuts one row or column at most
    assert not torch.equal(cropped, flipped)
    assert float((cropped.mean(dim=(2, 3, 4)) - raw.mean(dim=(2, 3, 4))).abs().max()) < 0.15
    expert = views("expert")
    assert float((expert.mean(dim=(2, 3, 4)) - raw.mean(dim=(2, 3, 4))).abs().max()) > 0.15


def test_two_workers_draw_what_one_draws(tiny_cache, batch_of):
    sources = [
        TransformedSource(SampledSource(ViewMemory(CacheReader(tiny_cache), CPU, CPU)), "flip", EXPERT),
        TransformedSource(OriginalSource(), "expert", EXPERT),
    ]
    rows = np.arange(8)
    batch = batch_of(rows)
    halves = [batch_of(rows[4 * r : 4 * r + 4], 0, World(r, 2), 8) for r in (0, 1)]
    for source in sources:
        whole = source.views(batch, 2).pixels
        parts = [source.views(half, 2).pixels for half in halves]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-6)
    draws = batch.draws
    assert torch.equal(torch.cat([h.draws.normal("x", 3) for h in halves]), draws.normal("x", 3))
    assert torch.equal(draws.of(torch.tensor([5, 2])).normal("x", 3), draws.normal("x", 3)[[5, 2]])
    assert not torch.equal(draws.uniform("x", 3), draws.uniform("y", 3))
    assert not torch.equal(draws.uniform("x", 3), batch_of(rows, 1).draws.uniform("x", 3))


def test_expert_views_of_a_batch_are_independent_draws(batch_of):
    batch = batch_of(np.arange(6))
    views = ExpertSource(EXPERT, name="expert").views(batch, 2).pixels
    assert views.shape == (2, 6, 3, 8, 8)
    assert not torch.equal(views[0], views[1])
    uniforms = batch.draws.uniform("expert", 2, 30)
    torch.testing.assert_close(views[1], expert_views(to_model(batch.pixels), uniforms[:, 1], EXPERT))


def test_only_the_second_view_has_its_own_operations(batch_of):
    """Every image's second view is solarised: nothing else of either view changes, whoever makes them."""
    batch, second = batch_of(np.arange(6)), EXPERT.replace(solarize_probability=1.0)
    sources = [
        (ExpertSource(EXPERT), ExpertSource(EXPERT, second=second)),
        (
            TransformedSource(OriginalSource(), "expert", EXPERT),
            TransformedSource(OriginalSource(), "expert", EXPERT, second=second),
        ),
    ]
    for plain, other in sources:
        before, after = (source.views(batch, 2).pixels for source in (plain, other))
        assert torch.equal(after[0], before[0])
        torch.testing.assert_close(after[1], -before[1].abs(), atol=1e-6, rtol=0)
    assert torch.equal(sources[0][1].views(batch, 1).pixels, ExpertSource(EXPERT).views(batch, 1).pixels)


def test_a_training_gives_its_second_view_those_of_its_settings(plan_of):
    for kind in ("none", "A2"):
        settings = {"assimilation": kind, "objective": "simclr", "generated": "original"}
        settings |= {"generated_transform": "expert"} if kind == "none" else {}
        made = []
        for more in ({}, {"second.solarize_probability": 1.0}):
            plan, _ = plan_of(dataset="digits", settings=settings | more)
            trainer = build_trainer(plan, World(), CPU)
            made.append(trainer.views(trainer.batch(0)))
        assert torch.equal(made[1][0], made[0][0])
        torch.testing.assert_close(made[1][1], -made[0][1].abs(), atol=1e-6, rtol=0)
        assert torch.equal(made[1][2:], made[0][2:])


# views from codes


@pytest.fixture(scope="module")
def generator() -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        g = Generator(GeneratorConfig(image_size=8, channels=(6, 4), num_mapping_layers=2))
        g.latent_avg.copy_(g.mean_latent(100))
    return g.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inversions(tiny, cache_of, generator) -> str:
    status = np.ones(21)
    status[6] = 3
    return cache_of(
        tiny,
        status=status,
        method="invert",
        num_views=1,
        arrays=("anchor_w_plus",),
        latent_shape=(generator.num_layers, 512),
    )


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
def test_w_perturb_adds_noise_of_the_standard_deviation(inversions, generator, batch_of, memory_bytes):
    reader = CacheReader(inversions)
    codes = Codes(reader, 21, CPU, memory_bytes)
    batch = batch_of([0, 6, 20], codes=codes)
    assert torch.equal(
        batch.codes[[0, 2]], torch.from_numpy(reader.array("anchor_w_plus", np.array([0, 20])))
    )
    assert codes.missing.nonzero()[:, 0].tolist() == [6]
    still = WPerturbSource(WPerturbConfig(sigma=0.0), generator, None, name="codes").views(batch, 1)
    torch.testing.assert_close(still.model[0], generator.synthesis(batch.codes).clamp(-1, 1))
    source = WPerturbSource(WPerturbConfig(sigma=0.3, truncation=1.0), generator, None, name="codes")
    made = source.views(batch, 2)
    moved = made.columns["w_plus"] - batch.codes[:, None]
    assert moved.shape == (3, 2, generator.num_layers, 512)
    assert float(moved.std()) == pytest.approx(0.3, rel=0.05)
    assert not torch.equal(made.pixels, source.views(batch_of([0, 6, 20], 1, codes=codes), 2).pixels)


def test_an_image_without_a_code_gets_an_expert_view(inversions, generator, batch_of):
    codes = Codes(CacheReader(inversions), 21, CPU, 1 << 30)
    batch = batch_of([0, 6, 20], codes=codes)
    source = WPerturbSource(WPerturbConfig(), generator, None, name="codes")
    made = TransformedSource(source, "flip", EXPERT, codes.missing).views(batch, 1).pixels
    instead = ExpertSource(EXPERT, name="missing").views(batch, 1).pixels
    assert torch.equal(made[:, 1], instead[:, 1])
    assert not torch.equal(made[:, 0], instead[:, 0])


def test_online_search_takes_one_signed_step_towards_the_boundary(inversions, generator, batch_of):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=8, width=4, projection_dim=8)).train()
    codes = Codes(CacheReader(inversions), 21, CPU, 1 << 30)
    source = OnlineSource(OnlineConfig(step=0.1, epsilon_boundary=0.5), generator, encoder)
    batch = batch_of([0, 1, 2, 3], codes=codes)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    stepped = source.views(batch, 1).columns["w_plus"].transpose(0, 1)
    noise = batch.draws.normal("codes", 1, *codes.shape).transpose(0, 1)
    start = batch.codes + source.search.init_noise * noise
    torch.testing.assert_close((stepped - start).abs(), torch.full_like(start, 0.1), atol=1e-6, rtol=0)
    with torch.no_grad():
        anchors = encoder.eval()(generator.synthesis(batch.codes).clamp(-1, 1))
        first, last = (source.loss(w, anchors) for w in (start, stepped))
    assert float(last.mean()) < float(first.mean())
    assert encoder.train().training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_codes_that_are_not_finite_are_refused(tiny, cache_of, generator, shard_arrays, monkeypatch):
    url = cache_of(
        tiny,
        method="invert",
        num_views=1,
        arrays=("anchor_w_plus",),
        latent_shape=(generator.num_layers, 512),
    )
    reader = CacheReader(url)
    array = reader.array

    def poisoned(name, rows=None):
        values = array(name, rows).copy()
        values[0, 0, 0] = np.nan
        return values

    monkeypatch.setattr(reader, "array", poisoned)
    with pytest.raises(
        CorruptDataError, match=r"anchor_w_plus holds values that are not finite.*viewgen verify"
    ):
        Codes(reader, 21, CPU, 1 << 30)


# Viewmaker


def test_viewmaker_learns_to_raise_the_loss(make_tiny_plan):
    plan = make_tiny_plan(assimilation="A1", generated="viewmaker", viewmaker_learning_rate=1e-2)
    trainer = build_trainer(plan, World(), CPU)
    assert isinstance(trainer.generated.source, ViewmakerSource)
    assert isinstance(trainer.generated.source, LearnedSource)
    trainer.network.train()
    images = trainer.batch(0)
    encoder = {name: value.clone() for name, value in trainer.network.named_parameters()}
    expert = trainer.views(images)[:1]

    def loss_of(views):
        return trainer.losses(trainer.outputs(torch.cat([expert, views]), images))["loss"]

    losses = [trainer.generated.after_step(images, loss_of)["viewmaker_loss"].item() for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, encoder[name]) for name, value in trainer.network.named_parameters())


# the order of images


@pytest.mark.parametrize(
    "order",
    [FullOrder(21, 4, 3), BlockOrder(21, 4, 3, shard_images=4, buffer_shards=2)],
    ids=["full", "blocks"],
)
def test_an_epoch_has_every_image_once_at_most(order):
    epochs = [
        np.concatenate([order.rows(step) for step in range(5 * epoch, 5 * epoch + 5)]) for epoch in range(30)
    ]
    assert order.steps_per_epoch == 5
    for rows in epochs:
        assert len(set(rows.tolist())) == 20
        assert rows.min() >= 0
        assert rows.max() < 21
    assert len({tuple(rows) for rows in epochs}) == 30
    left_out = {(set(range(21)) - set(rows.tolist())).pop() for rows in epochs}
    assert len(left_out) > 5


def test_blocks_need_few_shards_at_once():
    order = BlockOrder(64, 8, 3, shard_images=8, buffer_shards=2)
    shards = [{int(row) // 8 for row in order.rows(step)} for step in range(8)]
    assert [len(shards[2 * k] | shards[2 * k + 1]) for k in range(4)] == [2] * 4


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(UsageError, match="a batch of 22 does not fit 21 images"):
        FullOrder(21, 22, 0)
