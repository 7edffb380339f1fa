"""Contenders of a benchmark do the same work."""

import sys
from pathlib import Path

import augmentation
import cache_reads
import end_to_end
import loading
import numpy as np
import pytest
import torch
import zarr
import zarr_elsewhere
from random_cache import write_random_cache

from viewgen.images import to_model
from viewgen.recipes import recipe


def test_all_readers_of_a_cache_read_the_same_bytes(tmp_path):
    spec = write_random_cache(tmp_path, 512, image_size=8, shard_images=256)
    tasks = cache_reads.contests(tmp_path, spec, num_workers=0)
    cache_reads.check_values(tasks, 512)
    tasks["whole shard"]["another"] = (256, lambda rows: b"other bytes")
    with pytest.raises(AssertionError, match="whole shard: another"):
        cache_reads.check_values(tasks, 512)


def test_zarr_python_of_another_interpreter_reads_the_same_bytes(tmp_path, capsys, monkeypatch):
    spec = write_random_cache(tmp_path, 512, image_size=8, shard_images=256)
    pipelines = {"default": "", "none": "zarr.NoSuchPipeline"}
    monkeypatch.setattr(zarr_elsewhere, "PIPELINES", pipelines)
    readers = zarr_elsewhere.elsewhere(sys.executable, tmp_path / "views", spec.shard_images)
    name = f"zarr-python {zarr.__version__}, default"
    assert [[*found] for found in readers.values()] == [[name], [name]]
    assert "zarr-python, none, is left out" in capsys.readouterr().out
    tasks = cache_reads.contests(tmp_path, spec, num_workers=0)
    for task, found in readers.items():
        tasks[task][name] = (256, found[name])
    cache_reads.check_values(tasks, 512)
    for found in readers.values():
        found[name](np.arange(256))  # without the values
    readers["whole shard"][name].process.close()


def test_loaders_of_caches_and_of_files_give_the_same_views(tmp_path):
    loading.write_inputs(tmp_path, 24, 16)
    loading.check_values(tmp_path, 24)
    drawn = loading.ViewFiles(tmp_path / "views", 24)[5]
    assert drawn.shape == (loading.DRAWN, 3, 16, 16)
    loading._write_png(tmp_path / "views/0/3.png", drawn[0].numpy())
    with pytest.raises(AssertionError, match="view 3 of image 0"):
        loading.check_values(tmp_path, 24)


def test_statistics_tell_brighter_views_from_equal_ones():
    torch.manual_seed(0)
    views = torch.rand(64, 3, 8, 8) * 2 - 1
    ours = augmentation.view_statistics(views)
    assert augmentation.compare_statistics(ours, ours).endswith("(0.0 standard errors at most)")
    brighter = augmentation.view_statistics((views + 0.2).clamp(-1, 1))
    assert augmentation.compare_statistics(ours, brighter).startswith("means differ by brightness +0.0")
    assert not augmentation.compare_statistics(ours, brighter).endswith("(0.0 standard errors at most)")


@pytest.fixture
def few_steps(monkeypatch):
    def shorter(dataset: str, section: str):
        return {**recipe(dataset, section), **({"max_steps": 3} if section == "invert" else {})}

    monkeypatch.setattr(end_to_end, "recipe", shorter)


@pytest.mark.chaos
def test_the_papers_inversion_is_as_good_as_ours_after_as_many_steps(few_steps):
    made = {
        name: end_to_end.one_inversion(name, 2)() for name in (end_to_end.PAPER, end_to_end.OURS)
    }  # fmt: skip
    generator = end_to_end.load()[0].generator
    assert generator is not None
    with torch.no_grad():
        error = {
            name: float((generator.synthesis(w) - end_to_end.originals(2)).square().mean())
            for name, w in made.items()
        }
    # ours keeps the best of its steps, the paper's way takes the last
    assert error[end_to_end.PAPER] == pytest.approx(error[end_to_end.OURS], rel=0.02)
    assert all(float((w - _inverted(2)).abs().mean()) > 0.01 for w in made.values())


def _inverted(count: int) -> torch.Tensor:
    inverter = end_to_end.load()[0].inverter
    assert inverter is not None
    with torch.no_grad():
        return inverter(end_to_end.originals(count))


def test_what_the_papers_way_stores_is_found_and_judged(few_steps, tmp_path, monkeypatch):
    def at_once(synthesis, encoder, anchors, start, **settings):
        return end_to_end_search(synthesis, encoder, anchors, start, **{**settings, "max_steps": 2})

    end_to_end_search = end_to_end.paper_search
    monkeypatch.setattr(end_to_end, "paper_search", at_once)
    end_to_end.run(end_to_end.PAPER, 1, Path(tmp_path))
    views, codes = end_to_end.stored(end_to_end.PAPER, 1, Path(tmp_path))
    assert views.shape == (1, end_to_end.NUM_VIEWS, 3, 32, 32)
    models, plain = end_to_end.load()
    with torch.no_grad():
        # two small steps from the anchor: the stored views are near the stored code's image
        assert float((plain(codes) - to_model(views[:, 0])).abs().mean()) < 0.1
    found = end_to_end.judge(models, views, codes, end_to_end.originals(1))
    assert found["views_in_tolerance"] == 0
    assert 0 < found["spread_share_of_bound"] < 0.5
