"""The Ray session: loopback only, token on, quiet, and no litter."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from viewgen.errors import UsageError, ViewgenError
from viewgen_pipelines.executors import session
from viewgen_pipelines.executors.orphans import below, children_running
from viewgen_pipelines.executors.process import private_folder
from viewgen_pipelines.executors.prompt_node import SETTLED_WITHIN_SECONDS
from viewgen_pipelines.executors.session import RaySession, ray_session, sweep_sessions
from viewgen_pipelines.executors.workers import divide

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own code warns


def test_sessions_of_ended_drivers_are_swept(tmp_path):
    ours = f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    dead = "session_2026-01-01_00-00-00_000000_4194305"
    for name in (ours, dead, "something-else"):
        (tmp_path / name / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(tmp_path / ours)
    assert sweep_sessions(tmp_path) == [dead]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ours,
        "session_latest",
        "something-else",
    ]


def test_the_session_is_private(shared_dashboard):
    import ray

    said = []
    with ray_session(None, say=said.append) as there:
        assert there.num_cores >= 1
    (line,) = said
    assert line.startswith("Ray dashboard: http://127.0.0.1:")
    assert "ray get-auth-token" in line
    assert ray.is_initialized(), "a session that was there is left running"
    url = line.split()[2]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/api/v0/actors", timeout=30)
    assert caught.value.code == 401
    token = Path.home() / ".ray/auth_token"
    assert token.stat().st_mode & 0o077 == 0
    request = urllib.request.Request(
        f"{url}/nodes?view=summary", headers={"Authorization": f"Bearer {token.read_text().strip()}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    sockets = [str(path) for path in private_folder("ray").glob("session_2*/sockets/*")]
    assert sockets
    assert max(map(len, sockets)) < 100
    assert private_folder().stat().st_mode & 0o077 == 0


def descendants(process: int) -> list[int]:
    """Return the ids of a process and of all that it started, and these started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [process]
    for one in found:
        found += parents.get(one, [])
    return found


def listening(process: int) -> list[str]:
    """Return the addresses on which a process listens, in hexadecimal as the kernel shows them."""
    sockets = set()
    try:
        for link in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(link))
    except OSError:
        return []
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1].partition(":")[0])
    return found


# 127.0.0.1, and the same as an address of version 6; the kernel shows words of four bytes, lowest first
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def test_all_sockets_are_on_the_loopback_address(shared_dashboard):
    """GCS, raylet, agents, dashboard, workers, the exporters of metrics, and the driver itself."""
    import ray

    def worker() -> int:
        return os.getpid()

    assert ray.get(ray.remote(num_cpus=0)(worker).remote()) != os.getpid()
    (monitor,) = children_running("autoscaler/_private/monitor.py")
    end = time.monotonic() + 60
    while not listening(monitor):  # its exporter of metrics
        assert time.monotonic() < end
        time.sleep(0.1)
    addresses = {process: listening(process) for process in descendants(os.getpid())}
    assert sum(map(len, addresses.values())) >= 6
    for process, found in addresses.items():
        name = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")[:80]
        assert not set(found) - set(LOOPBACK), (name, found)
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}


LEAVES_WHILE_THE_DASHBOARD_STARTS = """
import json, os, signal, time
from viewgen_pipelines.executors.orphans import below, children_running
from viewgen_pipelines.executors.prompt_node import LateDashboard
from viewgen_pipelines.executors.session import ray_session
LateDashboard.__init__.__kwdefaults__["seconds"] = 0.0
settle, said, seconds = LateDashboard.settle, [], []
def timed(self):
    begin = time.monotonic()
    settle(self)
    seconds.append(time.monotonic() - begin)
LateDashboard.settle = timed
with ray_session(None, say=said.append):
    # not in one piece: a child that is about to become the dashboard still has this command line
    while not (found := children_running("ray/dashboard/" + "dashboard.py")):
        time.sleep(0.001)
    os.kill(found[0], signal.SIGSTOP)  # it will never answer
    started = below({os.getpid()})
    del started[os.getpid()]
print(json.dumps({"seconds": seconds, "said": said, "started": started}))
"""


def test_a_session_ends_while_its_dashboard_starts():
    words = [sys.executable, "-c", LEAVES_WHILE_THE_DASHBOARD_STARTS]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["seconds"][0] < SETTLED_WITHIN_SECONDS, "it was not waited for"
    assert found["said"] == []
    assert done.stderr == "", "Ray's words about a dashboard that was ended"
    assert len(found["started"]) > 3
    end = time.monotonic() + 30
    while alive := [
        pid for pid, start in found["started"].items() if below({int(pid)}).get(int(pid)) == start
    ]:
        assert time.monotonic() < end, alive
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Exception("\nThe last 20 lines:\nport 8265 is taken\n"), "port 8265 is taken"), (OSError(), "OSError")],
)
def test_why_a_dashboard_does_not_start(shared_ray, error, reason):
    import ray

    said = []
    session._late_dashboard(ray, said.append)._failed(error)
    assert said == [f"Ray's dashboard does not start, the run goes on without it: {reason}"]


CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@pytest.mark.parametrize("before", [None, "1"])
def test_the_environment_of_a_session_ends_with_it(monkeypatch, before):
    monkeypatch.delenv(CLUSTERS, raising=False)
    if before is not None:
        monkeypatch.setenv(CLUSTERS, before)
    constants = SimpleNamespace(ENABLE_RAY_CLUSTER=True)
    ray = SimpleNamespace(_private=SimpleNamespace(ray_constants=constants))

    def used():
        with session._on_loopback(ray):
            assert (os.environ[CLUSTERS], constants.ENABLE_RAY_CLUSTER) == ("0", False)
            del os.environ[CLUSTERS]  # by anybody
            raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        used()
    assert (os.environ.get(CLUSTERS), constants.ENABLE_RAY_CLUSTER) == (before, True)


def test_a_session_that_lets_anybody_in_is_refused(shared_ray, monkeypatch):
    import ray

    session._check_local(ray)
    monkeypatch.setattr(session, "_asks_for_token", lambda: False)
    with pytest.raises(ViewgenError, match="RAY_AUTH_MODE"):
        session._check_local(ray)


def session_of(num_cores, num_gpus, node_cores=1.0, *, elsewhere=False):
    return RaySession(
        num_cores=num_cores,
        num_gpus=num_gpus,
        own=not elsewhere,
        elsewhere=elsewhere,
        node_cores=node_cores,
    )


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "expected"),
    [
        ({}, 2, 0, (2, 1, "cpu")),
        ({"max_workers": 1}, 8, 0, (1, 8, "cpu")),
        ({"num_workers": 2}, 16, 0, (2, 8, "cpu")),
        ({"num_workers": 5}, 2, 0, (5, 1, "cpu")),
        ({}, 16, 4, (4, 4, "cuda")),
        ({"gpus_per_worker": 0.5}, 16, 1, (2, 8, "cuda")),
        ({"gpus_per_worker": 0.0}, 4, 1, (4, 1, "cpu")),
        ({"num_workers": 2, "gpus_per_worker": 0.5}, 16, 1, (2, 8, "cuda")),
    ],
)
def test_cores_and_gpus_are_divided_among_the_workers(settings, cores, gpus, expected):
    workers = divide(session_of(cores, gpus), **({"max_workers": 100} | settings))
    assert (workers.count, workers.place.num_threads, workers.place.device) == expected


@pytest.mark.parametrize(
    ("settings", "cluster", "expected"),
    [
        # (cores, GPUs, cores of the smallest node) → (workers, threads, device)
        ({}, (6, 0, 2), (6, 1, "cpu")),
        ({"num_workers": 2}, (16, 0, 4), (2, 4, "cpu")),
        ({"num_workers": 8, "gpus_per_worker": 1.0}, (2, 0, 2), (8, 1, "cuda")),
        ({"num_workers": 8, "gpus_per_worker": 0.5}, (32, 2, 16), (8, 4, "cuda")),
    ],
)
def test_a_cluster_may_grow_into_what_is_asked_for(settings, cluster, expected):
    said = []
    workers = divide(session_of(*cluster, elsewhere=True), max_workers=100, say=said.append, **settings)
    assert (workers.count, workers.place.num_threads, workers.place.device) == expected
    assert said[0].startswith(f"{expected[0]} workers with {expected[1]} cores")


@pytest.mark.parametrize("settings", [{"gpus_per_worker": 1.0}, {"num_workers": 3, "gpus_per_worker": 0.5}])
def test_more_gpus_than_there_are_would_be_waited_for_for_ever(settings):
    with pytest.raises(UsageError, match="GPUs"):
        divide(session_of(16, 1 if "num_workers" in settings else 0), max_workers=100, **settings)


@pytest.mark.parametrize(
    ("settings", "session", "share"),
    [
        ({"num_workers": 4}, (8, 0), 1 / 4),
        ({}, (2, 0), 1 / 2),
        ({"gpus_per_worker": 0.5}, (16, 2), 0.5),
        ({"gpus_per_worker": 2.0}, (16, 4), 1.0),
    ],
)
def test_workers_share_the_memory_of_their_machine_or_gpu(settings, session, share):
    assert divide(session_of(*session), max_workers=100, **settings).place.memory_share == share


def test_on_a_cluster_a_worker_shares_its_nodes_memory():
    # four nodes of four cores, two workers on each
    workers = divide(session_of(16, 0, 4, elsewhere=True), max_workers=100, num_workers=8)
    assert workers.place.memory_share == 1 / 2
