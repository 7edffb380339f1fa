"""Estimates of `viewgen cache --dry-run`: from images that are made, or a bound."""

from types import SimpleNamespace

import pytest
import torch

from viewgen.datasets import load_dataset
from viewgen.views import VIEWS
from viewgen_pipelines import cost
from viewgen_pipelines.cache import cache
from viewgen_pipelines.cost import MethodRun, cost_lines, stage_costs


@pytest.fixture
def costs(monkeypatch):
    """Return a function (max_steps, **options) → costs of a stage whose every update takes a second."""
    clock = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])

    def step(run, settings, models, seed):
        def make(batch):
            clock[0] += 1 + settings.max_steps
            return {}

        return make

    monkeypatch.setattr(cost, "_step", step)

    def found(max_steps, **options):
        method = VIEWS.resolve("invert", "digits", {"max_steps": max_steps})
        run = MethodRun(method=method, num_views=1, num_images=80)
        models = SimpleNamespace(device=torch.device("cpu"))
        return stage_costs([run], models, load_dataset("digits"), workers=1, **options)

    return found


def test_a_short_search_is_run_to_its_end(costs):
    (found,) = costs(9)
    assert (found.seconds, found.at_most) == (10 * 80 / 32, False)  # one group of images
    assert "invert about 25 s, for 1 worker on cpu" in cost_lines([found])[0]


def test_a_long_search_is_bounded_by_its_largest_number_of_updates(costs):
    (found,) = costs(999)
    assert (found.seconds, found.at_most) == (1000 * 80 / 32, True)
    assert cost_lines([found])[1].startswith("  at most: if every image takes all max_steps updates")
    assert costs(9, to_the_end=False)[0].at_most


def test_what_is_there_costs_nothing(tmp_path):
    options = {"method": "expert", "views": 2, "limit": 16, "executor": "local", "quiet": True}
    url = str(tmp_path / "c.zarr")
    cache("digits", out=url, **options)
    found = cache("digits", out=url, dry_run=True, estimate=True, **options)
    assert [row["seconds"] for row in found.estimate] == [0.0]


@pytest.mark.parametrize(
    ("executor", "workers", "expected"), [("local", None, 1), ("ray", 5, 3), ("ray", 2, 2), ("ray", None, 2)]
)
def test_workers_are_as_many_as_there_is_work_and_room_for(monkeypatch, executor, workers, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(cost, "available_cores", lambda: 2)
    assert cost.expected_workers(executor, workers, num_shards=3) == expected
