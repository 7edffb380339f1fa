"""Which attempts count against a shard, and which do not."""

import json
import subprocess
import sys

import pytest

from viewgen.errors import StorageError
from viewgen.store import open_storage
from viewgen_pipelines.shards.lease import this_process
from viewgen_pipelines.shards.ledger import AttemptLedger
from viewgen_pipelines.shards.watchdog import CrashTrace

pytestmark = pytest.mark.usefixtures("no_flushing")

DIE = """
import ctypes, json, os, signal, sys
from viewgen.store import open_storage
from viewgen_pipelines.shards.ledger import AttemptLedger
from viewgen_pipelines.shards.watchdog import CrashTrace

storage = open_storage(sys.argv[1])
ledger = AttemptLedger(storage, sys.argv[2], 3, in_driver=sys.argv[4] == "driver")
with CrashTrace(sys.argv[2]):
    ledger.begin(0)
    ctypes.string_at(0) if sys.argv[3] == "segfault" else os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "c"))


@pytest.fixture
def ledger(storage):
    return AttemptLedger(storage, "run", 3)


def die(storage, run_id, how, where):
    """Begin an attempt in a process that ends there."""
    process = subprocess.run(
        [sys.executable, "-c", DIE, storage.url, run_id, how, where], capture_output=True, check=False
    )
    assert process.returncode < 0, process.stderr


def outcomes(ledger, shard_id=0):
    return [attempt.outcome for attempt in ledger.histories()[shard_id].attempts]


def test_attempts_are_numbered_and_failures_quarantine(ledger):
    for number in (1, 2, 3):
        attempt = ledger.begin(4)
        assert attempt.number == number
        assert ledger.quarantined() == {}
        ledger.end(attempt, "raised", f"reason {number}")
    assert ledger.begin(4) is None
    assert ledger.quarantined() == {4: "raised in attempt 3: reason 3"}
    assert ledger.begin(5).number == 1
    patient = AttemptLedger(ledger.storage, "later", 4)
    assert patient.quarantined() == {}
    assert patient.begin(4).number == 4


def test_interruptions_do_not_count(ledger):
    for _ in range(10):
        ledger.end(ledger.begin(0), "interrupted", "SIGTERM")
    assert ledger.begin(0) is not None


def test_the_first_judgement_of_an_attempt_stands(ledger):
    attempt = ledger.begin(0)
    ledger.end(attempt, "raised", "first")
    ledger.end(attempt, "raised", "second")
    assert "first" in ledger.reason(ledger.histories()[0])


@pytest.mark.parametrize(("how", "text"), [("segfault", "Segmentation fault"), ("kill", "without a word")])
def test_a_worker_that_died_in_this_run_crashed(ledger, storage, how, text):
    die(storage, "run", how, "worker")
    assert ledger.begin(0).number == 2
    assert outcomes(ledger) == ["crashed", None]
    assert text in ledger.reason(ledger.histories()[0])
    assert AttemptLedger(storage, "run", 1).begin(0) is None
    assert ledger.begin(1).number == 1, "another shard's record is clean"


def test_what_the_end_of_a_driver_interrupted_does_not_count(ledger, storage):
    die(storage, "earlier", "kill", "worker")
    ledger.judge_earlier_runs(committed=())
    assert outcomes(ledger) == ["interrupted"]


def test_a_crash_of_driver_and_worker_in_one_counts_and_a_kill_hardly(ledger, storage):
    die(storage, "earlier", "segfault", "driver")
    ledger.judge_earlier_runs(committed=())
    assert outcomes(ledger) == ["crashed"]
    assert "Segmentation fault" in ledger.reason(ledger.histories()[0])

    die(storage, "killed", "kill", "driver")
    ledger.judge_earlier_runs(committed=())
    for number in range(18):
        AttemptLedger(storage, f"killed {number}", 3, in_driver=True).begin(0)
        ledger.judge_earlier_runs(committed=())
    assert outcomes(ledger) == ["crashed"] + ["died"] * 19
    assert ledger.quarantined() == {}
    AttemptLedger(storage, "killed again", 3, in_driver=True).begin(0)
    ledger.judge_earlier_runs(committed=())
    assert list(ledger.quarantined()) == [0]


def test_committed_shards_are_not_judged(ledger):
    for shard_id in (0, 1):
        AttemptLedger(ledger.storage, "earlier", 3, in_driver=True).begin(shard_id)
    ledger.judge_earlier_runs(committed={0})
    assert outcomes(ledger, 0) == [None]
    assert outcomes(ledger, 1) == ["died"]


def test_a_run_closes_its_own_attempts(ledger):
    AttemptLedger(ledger.storage, "other", 3).begin(0)
    ledger.begin(1)
    ledger.interrupt_own(committed=(), reason="SIGTERM")
    assert outcomes(ledger, 0) == [None]
    assert outcomes(ledger, 1) == ["interrupted"]


def test_a_shard_that_another_live_process_works_on_is_not_blamed(ledger, storage):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ledger.begin(0)
    path = "run/attempts/00000000-01-started.json"
    from viewgen_pipelines.shards.lease import _process_start

    worker = {**this_process(), "pid": process.pid, "process_start": _process_start(process.pid)}
    storage.write(path, json.dumps({"run_id": "run", "worker": worker}).encode())
    assert ledger.begin(0).number == 2
    assert outcomes(ledger) == [None, None]
    process.communicate()


@pytest.mark.parametrize(("lost", "outcome"), [({"node-1"}, "interrupted"), (set(), "crashed")])
def test_a_node_that_is_lost_is_no_shards_failure(storage, lost, outcome):
    """A machine that is taken away says nothing about the shard it had; one that stays does."""
    for _ in range(3):
        AttemptLedger(storage, "run", 3, node="node-1").begin(0)
    for path in storage.paths("run/attempts"):
        record = json.loads(storage.read(path))
        if path.endswith("started.json"):
            assert record["node"] == "node-1"
            # elsewhere: this machine cannot see whether that process lives
            record["worker"]["host"] = "another machine"
            storage.write(path, json.dumps(record).encode())
        else:
            storage.delete(path)
    judge = AttemptLedger(storage, "run", 3, node="node-2", node_is_lost=lost.__contains__)
    attempt = judge.begin(0)
    assert (attempt is None) == (outcome == "crashed")
    assert outcomes(judge)[:3] == [outcome] * 3


def test_markers_that_were_cut_short_or_are_foreign_do_no_harm(ledger, storage):
    ledger.begin(0)
    storage.write("run/attempts/00000000-01-started.json", b"{")
    storage.write("run/attempts/notes.txt", b"")
    ledger.judge_earlier_runs(committed=())
    assert outcomes(ledger) == ["interrupted"]


def test_a_marker_that_cannot_be_read_is_no_absent_one(ledger, storage, monkeypatch):
    """Its attempt is judged by nobody: it may be a live worker's, or the shard's third crash."""
    ledger.begin(0)
    ledger.end(ledger.begin(1), "raised", "a reason")
    read = type(storage).read_document

    def fail(self, path, most):
        if "attempts" in path:
            raise StorageError(f"cannot read {path}: Input/output error")
        return read(self, path, most)

    monkeypatch.setattr(type(storage), "read_document", fail)
    other = AttemptLedger(storage, "other", 1)
    for judge in (
        lambda: other.judge_earlier_runs(committed=()),
        lambda: ledger.interrupt_own((), "the run ended"),
        lambda: ledger.begin(0),
        lambda: other.quarantined(),
    ):
        with pytest.raises(StorageError, match="Input/output error"):
            judge()
    monkeypatch.undo()
    assert outcomes(ledger) == [None]
    assert other.quarantined() == {1: "raised in attempt 1: a reason"}


def test_traces_are_private_and_swept():
    with CrashTrace("sweep-me") as trace:
        assert trace.path.parent.stat().st_mode & 0o077 == 0
        assert CrashTrace.take("sweep-me", this_process()) == "", "the process lives"
        assert trace.path.exists()
        CrashTrace.sweep("sweep-me")
        assert not trace.path.exists()
