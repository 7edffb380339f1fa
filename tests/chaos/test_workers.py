"""Workers of one Ray session: killed at named moments, short of memory, in any number and order.

The session has four workers, whatever the machine has, and an object store of 80 MiB.
"""

import contextlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(PIPELINE_TESTS := Path(__file__).parent.parent / "viewgen_pipelines"))

from expected_cache import assert_every_image_once
from small_networks import save_small_networks

from viewgen.store import CacheReader, open_storage
from viewgen_pipelines.cache import CacheResult, cache
from viewgen_pipelines.executors import session
from viewgen_pipelines.shards import driver
from viewgen_pipelines.shards.ledger import AttemptLedger

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore"),  # Ray's own code warns
]

OBJECT_STORE_BYTES = 80 * 2**20
SEED = 16
MOMENTS = ("before", "half", "after")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Start the session; return a function that sets its workers' faults and returns the folder of deaths."""
    folder = tmp_path_factory.mktemp("workers")
    path, deaths = folder / "faults.json", folder / "deaths"
    deaths.mkdir()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("VIEWGEN_TEST_FAULTS", str(path))
        patch.setenv("PYTHONPATH", str(PIPELINE_TESTS), prepend=os.pathsep)
        patch.setattr(session, "OBJECT_STORE_BYTES", OBJECT_STORE_BYTES)
        with pytest.MonkeyPatch.context() as for_workers:
            # this process would be killed too
            for_workers.setenv("VIEWGEN_TEST_DEATHS", str(deaths))
            stack.enter_context(session.ray_session(None, num_workers=4))

        def set_faults(**kinds: Any) -> Path:
            path.write_text(json.dumps(kinds))
            return deaths

        yield set_faults


@pytest.fixture
def make(tmp_path: Path, faults: Callable[..., Path]) -> Callable[..., CacheResult]:
    faults()

    def run(name: str, **changes: Any) -> CacheResult:
        options = {"method": "faulty", "views": 2, "out": str(tmp_path / name), "quiet": True}
        return cache("digits", **(options | changes))

    return run


def outcomes(url: str) -> dict[int, list[str | None]]:
    histories = AttemptLedger(open_storage(url), "", 1).histories()
    return {shard_id: [a.outcome for a in history.attempts] for shard_id, history in histories.items()}


def committed(url: str) -> dict[str, str]:
    """Return the digests of all committed objects, by array and shard."""
    reader = CacheReader(url)
    return {
        f"{name} {shard_id}": commit.objects[commit.path_of(layout)]["sha256"]
        for name, layout in reader.spec.array_layout().items()
        for shard_id, commit in reader.commits.items()
    }


def test_workers_killed_at_twenty_named_moments(make, faults, tally):
    """Before, half-way through and after the write of marker, objects and record, each in another shard."""
    draw = random.Random(SEED)
    small = {"limit": 96, "shard_images": 4}
    spec = CacheReader(make("clean.zarr", executor="local", **small).url).spec
    layouts = spec.array_layout()
    points = ["attempt marker", *layouts, "commit record"]
    deaths, said = {}, []
    # each point once at least, and more of them at other moments
    chosen = [*points, *draw.choices(points, k=20 - len(points))]
    for shard_id, point in zip(draw.sample(range(4, 24), 20), chosen, strict=True):
        moment = draw.choice(MOMENTS)
        name = {
            "attempt marker": f"run/attempts/{shard_id:08d}-01-started.json",
            "commit record": f"commits/{shard_id:08d}.json",
        }.get(point) or layouts[point].object_path(shard_id)
        deaths[name] = moment
        said.append(f"{moment} {point}")
    marks = faults(die_at=deaths)
    result = make("killed.zarr", executor="ray", workers=2, max_attempts=4, **small)
    assert result.complete
    assert sorted(mark.name for mark in marks.iterdir()) == sorted(name.replace("/", "_") for name in deaths)
    assert_every_image_once(result.url, num_images=96)
    clean = str(Path(result.url).parent / "clean.zarr")
    assert committed(result.url) == committed(clean), "the bytes of a run without faults"
    tally(f"20 kills at seeded moments (seed {SEED}): {', '.join(sorted(said))}")


def test_shards_in_any_order_made_by_any_number_of_workers(make, monkeypatch, tally):
    missing = driver._StageRun._missing
    seen = {}
    for num_workers in (1, 2, 4):

        def shuffled(self, finished, num_workers=num_workers):
            found = missing(self, finished)
            random.Random(num_workers).shuffle(found)
            seen.setdefault(num_workers, found)
            return found

        monkeypatch.setattr(driver._StageRun, "_missing", shuffled)
        result = make(f"{num_workers}.zarr", workers=num_workers, limit=180, shard_images=16)
        assert result.complete
        assert_every_image_once(result.url, num_images=180)
        assert seen[num_workers] != sorted(seen[num_workers])
    tally("180 images in shuffled shards by 1, 2 and 4 workers: views, label and source of every row right")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_small_networks(tmp_path_factory.mktemp("models"))


def test_any_number_of_workers_and_any_batch_gives_the_same_views(make, models, monkeypatch, tally):
    short = {"invert": {"max_steps": 2}}
    monkeypatch.setattr("viewgen.registry.recipe", lambda dataset, section: short.get(section, {}))
    options = {"method": "wsearch", "models": models, "limit": 32, "shard_images": 8, "max_steps": 2}
    made = {}
    for num_workers, batch_size in ((1, 1), (2, 1), (4, 1), (2, 7), (4, 7), (2, 32)):
        name = f"{num_workers}-{batch_size}.zarr"
        result = make(name, workers=num_workers, batch_size=batch_size, **options)
        assert result.complete
        reader = CacheReader(result.url)
        made[num_workers, batch_size] = {name: reader.array(name) for name in reader.spec.array_layout()}
    first = made[2, 1]
    for (num_workers, batch_size), arrays in made.items():
        where = f"{num_workers} workers with batches of {batch_size} against 2 with 1"
        steps = np.abs(arrays["views"].astype(np.int16) - first["views"])
        assert steps.max() <= 1, where
        # float32 sums of a batch of another size, or by more threads, round otherwise; two steps add to it
        np.testing.assert_allclose(
            arrays["distance"], first["distance"], atol=1e-4, err_msg=f"distance, {where}"
        )
        for name in ("source_index", "label", "status"):
            np.testing.assert_array_equal(arrays[name], first[name], err_msg=f"{name}, {where}")
    # one worker has all cores, and so more threads, whose sums round otherwise; two and four have one each
    for one, other in (((2, 1), (4, 1)), ((2, 7), (4, 7))):
        for name in first:
            np.testing.assert_array_equal(
                made[one][name],
                made[other][name],
                err_msg=f"{name}: {one} and {other} (workers, batch) have equal batches and threads",
            )
    largest = max(int(np.abs(a["views"].astype(np.int16) - first["views"]).max()) for a in made.values())
    tally(f"wsearch by 1, 2 and 4 workers with batches of 1, 7 and 32: at most {largest} grey levels apart")


def test_a_cache_larger_than_the_object_store(make, tally):
    import ray

    assert ray.cluster_resources()["object_store_memory"] <= OBJECT_STORE_BYTES
    result = make("large.zarr", workers=2, views=64, limit=600, shard_images=50)
    assert result.complete
    reader = CacheReader(result.url)
    size = len(reader) * reader.views(0).nbytes
    assert size > OBJECT_STORE_BYTES
    assert_every_image_once(result.url, num_images=600, num_views=64)
    tally(f"{size / 2**20:.0f} MiB of views through a session with an object store of 80 MiB")


def test_shards_that_need_too_much_memory(make, faults, tally):
    """One allocation fails each time, and one worker is killed each time, as the kernel does it."""
    faults(memory=[17], killed=[33])
    result = make("memory.zarr", workers=2, limit=80, shard_images=16, max_attempts=2)
    assert [item["shard"] for item in result.quarantined] == [1, 2]
    assert "MemoryError" in result.quarantined[0]["reason"]
    assert outcomes(result.url) == {
        0: [None],
        1: ["raised", "raised"],
        2: ["crashed", "crashed"],
        3: [None],
        4: [None],
    }
    assert_every_image_once(result.url, num_images=80, missing=tuple(range(16, 48)))
    faults()
    assert make("memory.zarr", workers=2, limit=80, shard_images=16, max_attempts=3).complete
    assert_every_image_once(result.url, num_images=80)
    tally("out of memory, raised or killed: two attempts of two, quarantined, three other shards made")
