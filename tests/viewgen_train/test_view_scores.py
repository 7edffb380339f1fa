"""Trainings that use scores of views: which they draw, with what weight; rows that did not converge."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from viewgen.errors import CacheMismatchError, IncompleteError, MissingFileError, UsageError
from viewgen.status import Status
from viewgen.store import CacheReader, open_storage
from viewgen.store.quality import write_scores
from viewgen.views.cached import CachedConfig, SampledSource
from viewgen.views.scores import load_scores, scores_digest
from viewgen.views.source import ViewScores
from viewgen_train.batch import StepDraws
from viewgen_train.distributed import World
from viewgen_train.training import train
from viewgen_train.worker import build_trainer

pytestmark = pytest.mark.usefixtures("no_flushing", "_no_pictures")
CPU = torch.device("cpu")


def draws(count, step=0):
    return StepDraws(step=step, seed=0, world=World(), global_size=count, device=CPU)


class Memory:
    """Views whose pixels are their own number, 10 · image + view."""

    num_views = 4

    def __init__(self, count):
        self.status = torch.full((count,), int(Status.OK), dtype=torch.uint8)

    def read(self, rows, view_index):
        number = 10 * torch.tensor(rows)[:, None] + view_index
        return number[..., None, None, None].to(torch.uint8).expand(*number.shape, 3, 2, 2)

    def expect(self, rows):
        pass


def drawn(scores, num_views, step=0, count=3):
    images = SimpleNamespace(source_index=torch.arange(count), draws=draws(count, step))
    made = SampledSource(Memory(count), scores).views(images, num_views)
    return made, made.pixels[:, :, 0, 0, 0].T.long()


def test_dropped_views_are_never_drawn_and_the_last_ones_repeat():
    keep = torch.tensor([[True, False, True, False], [False, False, True, False], [False] * 4])
    standard = torch.arange(12.0).view(3, 4)
    found = set()
    for step in range(20):
        made, numbers = drawn(ViewScores(keep=keep, standard=standard), 2, step)
        found |= {tuple(row) for row in numbers[:2].tolist()}
        assert numbers[1].tolist() == [12, 12]
        assert made.status.tolist() == [Status.OK, Status.OK, Status.FAILED]
        # a score goes with its view
        expected = standard.flatten()[4 * (numbers[:2] // 10) + numbers[:2] % 10]
        assert torch.equal(made.columns["score"][:2], expected)
    assert found == {(0, 2), (2, 0), (12, 12)}


def test_a_mask_that_keeps_all_draws_what_no_mask_draws():
    scores = ViewScores(keep=torch.ones(3, 4, dtype=torch.bool), standard=torch.zeros(3, 4))
    for step in range(5):
        assert torch.equal(drawn(scores, 3, step)[1], drawn(None, 3, step)[1])


@pytest.fixture
def scored_cache(tiny, cache_of, tmp_path):
    """A cache of 21 images with 3 views, row 2 not converged, with scores 0 … 62 and a NaN."""
    status = np.full(len(tiny), Status.OK)
    status[2] = Status.NOT_CONVERGED
    url = cache_of(tiny, status=status, url=str(tmp_path / "scored.zarr"))
    reader = CacheReader(url, statuses=(Status.OK,))
    margin = np.arange(63, dtype=np.float32).reshape(21, 3)
    margin[20, 2] = np.nan
    write_scores(open_storage(url), reader.spec, {"label_margin": margin})
    return url


def test_the_quantile_is_that_of_rows_in_use_and_scores_are_standardised(scored_cache):
    reader = CacheReader(scored_cache, statuses=(Status.OK,))
    found = load_scores(reader, CachedConfig(score="label_margin", drop_below=0.5))
    used = np.array([v for v in range(62) if v // 3 != 2], np.float32)
    expected = np.arange(63).reshape(21, 3) >= np.quantile(used, 0.5)
    rows = reader.rows
    np.testing.assert_array_equal(found.keep.numpy()[rows], expected[rows])
    assert bool(found.keep[20, 2]), "a view whose score is unknown stays"
    kept = found.standard[rows][found.keep[rows]].double()
    kept = kept[torch.isfinite(kept)]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6)
    assert kept.std().item() == pytest.approx(1, rel=1e-6)
    reverse = load_scores(reader, CachedConfig(score="-label_margin", drop_below=0.25))
    assert not bool(reverse.keep[19, 0])
    assert bool(reverse.keep[0, 0])
    assert scores_digest(found) != scores_digest(reverse)
    assert load_scores(reader, CachedConfig()) is None
    # the cache's own distance needs no scores
    assert load_scores(reader, CachedConfig(score="distance", drop_below=0.1)).keep.float().mean() < 1


def test_scores_that_are_not_there_are_named(scored_cache, tiny_cache):
    with pytest.raises(MissingFileError, match="--write-columns"):
        load_scores(CacheReader(tiny_cache), CachedConfig(score="label_margin", drop_below=0.1))
    with pytest.raises(UsageError, match="did you mean 'label_margin'"):
        load_scores(CacheReader(scored_cache), CachedConfig(score="label_margi", drop_below=0.1))


def test_weights_reach_the_loss_and_the_identity(make_tiny_plan, scored_cache):
    def first_loss(**settings):
        trainer = build_trainer(make_tiny_plan(cache=scored_cache, **settings), World(), CPU)
        return float(trainer.step(0)["loss"]), trainer.identity

    plain, identity = first_loss(assimilation="A1")
    weighted, other = first_loss(assimilation="A1", score="label_margin", score_weight=2.0)
    same, _ = first_loss(assimilation="A1", score="label_margin", score_weight=1e-12)
    assert same == pytest.approx(plain, rel=1e-5)
    assert weighted != pytest.approx(plain, rel=1e-3)
    assert "scores" not in identity
    assert "score_weight" not in json.dumps(identity)
    assert len(other["scores"]) == 16


def options_of(url, out, tiny_root, **more):
    settings = {"width": 2, "projection_dim": 4, "batch_size": 8, "epochs": 1, "knn_every": 0}
    return {
        "cache": url, "out": str(out), "settings": settings, "data_root": tiny_root, "device": "cpu",
        "evaluate": False, **more,
    }  # fmt: skip


def test_unconverged_rows_are_used_only_if_asked_and_counted(scored_cache, tiny_root, tmp_path, capsys):
    found = train(**options_of(scored_cache, tmp_path / "a", tiny_root))
    assert (found.unconverged, found.unconverged_used) == (1, False)
    assert {"unconverged": 1, "unconverged_used": False}.items() <= found.to_json().items()
    err = capsys.readouterr().err
    assert "1 of 21 images did not converge: an expert view takes the place of theirs" in err
    used = train(**options_of(scored_cache, tmp_path / "b", tiny_root, use_unconverged=True))
    assert used.unconverged_used
    assert "their views are used" in capsys.readouterr().err
    missing = [json.loads((tmp_path / name / "identity.json").read_text())["missing"] for name in "ab"]
    assert missing == [1, 0]
    # a run that began with them, as those of 0.1.0, goes on with them; the other is not mixed up
    assert train(**options_of(scored_cache, tmp_path / "b", tiny_root)).unconverged_used
    assert "began with the views of images that did not converge" in capsys.readouterr().err
    with pytest.raises(CacheMismatchError, match="missing"):
        train(**options_of(scored_cache, tmp_path / "a", tiny_root, use_unconverged=True))
    fresh = train(**options_of(scored_cache, tmp_path / "b", tiny_root, overwrite=True))
    assert not fresh.unconverged_used


def test_a_cache_that_did_not_converge_at_all_needs_the_flag(tiny, cache_of, tiny_root, tmp_path):
    url = cache_of(tiny, status=np.full(len(tiny), Status.NOT_CONVERGED), url=str(tmp_path / "late.zarr"))
    with pytest.raises(IncompleteError, match="--use-unconverged uses them"):
        train(**options_of(url, tmp_path / "run", tiny_root))
    assert train(**options_of(url, tmp_path / "run", tiny_root, use_unconverged=True)).unconverged == 21
    with pytest.raises(UsageError, match="--use-unconverged is given"):
        train(
            tiny.name, out=str(tmp_path / "c"), settings={"assimilation": "none"}, use_unconverged=True,
            data_root=tiny_root,
        )  # fmt: skip
