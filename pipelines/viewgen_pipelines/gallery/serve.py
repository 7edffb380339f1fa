"""The gallery as a Ray Serve application, shown on the dashboard's Serve tab while it runs.

Ray is imported inside functions. A Serve instance that already runs on a cluster keeps its address; one that
is started here listens on this machine only, unless another address is given.
"""

import contextlib
import hashlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from viewgen.errors import UsageError, ViewgenError
from viewgen.store import file_name, open_storage
from viewgen_pipelines.executors.prompt_node import WORKERS_FIRST_SECONDS
from viewgen_pipelines.gallery.security import is_loopback, known_hosts, new_token
from viewgen_pipelines.names import absolute_url, cache_name

__all__ = [
    "DEFAULT_PORT",
    "BackgroundGallery",
    "GalleryOptions",
    "ServedGallery",
    "choose_port",
    "deploy",
    "gallery_url",
    "is_running",
    "withdraw",
]

DEFAULT_PORT = 8000


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryOptions:
    """Contents of a gallery and the address that it listens on.

    Attributes:
        url: URL of the cache.
        compare: URLs of further caches of the same images.
        storage_options: options of the fsspec file system of the caches.
        data_root: folder of the data sets, None for the default.
        inversions: URL of the inversions, None to look beside the cache.
        models: folder of a `viewgen pretrain` run, None for the networks that ship.
        host: address to listen on, if Serve does not run yet.
        port: port to listen on, if Serve does not run yet; None for 8000 or, if that is taken, a free one.
        allow_hosts: further names that the Host header may carry.
        token: token that visitors must show even on this machine; None to make one only if other machines can
            reach the address.
        eager: load the networks at once, so that the first visitor does not wait for them.
    """

    url: str = field(repr=False)
    compare: tuple[str, ...] = field(default=(), repr=False)
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    data_root: str | None = None
    inversions: str | None = field(default=None, repr=False)
    models: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    allow_hosts: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    eager: bool = False

    def __post_init__(self) -> None:
        for url in (self.url, *self.compare, self.inversions or ""):
            if url.startswith("memory://"):
                raise UsageError(
                    f"{url} lives in the memory of one process, which the gallery's does not share"
                )
        object.__setattr__(self, "url", absolute_url(self.url))
        object.__setattr__(self, "compare", tuple(absolute_url(url) for url in self.compare))
        if self.inversions is not None:
            object.__setattr__(self, "inversions", absolute_url(self.inversions))
        # the serving process has another working directory, and on a cluster another environment
        if self.data_root is None:
            object.__setattr__(self, "data_root", os.environ.get("VIEWGEN_DATA"))
        for name in ("data_root", "models"):
            if (folder := getattr(self, name)) is not None:
                object.__setattr__(self, name, absolute_url(folder))

    @property
    def cache(self) -> str:
        """The cache's name."""
        return cache_name(open_storage(self.url, self.storage_options).url)

    @property
    def slug(self) -> str:
        """The cache's name as part of an address, unique among caches of that name."""
        digest = hashlib.sha256("\n".join((self.url, *self.compare)).encode()).hexdigest()
        return f"{file_name(self.cache)}-{digest[:6]}"

    @property
    def application(self) -> str:
        """The name on the dashboard's Serve tab."""
        return f"viewgen-{self.slug}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedGallery:
    """A gallery that is being served.

    Attributes:
        url: URL of the first page, including the token if there is one.
        application: name on the dashboard's Serve tab.
        host: address that the gallery listens on.
        token: token that visitors must show, None if the gallery listens on this machine only.
    """

    url: str = field(repr=False)
    application: str
    host: str
    token: str | None = field(default=None, repr=False)

    @property
    def lines(self) -> list[str]:
        """Lines that tell a person how to open the gallery."""
        if self.token is None:
            access = "this machine only, no login"
        else:
            access = f"the address holds the token; others need it: {self.token}"
        return [f"gallery: {self.url} ({access}; {self.application} on the dashboard's Serve tab)"]


def choose_port(host: str, port: int | None = None) -> int:
    """Return `port`; if it is None, 8000 or a free port.

    Raises:
        UsageError: the port is taken, or the address does not belong to this machine.
    """
    for candidate in [port] if port is not None else [DEFAULT_PORT, 0]:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host.strip("[]"), candidate))
                return int(probe.getsockname()[1])
        except OSError as error:
            failure = error
    raise UsageError(
        f"cannot listen on {host} port {port or 'any'}: {failure}; give another --host or --port"
    )


def deploy(options: GalleryOptions) -> ServedGallery:
    """Serve a gallery in the Ray session of this process, and start Serve if it does not run.

    Raises:
        UsageError: the gallery cannot listen at that address.
        ViewgenError: Serve does not start.
    """
    with _quiet_serve():
        from ray import serve

        host, port = _serve_address() or (options.host, choose_port(options.host, options.port))
        token = options.token if is_loopback(host) else options.token or new_token()
        own_address = [] if is_loopback(host) else [_node_address()]
        hosts = known_hosts(host, [*options.allow_hosts, *own_address])
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": host, "port": port},
                logging_config={"log_level": "ERROR", "enable_access_log": False},
            )
            serve.run(
                _application(options, sorted(hosts), token),
                name=options.application,
                route_prefix=f"/{options.slug}",
                logging_config={"log_level": "ERROR", "enable_access_log": False},
            )
        except Exception as error:
            raise ViewgenError(f"Ray Serve does not start the gallery: {error}") from error
    return ServedGallery(
        url=gallery_url(options, host, port, token), application=options.application, host=host, token=token
    )


def gallery_url(options: GalleryOptions, host: str, port: int, token: str | None = None) -> str:
    """Return the address of the first page for a visitor's browser.

    If the gallery listens on all addresses, the first of `allow_hosts` is used: a container's own name means
    nothing outside.
    """
    if host in ("0.0.0.0", "::"):
        host = options.allow_hosts[0] if options.allow_hosts else socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/{options.slug}/" + (f"?token={token}" if token else "")


class BackgroundGallery:
    """A gallery beside a run, deployed by another process of the session, so that the run does not wait.

    In a session of the run's own, the workers have some seconds to start first; nothing is there to see yet.

    Args:
        options: contents and address of the gallery.
        own: True if the session is the run's own, so that nothing serves there yet and everything ends with
            it.
        say: callback with the gallery's address, or with the reason of a failure.
    """

    def __init__(self, options: GalleryOptions, *, own: bool, say: Callable[[str], object]) -> None:
        self._options, self._own, self._say = options, own, say
        self._closed = threading.Event()
        self._deployed: Any = None
        self._teller = threading.Thread(target=self._tell, daemon=True)
        self._teller.start()

    def _tell(self) -> None:
        """Deploy and tell the address, or the reason of a failure."""
        import ray

        if self._closed.wait(WORKERS_FIRST_SECONDS if self._own else 0):
            return
        try:
            # on a busy machine Ray gives up processes that take a minute to start
            settings = {"num_cpus": 0, "max_retries": 3, "retry_exceptions": True, "resources": _this_node()}
            self._deployed = ray.remote(**settings)(deploy).remote(self._options)
            # no wait may last beyond the session
            while not ray.wait([self._deployed], timeout=0.5)[0]:
                if self._closed.is_set():
                    return
            served: ServedGallery = ray.get(self._deployed)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self._say(f"the gallery could not start, the run goes on without it: {reason}")
            return
        for line in served.lines:
            self._say(line)

    def close(self) -> None:
        """Remove the gallery from a cluster that goes on."""
        import ray

        self._closed.set()
        self._teller.join()
        if not self._own:
            with contextlib.suppress(Exception):  # of Ray, if the session has ended or nothing was deployed
                ray.cancel(self._deployed, force=True)  # else it would come after its end
            withdraw(self._options.application)


def withdraw(application: str) -> None:
    """Remove a gallery from a cluster that goes on, and shut Serve down if nothing else is left on it."""
    with _quiet_serve(), contextlib.suppress(Exception):
        from ray import serve

        serve.delete(application)
        if not serve.status().applications:
            serve.shutdown()


def is_running(application: str) -> bool:
    """Return True if a gallery still answers."""
    with _quiet_serve():
        from ray import serve

        try:
            status = serve.status().applications.get(application)
        except Exception:  # of Ray, when the session has ended
            return False
    return status is not None and status.status in ("RUNNING", "DEPLOYING")


def _application(options: GalleryOptions, hosts: list[str], token: str | None) -> Any:
    from ray import serve

    def build() -> Any:
        return _build(options, hosts, token)

    deployment = serve.deployment(
        name="gallery",
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0, "resources": _this_node()},  # leaves the cores to the workers
    )
    return deployment(serve.ingress(build)()).bind()


def _build(options: GalleryOptions, hosts: list[str], token: str | None) -> Any:
    """Build the application; runs in the process that serves it."""
    from viewgen_pipelines.gallery.app import build_app
    from viewgen_pipelines.gallery.sources import CacheSource

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, which a run beside it needs more
    common: dict[str, Any] = {
        "storage_options": options.storage_options,
        "data_root": options.data_root,
        "inversions": options.inversions,
        "models": options.models,
    }
    source, *others = (CacheSource(url=url, **common) for url in (options.url, *options.compare))

    def warm() -> None:
        with contextlib.suppress(ViewgenError):  # the first visitor is told
            spec = source.snapshot().spec
            source.dataset(spec)
            if options.eager:
                source.networks(spec).load()

    threading.Thread(target=warm, daemon=True).start()
    return build_app(source, others, hosts=hosts, token=token)


def _this_node() -> dict[str, float]:
    """Return the resources that keep a process on this node, so that the cache's path stays valid."""
    return {f"node:{_node_address()}": 0.001}


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _serve_address() -> tuple[str, int] | None:
    """Return the address of a running Serve instance, None if there is none."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    return str(client.http_config.host), int(client.http_config.port)


@contextlib.contextmanager
def _quiet_serve() -> Iterator[None]:
    """Hide Serve's log lines below errors by a filter; Serve resets its loggers' levels at every call."""
    logger = logging.getLogger("ray.serve")

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(only_errors)
    try:
        yield
    finally:
        logger.removeFilter(only_errors)
