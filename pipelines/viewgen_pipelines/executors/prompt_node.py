"""A Ray node that starts without waits, and its dashboard a little later.

`ray.init` starts the processes of a node in a row: it waits for the dashboard before it starts the raylet,
and looks only once a second whether the raylet is there. The dashboard's dozen processes and two monitors
then share the cores with the workers that are starting. Here nothing waits for them, and they come some
seconds later.

All of this is private to Ray. Where Ray does not have these parts, it starts in its own order.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from viewgen_pipelines.executors.orphans import below, children_running

__all__ = ["WORKERS_FIRST_SECONDS", "LateDashboard", "prompt_node"]

# what is there to look at a run starts so much after the session that has its workers
WORKERS_FIRST_SECONDS = 5.0
# then Ray's own look at the raylet decides
REGISTERED_WITHIN_SECONDS = 10
SETTLED_WITHIN_SECONDS = 10.0

# methods of Ray's node that start what no worker needs, the most wanted first
_LATE = ("start_api_server", "start_monitor", "start_log_monitor")
_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def prompt_node(ray: Any) -> Iterator[None]:
    """While entered, let `ray.init` start a node without waits; the rest of it is left to `LateDashboard`."""
    private: Any = getattr(ray, "_private", None)
    module: Any = getattr(private, "node", None)
    original: Any = getattr(module, "Node", None)
    wait: Any = getattr(getattr(private, "services", None), "wait_for_node", None)
    if wait is None or not all(hasattr(original, name) for name in ("start_ray_processes", *_LATE)):
        yield
        return

    def start_ray_processes(node: Any) -> None:
        original.start_ray_processes(node)
        with contextlib.suppress(Exception):  # Ray waits too, only longer
            wait(node.gcs_address, node.plasma_store_socket_name, timeout=REGISTERED_WITHIN_SECONDS)

    def later(name: str) -> Callable[..., None]:
        def start(node: Any, **options: Any) -> None:
            waiting = vars(node).setdefault("late_starts", {})
            waiting[name] = lambda: getattr(original, name)(node, **options)

        return start

    methods = {"start_ray_processes": start_ray_processes, **{name: later(name) for name in _LATE}}
    module.Node = type("PromptNode", (original,), methods)
    try:
        yield
    finally:
        module.Node = original


class LateDashboard:
    """The dashboard and the monitors of a node that `prompt_node` has started; they end with the node.

    Args:
        node: the node; one that Ray has started in its own way has a dashboard already.
        program: path of the dashboard's program.
        check: called before each is started; its error is that of a dashboard that does not start.
        ready: callback when the dashboard can be reached.
        failed: callback with the error of a dashboard that does not start.
        seconds: seconds until they are started.
    """

    def __init__(
        self,
        node: Any,
        *,
        program: str,
        check: Callable[[], object] = lambda: None,
        ready: Callable[[], object],
        failed: Callable[[Exception], object],
        seconds: float = WORKERS_FIRST_SECONDS,
    ) -> None:
        self._starts: dict[str, Callable[[], None]] = getattr(node, "late_starts", {})
        self._check, self._ready, self._failed = check, ready, failed
        self._program, self._seconds = program, seconds
        self._starting = ""
        self._not_any_more, self._settled, self._ended = (threading.Event() for _ in range(3))
        # the kernel ends them with the thread that has started them
        self._thread = threading.Thread(target=self._run, name="viewgen-dashboard", daemon=True)

    def start(self) -> None:
        """Let them start, in some seconds."""
        self._thread.start()

    def settle(self) -> None:
        """Let nothing start any more, and end a dashboard that is starting, before the node ends."""
        self._not_any_more.set()
        if not self._thread.is_alive():
            return
        for _ in range(int(SETTLED_WITHIN_SECONDS / 0.1)):
            if self._settled.wait(0.1):
                return
            if self._starting == _LATE[0]:  # Ray waits until it answers or has ended
                for pid in below(set(children_running(self._program))):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """End the thread; call this when the node has ended."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(SETTLED_WITHIN_SECONDS)

    def _run(self) -> None:
        try:
            if self._starts and self._not_any_more.wait(self._seconds):
                return
            self._go()
        except Exception:
            _LOG.exception("after Ray's start")
        finally:
            self._settled.set()
            self._ended.wait()

    def _go(self) -> None:
        error = None
        for name in _LATE:
            if self._not_any_more.is_set():
                return
            self._starting = name
            try:
                self._check()
                self._starts.get(name, lambda: None)()
            except Exception as raised:  # whatever it is, the run needs neither dashboard nor monitors
                error = error or (raised if name == _LATE[0] else None)
        if self._not_any_more.is_set():
            return
        if error is None:
            self._ready()
        else:
            self._failed(error)
