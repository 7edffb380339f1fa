"""A Ray cluster of several raylets on this machine, started by the very commands of the container images."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = Path(__file__).parents[2] / "docker" / "bin"
SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


class Cluster:
    """Nodes started by ``docker/bin/ray-node``, each in processes of its own."""

    def __init__(self, folder: Path, s3_options: dict[str, Any] | None = None) -> None:
        self.folder = folder
        (folder / "ray-node").touch()  # `healthy` asks for a node even before one is up
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
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
        }
        if s3_options is not None:
            self.environment |= {
                "AWS_ACCESS_KEY_ID": s3_options["key"],
                "AWS_SECRET_ACCESS_KEY": s3_options["secret"],
                "AWS_ENDPOINT_URL": s3_options["client_kwargs"]["endpoint_url"],
            }

    def start(self, name: str, role: str, num_cpus: int) -> None:
        own = {
            "RAY_NODE_CPUS": str(num_cpus),
            "RAY_AGENT_PORT": str(free_port()),
            "RAY_METRICS_PORT": str(free_port()),
            "VIEWGEN_DATA": str(self.data_root(name)),
        }
        with open(self.folder / f"{name}.log", "wb") as log:
            self.nodes[name] = subprocess.Popen(
                ["ray-node", role], env=self.environment | self.ports | own, stdout=log, stderr=log
            )
        self.nodes[name].environment = own  # type: ignore[attr-defined]

    def data_root(self, name: str) -> Path:
        return self.folder / "nodes" / name

    def wait_healthy(self, name: str) -> None:
        """Wait until a node passes the images' health check."""
        own = self.environment | self.nodes[name].environment  # type: ignore[attr-defined]

        def healthy() -> bool:
            if self.nodes[name].poll() is not None:
                log = (self.folder / f"{name}.log").read_text()
                raise RuntimeError(f"node {name} did not start:\n{log[-2000:]}")
            return subprocess.run(["healthy"], env=own, capture_output=True).returncode == 0

        wait_until(healthy, f"node {name}")

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

    def submit(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["submit", *words],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

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


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.3)
