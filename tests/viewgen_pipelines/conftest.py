"""A faulty method, a Ray session shared by the folder, an S3 look-alike, and runs of the command line."""

import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
# For this process, for the drivers it starts, and from there for Ray's workers.
sys.path.insert(0, str(FOLDER))

import faulty_method  # noqa: E402


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that sets the faults of the method from now on; without arguments, none."""
    path = tmp_path / "faults.json"
    monkeypatch.setenv(faulty_method.FAULTS, str(path))

    def set_faults(**kinds: Any) -> Path:
        path.write_text(json.dumps(kinds))
        return path

    set_faults()
    return set_faults


@pytest.fixture
def ray_faults(shared_ray: None, ray_faults_path: Path) -> Iterator[Callable[..., Path]]:
    """`faults` for runs in the shared Ray session."""

    def set_faults(**kinds: Any) -> Path:
        ray_faults_path.write_text(json.dumps(kinds))
        return ray_faults_path

    set_faults()
    yield set_faults
    set_faults()


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """Storage options of an S3 look-alike in this process."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "key": "AKIAEXAMPLEKEY",
        "secret": "example-secret",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
    }
    server.stop()


@pytest.fixture
def s3_url(s3_options: dict[str, Any]) -> str:
    import s3fs

    bucket = uuid.uuid4().hex
    s3fs.S3FileSystem(**s3_options).mkdir(bucket)
    return f"s3://{bucket}/folder/c.zarr"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Return a function that starts the command line, with the faulty method, in a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def start_process(*words: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / "faulty_cli.py"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        running.append(process)
        return process

    yield start_process
    for process in running:
        process.kill()
        process.communicate()
