"""A local Ray session of viewgen, or a connection to a running cluster.

A local session listens on the loopback address only: GCS, raylet, workers, agents, dashboard and driver.
Other users of the machine reach these ports, so a local session without Ray's token authentication is
refused; a client without the token of ``~/.ray/auth_token`` is turned away. A session sends no usage
statistics and needs little memory: only shard numbers travel through its object store. Its processes end with
the driver, however that ends.

Ray takes an explicit loopback address of a node for a mistake and replaces it. It keeps to the loopback
address by itself where clusters are switched off, which is its default on macOS and Windows.
"""

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from viewgen.device import available_cores
from viewgen.errors import UsageError, ViewgenError
from viewgen.extras import need
from viewgen_pipelines.executors.orphans import children_named, ended_with_this_process
from viewgen_pipelines.executors.process import private_folder
from viewgen_pipelines.executors.prompt_node import LateDashboard, prompt_node

__all__ = ["RaySession", "check_address", "ray_session", "sweep_sessions"]

OBJECT_STORE_BYTES = 100 * 2**20

_PACKAGES = ("viewgen", "viewgen_pipelines", "viewgen_pretrained", "viewgen_train")
_SESSION = re.compile(r"session_.*_(\d+)")
# Read by Ray's processes, and by Ray's Python code when it is first imported.
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Must be set before the first import of ray in this process.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # read by Serve's proxy; see `ProxyGuard`
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "viewgen_pipelines.gallery.proxy:middlewares",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySession:
    """A running Ray session.

    Attributes:
        num_cores: processor cores of the cluster.
        num_gpus: GPUs of the cluster.
        own: True if the session was started for this run and ends with it.
        elsewhere: True if the session has, or may get, nodes on other machines.
        node_cores: processor cores of the smallest node that has any.
    """

    num_cores: float
    num_gpus: float
    own: bool
    elsewhere: bool
    node_cores: float


@contextlib.contextmanager
def ray_session(
    address: str | None, *, num_workers: int = 1, say: Callable[[str], object] = lambda _: None
) -> Iterator[RaySession]:
    """Start or join a Ray session; on leaving, restore the earlier state.

    A session that the calling process has already started is used and left running. The dashboard of a
    session that is started here comes some seconds later.

    Args:
        address: address of a running cluster (``host:port`` or ``auto``); None starts a session for this run.
        num_workers: number of workers that a local session admits at least, even beyond the number of cores.
        say: callback with a line that gives the dashboard's address, from another thread if it comes later.

    Raises:
        UsageError: this kind of address is not supported.
        ViewgenError: Ray does not start or cannot be reached.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    check_address(address)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None and "ray" not in sys.modules:  # once imported, Ray reads no mode, and asks by itself
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    need("ray", "add --executor local")
    import ray

    joined = ray.is_initialized()
    handler = signal.getsignal(signal.SIGTERM)
    own = address is None and not joined
    dashboard: LateDashboard | None = None
    # left last: it waits for what `ray.shutdown` ends
    with _quiet(), contextlib.ExitStack() as watched:
        try:
            if own:
                watched.enter_context(_on_loopback(ray))
            if not joined:
                _start(ray, address, num_workers, handler)
            if own:
                watched.enter_context(ended_with_this_process(children_named("raylet")))
                dashboard = _late_dashboard(ray, say)
                dashboard.start()
            else:
                _say_dashboard(ray, say)
            there = ray.cluster_resources()
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            yield RaySession(
                num_cores=available_cores() if own else there.get("CPU", 1.0),
                num_gpus=there.get("GPU", 0.0),
                own=own,
                elsewhere=address is not None or len(nodes) > 1,
                node_cores=min((node["CPU"] for node in nodes if node.get("CPU")), default=1.0),
            )
        finally:
            try:
                if dashboard is not None:
                    dashboard.settle()
            finally:
                try:
                    if not joined:
                        ray.shutdown()
                finally:
                    if not joined:
                        _restore_sigterm(handler)
                    if dashboard is not None:
                        dashboard.end()


def check_address(address: str | None) -> None:
    """Refuse an address that Ray would try to reach for a quarter of an hour.

    Raises:
        UsageError: a Ray Client address.
        ViewgenError: nothing listens at the address.
    """
    if not address or address == "auto":
        return
    if "://" in address:
        raise UsageError(
            f"--ray-address {address!r}: Ray Client addresses are not supported; start the command on a "
            "machine of the cluster with --ray-address auto, or as a job (`ray job submit`)"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--ray-address {address!r}: expected HOST:PORT (the head's, often 6379) or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ViewgenError(
            f"no Ray cluster answers at {address}: {error}; is its head running (`ray start --head`)?"
        ) from error


def sweep_sessions(folder: Path) -> list[str]:
    """Delete the folders of sessions whose driver has ended; return their names."""
    swept = []
    for session in folder.glob("session_*"):
        match = _SESSION.fullmatch(session.name)
        if match is None or session.is_symlink() or Path(f"/proc/{match[1]}").exists():
            continue
        shutil.rmtree(session, ignore_errors=True)
        swept.append(session.name)
    return swept


def _start(ray: Any, address: str | None, num_workers: int, handler: Any) -> None:
    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "configure_logging": True,
    }
    if address is None:
        folder = private_folder("ray")
        sweep_sessions(folder)
        settings |= {
            "address": "local",
            "num_cpus": max(num_workers, available_cores()) + 1,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "_temp_dir": str(folder),
        }
    else:
        settings |= {"address": address, "runtime_env": package_environment()}
    try:
        with warnings.catch_warnings(), _stderr_closed(), contextlib.ExitStack() as alone:
            warnings.simplefilter("ignore")
            if address is None:
                alone.enter_context(prompt_node(ray))
            ray.init(**settings)
            _restore_sigterm(handler)
    except SystemExit as ending:
        # one handler that `ray.init` puts in place leaves with the bare number of the signal
        code = 128 + signal.SIGTERM if ending.code == signal.SIGTERM else ending.code
        raise SystemExit(code) from None
    except Exception as error:
        place, remedy = "a Ray session on this machine", "--executor local needs no Ray"
        if address:
            place = f"the Ray cluster at {address}"
            remedy = "a cluster with token authentication needs RAY_AUTH_MODE=token and its token here"
        raise ViewgenError(f"cannot {'reach' if address else 'start'} {place}: {error}; {remedy}") from error
    if address is None:
        with contextlib.suppress(OSError, RuntimeError):
            (Path.home() / ".ray" / "auth_token").chmod(0o600)
        try:
            _check_local(ray)
        except ViewgenError:
            ray.shutdown()
            raise


@contextlib.contextmanager
def _on_loopback(ray: Any) -> Iterator[None]:
    """While entered, let what starts of a session listen on the loopback address only."""
    constants = ray._private.ray_constants
    before, flag = os.environ.get(_CLUSTERS), getattr(constants, "ENABLE_RAY_CLUSTER", True)
    os.environ[_CLUSTERS], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = flag
        os.environ.pop(_CLUSTERS, None)
        if before is not None:
            os.environ[_CLUSTERS] = before


def _check_local(ray: Any) -> None:
    """Refuse a local session that asks for no token; warn of one that others can reach.

    Raises:
        ViewgenError: the session has no token authentication.
    """
    if not _asks_for_token():
        raise ViewgenError(
            "the Ray session on this machine would let anybody in who reaches its ports: token "
            "authentication is off (RAY_AUTH_MODE=disabled?); unset RAY_AUTH_MODE or set it to token, or add "
            "--executor local"
        )
    address = next((node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]), "")
    if not address.startswith("127."):
        logging.getLogger("viewgen").warning(
            "Ray %s listens on %s, which other machines may reach; its token keeps them out",
            ray.__version__,
            address,
        )


def _asks_for_token() -> bool:
    import ray._raylet as native

    mode: Any = vars(native).get("get_authentication_mode")
    return mode is not None and mode() == vars(native)["AuthenticationMode"].TOKEN


def package_environment() -> dict[str, Any]:
    """Return the ``runtime_env`` that ships viewgen's code, and nothing else, to the nodes of a cluster.

    Workers then run the driver's version, whatever is installed on the nodes. Weights are not shipped.
    """
    folders = [str(Path(str(resources.files(name)))) for name in _PACKAGES]
    return {"py_modules": folders, "excludes": ["weights/", "__pycache__/", "*.pyc"]}


def _late_dashboard(ray: Any, say: Callable[[str], object]) -> LateDashboard:
    mode = os.environ.get("RAY_AUTH_MODE")

    def ready() -> None:
        _say_dashboard(ray, say)

    def failed(error: Exception) -> None:
        lines = str(error).split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), type(error).__name__)
        say(f"Ray's dashboard does not start, the run goes on without it: {reason.strip()}")

    def check() -> None:
        # it takes the mode from the environment, which a user's code may have changed meanwhile
        if os.environ.get("RAY_AUTH_MODE") != mode:
            raise ViewgenError("RAY_AUTH_MODE is not what it was when the session started")

    return LateDashboard(
        ray._private.worker._global_node,
        program=str(Path(ray.__file__).parent / "dashboard" / "dashboard.py"),
        check=check,
        ready=ready,
        failed=failed,
    )


def _say_dashboard(ray: Any, say: Callable[[str], object]) -> None:
    if address := ray._private.worker.get_dashboard_url():
        say(f"Ray dashboard: http://{address} (log in with the token that `ray get-auth-token` prints)")


def _restore_sigterm(handler: Any) -> None:
    """Restore the caller's SIGTERM handler, which `ray.init` replaces."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


class _WithoutRaysMessages:
    """Standard output without the lines of Ray's background threads, such as one per worker that dies."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Discard what native code writes to standard error; errors still arrive as exceptions."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Ray's loggers and its background threads while a local session runs."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data", "ray.serve")]
    levels = [logger.level for logger in loggers]
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _WithoutRaysMessages(stdout), _WithoutRaysMessages(stderr)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
