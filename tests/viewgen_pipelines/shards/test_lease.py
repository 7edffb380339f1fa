"""At most one driver at a time; a dead one makes way."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid

import pytest

from viewgen.errors import LeaseError, StorageError
from viewgen.store import open_storage
from viewgen_pipelines.shards import lease as lease_module
from viewgen_pipelines.shards.lease import EXPIRY_SECONDS, Lease, process_is_alive, this_process

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return open_storage(str(tmp_path / "c.zarr"))
    if request.param == "memory":
        return open_storage(f"memory://{uuid.uuid4().hex}")
    return open_storage(request.getfixturevalue("s3_url"), request.getfixturevalue("s3_options"))


def plant(storage, *, holder, heartbeat_age=0.0, epoch=7):
    """Write the lease of another run."""
    record = {
        "run_id": "other",
        "holder": holder,
        "started": time.time() - 100,
        "heartbeat": time.time() - heartbeat_age,
    }
    storage.write(f"run/lease/{epoch:08d}.json", json.dumps(record).encode())


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return {**this_process(), "pid": process.pid}


def elsewhere():
    return {"host": "another-machine boot", "pid": 1, "process_start": "1"}


def test_a_held_lease_refuses_others_and_says_who_holds_it(storage):
    with Lease(storage) as first:
        with pytest.raises(LeaseError) as caught:
            Lease(storage).acquire()
        for part in (first.run_id, str(os.getpid()), "since", f"kill {os.getpid()}", storage.url):
            assert part in str(caught.value)
        first.token.check(storage)
    with Lease(storage):
        pass
    assert storage.paths("run/lease") == []


def test_the_lease_of_a_dead_process_is_taken_at_once(storage):
    plant(storage, holder=ended_process())
    with Lease(storage, "mine") as lease:
        lease.token.check(storage)
        assert storage.paths("run/lease") == ["run/lease/00000008.json"]


def test_a_reused_process_id_is_not_the_holder(storage):
    plant(storage, holder={**this_process(), "process_start": "1"})
    with Lease(storage):
        pass


@pytest.mark.parametrize("heartbeat_age", [1, 1e7, -1e7])
def test_a_lease_elsewhere_holds_while_its_heartbeat_moves_whatever_its_clock(storage, heartbeat_age):
    plant(storage, holder=elsewhere(), heartbeat_age=heartbeat_age)
    beats = lambda _: plant(storage, holder=elsewhere(), heartbeat_age=heartbeat_age - 5)  # noqa: E731
    with pytest.raises(LeaseError, match=r"run other .*on another-machine, since .*end it there"):
        Lease(storage).acquire(sleep=beats)


@pytest.mark.parametrize("heartbeat_age", [1, 1e7, -1e7])
def test_a_lease_elsewhere_is_taken_when_it_stood_still_by_our_own_clock(storage, heartbeat_age):
    plant(storage, holder=elsewhere(), heartbeat_age=heartbeat_age)
    waited = []
    lease = Lease(storage)
    lease.acquire(sleep=waited.append)
    assert sum(waited) >= EXPIRY_SECONDS
    lease.token.check(storage)
    lease.release()


HOLDER = {"host": "another-machine boot", "pid": 1, "process_start": "1"}
DAMAGED = [
    b"",
    b'{"run_id": "ot',
    b"[]",
    b"null",
    b'{"run_id": "other"}',
    b"[" * 100_000,
    json.dumps({"run_id": "o", "holder": HOLDER, "started": 1, "heartbeat": float("nan")}).encode(),
    json.dumps({"run_id": "o", "holder": HOLDER, "started": 1e300, "heartbeat": 1}).encode(),
    json.dumps({"run_id": "o", "holder": HOLDER | {"pid": 10**400}, "started": 1, "heartbeat": 1}).encode(),
    json.dumps({"run_id": 3, "holder": HOLDER, "started": 1, "heartbeat": 1}).encode(),
    json.dumps({"run_id": "o", "holder": HOLDER | {"host": ""}, "started": 1, "heartbeat": 1}).encode(),
]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_lease_is_taken_over_when_nobody_writes_it(tmp_path, data):
    storage = open_storage(str(tmp_path / "c.zarr"))
    storage.write("run/lease/00000007.json", data)
    waited = []
    lease = Lease(storage)
    lease.acquire(sleep=waited.append)
    assert sum(waited) >= EXPIRY_SECONDS
    assert storage.paths("run/lease") == ["run/lease/00000008.json"]
    lease.release()


def test_a_damaged_lease_that_somebody_writes_is_refused(tmp_path):
    storage = open_storage(str(tmp_path / "c.zarr"))
    storage.write("run/lease/00000007.json", b"?")
    with pytest.raises(LeaseError, match="no lease that this version understands"):
        Lease(storage).acquire(sleep=lambda _: storage.write("run/lease/00000007.json", b"??"))
    with pytest.raises(LeaseError, match="no longer holds"):
        lease_module.LeaseToken(run_id="other", url=storage.url).check(storage)


def test_numbers_of_leases_go_on_beyond_eight_digits_and_end_somewhere(tmp_path):
    storage = open_storage(str(tmp_path / "c.zarr"))
    storage.write("run/lease/not-a-lease.json", b"")
    plant(storage, holder=ended_process(), epoch=99_999_999)
    with Lease(storage) as lease:
        lease.token.check(storage)
        assert "run/lease/100000000.json" in storage.paths("run/lease")
    plant(storage, holder=ended_process(), epoch=10**17)
    with pytest.raises(LeaseError, match="delete the folder run/lease"):
        Lease(storage).acquire()


def test_one_of_many_takers_wins(storage):
    plant(storage, holder=ended_process())
    leases = [Lease(storage) for _ in range(8)]
    taken, refused = [], []

    def take(lease):
        try:
            lease.acquire()
            taken.append(lease)
        except LeaseError as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)
    taken[0].release()


def test_workers_stop_when_another_run_took_over_or_the_driver_died(storage):
    lease = Lease(storage)
    lease.acquire()
    plant(storage, holder=this_process())
    with pytest.raises(LeaseError, match="no longer holds"):
        lease.token.check(storage)
    lease.release()
    assert storage.paths("run/lease") == ["run/lease/00000007.json"], "not ours to delete"

    plant(storage, holder=ended_process())
    with pytest.raises(LeaseError, match="has ended"):
        lease_module.LeaseToken(run_id="other", url=storage.url).check(storage)
    storage.delete("run/lease/00000007.json")
    with pytest.raises(LeaseError, match="no longer holds"):
        lease_module.LeaseToken(run_id="other", url=storage.url).check(storage)


def test_the_driver_notices_that_it_lost_the_lease(storage, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.02)
    with Lease(storage) as lease:
        first = storage.read("run/lease/00000001.json")
        wait_until(lambda: storage.read("run/lease/00000001.json") != first)
        lease.check()
        plant(storage, holder=this_process())
        wait_until(lambda: lease.lost)
        with pytest.raises(LeaseError, match="to run other"):
            lease.check()


def test_a_heartbeat_that_fails_for_long_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease_module, "EXPIRY_SECONDS", 0.2)
    storage = open_storage(str(tmp_path / "c"))
    with Lease(storage) as lease:

        def fail(*_):
            raise StorageError("no connection")

        monkeypatch.setattr(storage, "write", fail)
        wait_until(lambda: lease.lost)
        with pytest.raises(LeaseError, match="could not be renewed: no connection"):
            lease.check()


def test_a_zombie_has_ended():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    description = {
        **this_process(),
        "pid": process.pid,
        "process_start": lease_module._process_start(process.pid),
    }
    assert process_is_alive(description) is True
    process.kill()
    wait_until(lambda: process_is_alive(description) is False)
    process.communicate()
    assert process_is_alive(elsewhere()) is None


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
