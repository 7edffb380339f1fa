"""Faults under Ray: workers that crash or hang, and drivers that are killed.

Workers that are killed at named moments are in tests/chaos/test_workers.py.
"""

import signal
import time
from functools import partial
from pathlib import Path

import pytest
from expected_cache import assert_every_image_once

from viewgen.errors import StorageError
from viewgen.store import open_storage
from viewgen_pipelines.cache import cache
from viewgen_pipelines.executors.orphans import below
from viewgen_pipelines.shards.ledger import AttemptLedger

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own code warns


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "c.zarr")


@pytest.fixture
def finish(url):
    """Return a function that makes views in this process, for the rest of the work once a fault is over."""

    def run(**changes):
        options = {"method": "faulty", "views": 2, "shard_images": 16, "out": url, "quiet": True}
        return cache("digits", **({"executor": "local"} | options | changes))

    return run


@pytest.fixture
def make(finish, ray_faults):
    """Return a function that makes views in the shared Ray session."""
    return partial(finish, executor="ray")


def outcomes(url):
    """Return shard id → how its attempts ended, None for the one that committed."""
    histories = AttemptLedger(open_storage(url), "", 1).histories()
    return {shard_id: [a.outcome for a in history.attempts] for shard_id, history in histories.items()}


def test_crashing_and_hanging_workers_cost_their_own_shard_only(make, finish, url, ray_faults, tmp_path):
    once = tmp_path / "once"
    once.mkdir()
    ray_faults(segfault=[17], exit=[33], hang=[50], once=str(once))
    result = make(limit=80, workers=2, hang_timeout=4.0, max_attempts=2)
    assert [(item["shard"], item["rows"]) for item in result.quarantined] == [(1, [16, 31])]
    assert "Segmentation fault" in result.quarantined[0]["reason"]
    assert_every_image_once(url, num_images=80, missing=tuple(range(16, 32)))
    assert outcomes(url) == {
        0: [None],
        1: ["crashed", "crashed"],
        2: ["crashed", None],
        3: ["hung", None],
        4: [None],
    }
    ray_faults()
    assert finish(limit=80, max_attempts=3).complete
    assert_every_image_once(url, num_images=80)


def test_a_full_disk_under_ray_ends_the_run_and_blames_no_shard(make, finish, url, ray_faults):
    ray_faults(disk_full=True)
    with pytest.raises(StorageError, match="No space left on device"):
        make(limit=40, workers=1, max_attempts=1)
    assert set(outcomes(url)[0]) == {"interrupted"}
    ray_faults()
    assert finish(limit=40, max_attempts=1).complete
    assert_every_image_once(url, num_images=40)


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
def test_drivers_that_are_killed_or_told_to_stop_are_continued(finish, url, faults, start):
    """Each comes at once, while the workers of the one before may still be there."""
    faults(seconds=0.2)
    words = ("--dataset", "digits", "--method", "faulty", "--views", "2", "--limit", "130", "--json")

    killed = start("cache", *words, "--shard-images", "16", "--workers", "2", "--out", url)
    wait_for(Path(url) / "commits/00000001.json")
    faults(seconds=100)
    wait_for_dashboard(killed.pid)
    left = below({killed.pid})
    assert len(left) > 8, "GCS, raylet, agents, workers, dashboard and its parts, monitors"
    died = time.monotonic()
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(timeout=30) == -signal.SIGKILL

    faults(seconds=0.2)
    stopped = start("cache", *words, "--shard-images", "16", "--workers", "2", "--out", url)
    wait_for(Path(url) / "commits/00000005.json")
    faults(seconds=100)
    asked = time.monotonic()
    stopped.send_signal(signal.SIGTERM)
    out, err = stopped.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert stopped.returncode == 128 + signal.SIGTERM, err
    assert out == ""
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert open_storage(url).paths("run/lease") == []
    assert not (Path(url) / "commits/00000008.json").exists(), "it was stopped in the middle"
    # Ray's agents alone would take a minute
    while alive := {pid for pid, start in left.items() if below({pid}).get(pid) == start}:
        assert time.monotonic() < died + 30, alive
        time.sleep(0.5)

    faults()
    assert finish(limit=130, max_attempts=1).complete, "the end of a driver blames no shard"
    assert_every_image_once(url, num_images=130)


def wait_for_dashboard(driver, seconds=120):
    """Wait for all that is started after the workers; the log monitor is the last of it."""
    deadline = time.monotonic() + seconds
    while not any("log_monitor.py" in command_of(pid) for pid in below({driver})):
        assert time.monotonic() < deadline, "the dashboard did not start"
        time.sleep(0.1)


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
