"""A Ray cluster of several raylets on this machine, started by the very commands of the container images.

And an S3 server, which is all that its nodes share.
"""

import contextlib
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BIN = Path(__file__).parents[2] / "docker" / "bin"
SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def descendants(pid: int) -> list[int]:
    """Return `pid` and the processes that it started, and they, and so on."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found


class S3Server:
    """An S3 look-alike in this process with a bucket for the cache `url`, whose commits can be held back.

    Attributes:
        options: storage options.
        num_downloads: last part of an object's name → how often it was read.
        num_commits: number of shards' commit records received, held back or not.
    """

    def __init__(self) -> None:
        import s3fs
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.num_downloads: Counter[str] = Counter()
        self.num_commits = 0
        self._free_commits = math.inf
        self._open = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._answer = self._server._server.app
        self._server._server.app = self._answer_when_open
        host, port = self._server.get_host_and_port()
        self.options: dict[str, Any] = {
            "key": "AKIAEXAMPLEKEY",
            "secret": "example-secret",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
        }
        # the look-alikes of one process share their buckets
        bucket = f"bucket-{secrets.token_hex(8)}"
        s3fs.S3FileSystem(**self.options).mkdir(bucket)
        self.url = f"s3://{bucket}/folder/c.zarr"

    def _answer_when_open(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] == "PUT" and "/commits/" in path:
            with self._lock:
                self.num_commits += 1
                held = self.num_commits > self._free_commits
            if held and not self._open.is_set():
                self._open.wait(SECONDS)
                # a client that still lives asks again; one that was killed meanwhile must not be served
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Length", "0"), ("Connection", "close")])
                return []
        if environ["REQUEST_METHOD"] == "GET":
            self.num_downloads[path.rpartition("/")[2]] += 1
        return self._answer(environ, start_response)

    def hold_commits(self, *, after: int) -> None:
        """Let no further shard be finished until `release_commits`: every worker keeps one in hand."""
        self._free_commits = after

    def release_commits(self) -> None:
        self._open.set()

    def close(self) -> None:
        self.release_commits()
        self._server.stop()


class Cluster:
    """Nodes started by ``docker/bin/ray-node``, each in processes of its own."""

    def __init__(self, folder: Path, s3_options: dict[str, Any] | None = None) -> None:
        self.folder = folder
        (folder / "ray-node").touch()  # `healthy` asks for a node even before one is up
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.own_settings: dict[str, dict[str, str]] = {}
        self.num_started = 0
        self.ports = {name: str(free_port()) for name in ("RAY_PORT", "RAY_DASHBOARD_PORT")}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = environment | {
            "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.ports['RAY_DASHBOARD_PORT']}",
            "RAY_HEAD": f"127.0.0.1:{self.ports['RAY_PORT']}",
            "RAY_NODE_HOST": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "RAY_raylet_start_wait_time_s": "120",
            # a lost node is noticed after some 5 s instead of 15; a busy one still has half a minute
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "6000",
        }
        if s3_options is not None:
            self.environment |= {
                "AWS_ACCESS_KEY_ID": s3_options["key"],
                "AWS_SECRET_ACCESS_KEY": s3_options["secret"],
                "AWS_ENDPOINT_URL": s3_options["client_kwargs"]["endpoint_url"],
            }

    def start(self, name: str, role: str, num_cpus: int) -> None:
        self.own_settings[name] = own = {
            "RAY_NODE_CPUS": str(num_cpus),
            "RAY_AGENT_PORT": str(free_port()),
            "RAY_METRICS_PORT": str(free_port()),
            "VIEWGEN_DATA": str(self.data_root(name)),
        }
        with open(self.folder / f"{name}.log", "wb") as log:
            self.nodes[name] = subprocess.Popen(
                ["ray-node", role], env=self.environment | self.ports | own, stdout=log, stderr=log
            )
        if role == "head":
            wait_until(lambda: listens(int(self.ports["RAY_PORT"])), "the head's port")
        # two that start at once on one machine would take the same name for their sockets
        self.num_started += 1
        wait_until(
            lambda: self._lives(name) and len(self._sockets()) == self.num_started, f"sockets of {name}"
        )

    def _sockets(self) -> list[Path]:
        return list(self.folder.glob("ray/session_2*/sockets/plasma_store*"))

    def start_all(self, **workers: int) -> None:
        """Start a head without cores and workers, name → cores, and wait until all are well."""
        self.start("head", "head", 0)
        for name, num_cpus in workers.items():
            self.start(name, "worker", num_cpus)
        for name in self.nodes:
            self.wait_healthy(name)
        wait_until(lambda: self.jobs_status(self.environment["RAY_AUTH_TOKEN"]) == 200, "the job server")

    def data_root(self, name: str) -> Path:
        return self.folder / "nodes" / name

    def healthy(self, name: str) -> bool:
        """Say whether a node passes the images' health check."""
        environment = self.environment | self.own_settings[name]
        return subprocess.run(["healthy"], env=environment, capture_output=True).returncode == 0

    def _lives(self, name: str) -> bool:
        if self.nodes[name].poll() is not None:
            log = (self.folder / f"{name}.log").read_text()
            raise RuntimeError(f"node {name} did not start:\n{log[-2000:]}")
        return True

    def wait_healthy(self, name: str) -> None:
        wait_until(lambda: self._lives(name) and self.healthy(name), f"node {name}")

    def kill(self, name: str) -> None:
        """End all of a node's processes at once, as when its machine is taken away."""
        node = self.nodes.pop(name)
        for pid in descendants(node.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """End everything that runs with this cluster's folder, orphans too, and delete the folder."""
        for name in list(self.nodes):
            self.kill(name)
        mark = f"RAY_TMPDIR={self.folder}".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes().split(b"\0"):
                    os.kill(int(environ.parent.name), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, *words: str) -> subprocess.Popen[bytes]:
        """Run a viewgen command as a job; `job_log` is what one sees of it."""
        with open(self.folder / "job.log", "wb") as log:
            return subprocess.Popen(["submit", *words], env=self.environment, stdout=log, stderr=log)

    def job_log(self) -> str:
        return (self.folder / "job.log").read_text()

    def jobs_status(self, token: str) -> int:
        """Return the HTTP status of the job server, 0 while it does not answer."""
        request = urllib.request.Request(
            f"{self.environment['RAY_API_SERVER_ADDRESS']}/api/jobs/",
            headers={"Authorization": f"Bearer {token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@contextlib.contextmanager
def cluster_with_s3() -> Iterator[tuple[Cluster, S3Server]]:
    """Give a cluster without nodes, and the S3 server that its environment names."""
    store = S3Server()
    # Ray's socket paths must stay short
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="vg", dir="/tmp")), store.options)
    try:
        yield cluster, store
    finally:
        store.release_commits()
        cluster.close()
        store.close()


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.3)
