"""A Ray node that starts without waits, and its dashboard a little later.

`ray.init` starts the processes of a node in a row: it waits for the dashboard before it starts the raylet,
and looks only once a second whether the raylet is there. The dashboard's dozen processes and two monitors
then share the cores with the workers that are starting. Here nothing waits for them, and they come when the
workers had time to start.

All of this is private to Ray. Where Ray does not have these parts, it starts in its own order.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["WORKERS_FIRST_SECONDS", "LateDashboard", "prompt_node"]

# what else starts beside the workers of a session, starts so much later
WORKERS_FIRST_SECONDS = 5.0
# then Ray's own look at the raylet decides
REGISTERED_WITHIN_SECONDS = 30

# methods of Ray's node that start what no worker needs
_LATE = ("start_monitor", "start_api_server", "start_log_monitor")


@contextlib.contextmanager
def prompt_node(ray: Any) -> Iterator[None]:
    """While entered, let `ray.init` start a node without waits; the rest of it is left to `LateDashboard`."""
    module, services = ray._private.node, ray._private.services
    original = module.Node
    if not hasattr(services, "wait_for_node") or not all(
        hasattr(original, name) for name in ("start_ray_processes", *_LATE)
    ):
        yield
        return

    def start_ray_processes(node: Any) -> None:
        original.start_ray_processes(node)
        with contextlib.suppress(TimeoutError):
            services.wait_for_node(
                node.gcs_address, node.plasma_store_socket_name, timeout=REGISTERED_WITHIN_SECONDS
            )

    def later(name: str) -> Callable[..., None]:
        def start(node: Any, **options: Any) -> None:
            vars(node).setdefault("late_starts", []).append(lambda: getattr(original, name)(node, **options))

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
        around: context to start them in.
        ready: callback when the dashboard can be reached.
        failed: callback with the error of a dashboard that does not start.
        seconds: seconds until they are started.
    """

    def __init__(
        self,
        node: Any,
        around: Callable[[], contextlib.AbstractContextManager[None]],
        *,
        ready: Callable[[], object],
        failed: Callable[[Exception], object],
        seconds: float = WORKERS_FIRST_SECONDS,
    ) -> None:
        self._starts = getattr(node, "late_starts", [])
        self._around, self._ready, self._failed = around, ready, failed
        self._seconds = seconds
        self._not_any_more, self._settled, self._ended = (threading.Event() for _ in range(3))
        # the kernel ends them with the thread that has started them
        self._thread = threading.Thread(target=self._run, name="viewgen-dashboard", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Let nothing start any more; what is just starting is waited for."""
        self._not_any_more.set()
        self._settled.wait()

    def end(self) -> None:
        """End the thread; call this when the node has ended."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._go()
        finally:
            self._settled.set()
        self._ended.wait()

    def _go(self) -> None:
        if self._starts:
            if self._not_any_more.wait(self._seconds):
                return
            try:
                with self._around():
                    for start in self._starts:
                        start()
            except Exception as error:  # whatever it is, the run needs no dashboard
                self._failed(error)
                return
        self._ready()
