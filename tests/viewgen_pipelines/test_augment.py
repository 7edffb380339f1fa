"""Combinations of expert operations in the plan of a cache."""

import pytest

from viewgen.errors import UsageError
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig
from viewgen_pipelines.shards.plan import CacheOptions, make_plan


@pytest.fixture
def cache_options(tmp_path):
    def options(**changes):
        values = {
            "dataset": "digits",
            "views": 2,
            "out": str(tmp_path / "views.zarr"),
            "split": "train",
            "limit": 8,
            "seed": 0,
            "data_root": None,
            "models": None,
            "networks": {},
            "inversions": None,
            "keep_latents": False,
            "shard_images": None,
            "storage_options": {},
        }
        return CacheOptions(**(values | changes))

    return options


def test_a_cache_of_expert_views_takes_a_combination(cache_options):
    plan = make_plan(cache_options(method="expert", augment="abde", settings={"hue": 0.05}), print)
    assert plan.target.spec.config == ExpertConfig(**{**expert_values("abde"), "hue": 0.05}).record()
    with pytest.raises(UsageError, match="method 'invert' ignores it"):
        make_plan(cache_options(method="invert", views=None, augment="abde", settings={}), print)
    with pytest.raises(UsageError, match="c drops the colour"):
        make_plan(cache_options(method="expert", augment="abcde", settings={}), print)


def test_mutual_information_is_of_the_named_views(monkeypatch, tmp_path):
    from viewgen_pipelines import mutual_information

    tasks = []

    class Planned(BaseException):
        pass

    def look(planned, *_, **__):
        tasks.extend(planned)
        raise Planned

    monkeypatch.setattr(mutual_information, "_measure", look)
    with pytest.raises(Planned):
        mutual_information.mi(
            "digits", limit=600, augment="abd", executor="local", out=str(tmp_path), quiet=True
        )
    assert [task.expert for task in tasks] == [ExpertConfig(**expert_values("abd"))]
