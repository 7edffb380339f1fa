"""`--precision` and `--batch-size` through the command: identity, equal views, what workers have to say."""

import json

import numpy as np
import pytest
from small_networks import save_small_networks

from viewgen.cli import main
from viewgen.errors import CacheMismatchError, UsageError
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.entry import ViewEntry
from viewgen.views.source import Views
from viewgen.views.wperturb import WPerturbConfig
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.job import ShardReport

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> str:
    return save_small_networks(tmp_path_factory.mktemp("models"))


@pytest.fixture
def make(tmp_path, models, monkeypatch):
    """Return a function that runs `cache`, with few updates, on inversions that are made once."""
    short = {"invert": {"max_steps": 1}}
    monkeypatch.setattr("viewgen.registry.recipe", lambda dataset, section: short.get(section, {}))

    def run(name, method="wsearch", **changes):
        options = {
            "models": models,
            "limit": 6,
            "views": 2,
            "max_steps": 1,
            "executor": "local",
            "quiet": True,
        }
        return cache("digits", method=method, **({"out": str(tmp_path / name)} | options | changes))

    return run


def arrays(url: str) -> dict[str, np.ndarray]:
    reader = CacheReader(url)
    return {name: reader.array(name) for name in reader.spec.array_layout()}


def test_precision_is_part_of_the_identity(make):
    exact = make("c.zarr")
    assert exact.precision == "float32"
    with pytest.raises(CacheMismatchError, match="precision"):
        make("c.zarr", precision="bfloat16")
    rounded = make("d.zarr", precision="bfloat16")
    assert rounded.precision == "bfloat16"
    first, second = CacheReader(exact.url), CacheReader(rounded.url)
    assert first.spec.models == second.spec.models, "the inversions are the same"
    assert first.spec.config["precision"] == "float32"
    assert not np.array_equal(first.views(first.rows), second.views(second.rows))
    assert all("num_continued" in commit.stats for commit in second.commits.values())
    assert not any("num_continued" in commit.stats for commit in first.commits.values())


def test_only_methods_that_search_have_a_precision(make):
    with pytest.raises(UsageError, match="precision is a setting of wsearch, invert; view method 'wperturb'"):
        make("c.zarr", "wperturb", max_steps=None, precision="bfloat16")
    with pytest.raises(UsageError, match="expected 'float32' or 'bfloat16'"):
        make("c.zarr", precision="half")


@pytest.mark.chaos
def test_any_batch_size_gives_the_same_cache(make):
    made = {size: make(f"{size}.zarr", batch_size=size) for size in (None, 1, "auto")}
    expected = arrays(made[None].url)
    for result in made.values():
        found = arrays(result.url)
        assert all(np.array_equal(found[name], expected[name], equal_nan=True) for name in expected)
    assert made[None].notes == made[1].notes == []
    (note,) = made["auto"].notes
    assert note.startswith("batch size: auto: ")
    (commit,) = CacheReader(made["auto"].url).commits.values()
    assert commit.stats["notes"]["batch size"] in note
    again = make("auto.zarr", batch_size=7)
    assert again.views_per_second is None, "another batch size resumes the same cache"
    assert again.notes == [note]


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_has_an_image(make, size):
    with pytest.raises(UsageError, match="--batch-size"):
        make("c.zarr", batch_size=size)


@pytest.fixture
def talking(monkeypatch):
    """A method whose worker announces something at every shard."""

    class Talking:
        roles = ("view",)

        def __init__(self, config, resources):
            self.execution = resources.models.execution
            self.shards = iter(range(100))

        def views(self, images, num_views):
            self.execution.announce("acceleration", f"runs eagerly, shard {next(self.shards)}")
            return Views(pixels=images.pixels.repeat(num_views, 1, 1, 1, 1))

    entry = ViewEntry(name="talking", summary="", settings=WPerturbConfig, build=Talking, num_views=1)
    monkeypatch.setitem(VIEWS._registered, "talking", entry)


def test_a_note_is_said_once_and_recorded_with_every_shard(talking, tmp_path, capsys):
    url = str(tmp_path / "c.zarr")
    result = cache("digits", method="talking", limit=48, shard_images=16, out=url, executor="local")
    lines = [line for line in capsys.readouterr().err.splitlines() if "runs eagerly" in line]
    assert [line for line in lines if line.startswith("talking: ")] == [
        "talking: acceleration: runs eagerly, shard 0"
    ]
    assert result.notes == [f"acceleration: runs eagerly, shard {shard}" for shard in range(3)]
    assert lines[1:] == [f"  {note}" for note in result.notes]
    reader = CacheReader(url)
    for shard, commit in reader.commits.items():
        assert commit.stats["notes"] == {"acceleration": f"runs eagerly, shard {shard}"}
    assert result.to_json()["notes"] == result.notes


def test_the_report_of_a_shard_carries_its_notes():
    report = ShardReport(shard_id=3, outcome="committed", notes={"memory": "out of it"})
    assert ShardReport.from_json(report.to_json()) == report


def test_the_command_takes_auto_and_says_so(models, tmp_path, capsys):
    words = ["--dataset=digits", f"--models={models}", f"--out={tmp_path / 'c.zarr'}", "--dry-run", "--json"]

    def run(*more):
        with pytest.raises(SystemExit) as caught:
            main(["cache", *words, *more])
        return caught.value.code, *capsys.readouterr()

    code, out, err = run("--batch-size=auto", "--precision=bfloat16")
    assert code == 0
    assert json.loads(out)["precision"] == "bfloat16"
    assert "precision=bfloat16" in err
    assert "images at once: as many as each worker finds room for" in err
    assert "images at once: 64" in run("--batch-size=64")[2]
    code, _, err = run("--batch-size=many")
    assert code == 2
    assert "neither a whole number nor 'auto'" in err
