"""Faults under the local executor, in processes that really die."""

import os
import random
import signal

import pytest
from dying_driver import run_driver
from expected_cache import assert_every_image_once

from viewgen.errors import StorageError
from viewgen.store import ObjectExistsError, open_storage
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.ledger import AttemptLedger

pytestmark = pytest.mark.usefixtures("no_flushing")

SMALL = {"views": 2, "limit": 20, "shard_images": 16}


def rerun(url, **changes):
    return cache("digits", method="faulty", executor="local", quiet=True, out=url, **(SMALL | changes))


# 8 documents, and for each of two shards a marker, 7 objects and a record
WRITES = 8 + 2 * 9


@pytest.mark.parametrize(
    "moments", [pytest.param(range(WRITES), marks=pytest.mark.chaos), (0, 1, 8, 16, 25)], ids=len
)
def test_a_driver_killed_at_any_write_is_continued_by_the_next(tmp_path, faults, moments):
    """Group document, array documents, attempt marker, every object, commit record: before and after each."""
    path = faults()
    for number in moments:
        url = str(tmp_path / f"{number}.zarr")
        assert run_driver(path, kill_at_write=number, out=url, **SMALL) == -signal.SIGKILL
        assert rerun(url).complete
        assert_every_image_once(url, num_images=20)
    assert run_driver(path, kill_at_write=WRITES, out=str(tmp_path / "whole.zarr"), **SMALL) == 0


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [0, 1])
def test_a_driver_killed_again_and_again_gets_there(tmp_path, faults, seed):
    path, url = faults(), str(tmp_path / "c.zarr")
    moments = random.Random(seed)
    kills = 0
    while run_driver(path, kill_at_write=moments.randrange(14), out=url, **(SMALL | {"limit": 90})) != 0:
        kills += 1
        assert kills < 60
    assert kills
    assert_every_image_once(url, num_images=90)


def test_a_shard_that_crashes_the_process_is_quarantined_after_three_runs(tmp_path, faults):
    path, url = faults(segfault=[17]), str(tmp_path / "c.zarr")
    options = SMALL | {"limit": 50}
    for _ in range(3):
        assert run_driver(path, out=url, **options) == -signal.SIGSEGV
    assert run_driver(path, out=url, **options) == 4
    assert_every_image_once(url, num_images=50, missing=tuple(range(16, 32)))
    reason = AttemptLedger(open_storage(url), "", 3).quarantined()[1]
    assert "crashed in attempt 3" in reason
    assert "Segmentation fault" in reason
    assert "_segfault" in reason
    faults()
    assert rerun(url, limit=50, max_attempts=4).complete
    assert_every_image_once(url, num_images=50)


def test_a_step_that_hangs_is_ended_and_quarantined(tmp_path, faults):
    path, url = faults(hang=[0]), str(tmp_path / "c.zarr")
    for _ in range(2):
        assert run_driver(path, out=url, hang_timeout=0.5, max_attempts=2, **SMALL) == 1
        told = (tmp_path / "faults.json.stderr").read_text()
        assert "shard 0 took longer than 0.5 s" in told
        assert "in _hang" in told
    assert run_driver(path, out=url, hang_timeout=30, max_attempts=2, **SMALL) == 4
    assert_every_image_once(url, num_images=20, missing=tuple(range(16)))
    assert "hung in attempt 2" in AttemptLedger(open_storage(url), "", 2).quarantined()[0]
    faults()
    assert rerun(url).complete


def test_a_full_disk_ends_the_run_with_its_reason_and_blames_no_shard(tmp_path, faults, monkeypatch):
    url = str(tmp_path / "c.zarr")
    faults(disk_full=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", os.fsync)  # taken back at the end: the method fills the disk
        with pytest.raises(StorageError, match="No space left on device"):
            rerun(url, max_attempts=1)
    faults()
    assert rerun(url, max_attempts=1).complete
    assert_every_image_once(url, num_images=20)


def test_a_shard_that_needs_too_much_memory_is_tried_so_often_and_no_more(tmp_path, faults):
    """The shards before and after it are made in the same process, whose memory was never gone."""
    url = str(tmp_path / "c.zarr")
    faults(memory=[17])
    result = rerun(url, limit=50, max_attempts=2)
    assert [(item["shard"], item["rows"]) for item in result.quarantined] == [(1, [16, 31])]
    assert "raised in attempt 2: " in result.quarantined[0]["reason"]
    assert "MemoryError" in result.quarantined[0]["reason"]
    assert_every_image_once(url, num_images=50, missing=tuple(range(16, 32)))
    faults()
    assert rerun(url, limit=50, max_attempts=3).complete
    assert_every_image_once(url, num_images=50)


def test_an_attempt_that_somebody_else_began_leaves_its_shard_to_be_made(tmp_path, faults, monkeypatch):
    """What exists is the marker of an attempt, not a commit."""
    url, begin, met = str(tmp_path / "c.zarr"), AttemptLedger.begin, []

    def meets_another(ledger, shard_id):
        if shard_id == 1 and not met:
            met.append(shard_id)
            raise ObjectExistsError("run/attempts/00000001-01-started.json exists already")
        return begin(ledger, shard_id)

    monkeypatch.setattr(AttemptLedger, "begin", meets_another)
    assert rerun(url, limit=50).complete
    assert met
    assert_every_image_once(url, num_images=50)
