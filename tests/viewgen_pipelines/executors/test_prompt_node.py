"""Ray's start without waits: what a worker does not need comes later, or not at all in a short run."""

import contextlib
import threading
from types import SimpleNamespace

import pytest

from viewgen_pipelines.executors.prompt_node import LateDashboard, prompt_node

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own code warns


class Node:
    """Ray's node, as far as its start goes."""

    def __init__(self):
        self.gcs_address, self.plasma_store_socket_name = "127.0.0.1:1", "/store"
        self.started = []
        self.start_monitor()
        self.start_api_server(include_dashboard=True, raise_on_failure=True)
        self.start_ray_processes()

    def start_monitor(self):
        self.started.append("monitor")

    def start_api_server(self, *, include_dashboard, raise_on_failure):
        assert include_dashboard
        self.started.append("dashboard")

    def start_ray_processes(self):
        self.started.append("raylet")
        self.start_log_monitor()

    def start_log_monitor(self):
        self.started.append("log monitor")


def ray_with(node, **services):
    return SimpleNamespace(
        _private=SimpleNamespace(node=SimpleNamespace(Node=node), services=SimpleNamespace(**services))
    )


@pytest.fixture
def started():
    """The node of a Ray that `prompt_node` has hurried, and what it was waited for with."""
    asked = []
    ray = ray_with(Node, wait_for_node=lambda *place, timeout: asked.append(place))
    with prompt_node(ray):
        node = ray._private.node.Node()
    assert ray._private.node.Node is Node
    return node, asked


class Told:
    def __init__(self):
        self.lines, self.told = [], threading.Event()

    def __call__(self, *what):
        self.lines.append(what)
        self.told.set()


def late(node, seconds=0.0, around=contextlib.nullcontext):
    ready, failed = Told(), Told()
    return LateDashboard(node, around, ready=ready, failed=failed, seconds=seconds), ready, failed


def test_a_node_starts_what_workers_need_and_the_rest_later(started):
    node, asked = started
    assert node.started == ["raylet"]
    assert asked == [("127.0.0.1:1", "/store")]
    inside = []

    @contextlib.contextmanager
    def around():
        inside.append("entered")
        yield
        inside.append(list(node.started))

    dashboard, ready, failed = late(node, around=around)
    assert ready.told.wait(30)
    assert node.started == ["raylet", "monitor", "dashboard", "log monitor"]
    assert inside == ["entered", node.started]
    dashboard.settle()
    dashboard.end()
    assert not failed.lines


def test_the_thread_that_started_the_dashboard_lives_as_long_as_the_node(started):
    """The kernel ends the processes of a thread that ends."""
    dashboard, ready, _ = late(started[0])
    assert ready.told.wait(30)
    (thread,) = [one for one in threading.enumerate() if one.name == "viewgen-dashboard"]
    dashboard.settle()
    assert thread.is_alive()
    dashboard.end()
    assert not thread.is_alive()


def test_a_short_run_has_no_dashboard(started):
    node, _ = started
    dashboard, ready, failed = late(node, seconds=600)
    dashboard.settle()
    dashboard.end()
    assert node.started == ["raylet"]
    assert not ready.lines
    assert not failed.lines


def test_a_dashboard_that_is_starting_is_waited_for(started):
    node, _ = started
    begun, go_on = threading.Event(), threading.Event()

    def start():
        begun.set()
        go_on.wait(30)
        node.started.append("slow")

    node.late_starts = [start]
    dashboard, _, _ = late(node)
    assert begun.wait(30)
    threading.Timer(0.2, go_on.set).start()
    dashboard.settle()
    assert node.started[-1] == "slow"
    dashboard.end()


def test_a_dashboard_that_does_not_start_is_told_and_no_more(started):
    node, _ = started
    error = RuntimeError("no port is free")

    def start():
        raise error

    node.late_starts = [start]
    dashboard, ready, failed = late(node)
    assert failed.told.wait(30)
    dashboard.settle()
    dashboard.end()
    assert failed.lines == [(error,)]
    assert not ready.lines


def test_a_node_that_is_never_registered_is_left_to_ray():
    def wait_for_node(*_, timeout):
        raise TimeoutError

    ray = ray_with(Node, wait_for_node=wait_for_node)
    with prompt_node(ray):
        assert ray._private.node.Node().started == ["raylet"]


class OtherNode:
    def start_ray_processes(self):
        """Start everything."""


@pytest.mark.parametrize(("node", "services"), [(Node, {}), (OtherNode, {"wait_for_node": print})])
def test_a_ray_without_these_parts_starts_in_its_own_order(node, services):
    ray = ray_with(node, **services)
    with prompt_node(ray):
        assert ray._private.node.Node is node
    dashboard, ready, _ = late(node())
    assert ready.told.wait(30), "its address is told all the same"
    dashboard.settle()
    dashboard.end()


def test_the_ray_of_today_has_these_parts(shared_ray):
    import ray

    assert type(ray._private.worker._global_node).__name__ == "PromptNode"
    assert len(ray._private.worker._global_node.late_starts) == 3
