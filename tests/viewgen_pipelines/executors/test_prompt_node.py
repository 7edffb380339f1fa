"""Ray's start without waits: what a worker does not need comes later, or not at all in a short run."""

import subprocess
import sys
import threading
import time
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


def late(node, **options):
    ready, failed = Told(), Told()
    options = {"program": "no such program", "seconds": 0.0} | options
    dashboard = LateDashboard(node, ready=ready, failed=failed, **options)
    dashboard.start()
    return dashboard, ready, failed


def end(dashboard):
    """End a dashboard, and see that its thread has lived, and with it what it started, until then."""
    (thread,) = [one for one in threading.enumerate() if one.name == "viewgen-dashboard"]
    dashboard.settle()
    assert thread.is_alive(), "the kernel ends the processes of a thread that ends"
    dashboard.end()
    assert not thread.is_alive()


def test_a_node_starts_what_workers_need_and_the_rest_later(started):
    node, asked = started
    assert node.started == ["raylet"]
    assert asked == [("127.0.0.1:1", "/store")]
    dashboard, ready, failed = late(node)
    assert ready.told.wait(30)
    assert node.started == ["raylet", "dashboard", "monitor", "log monitor"]
    end(dashboard)
    assert not failed.lines


def test_a_short_run_has_no_dashboard(started):
    node, _ = started
    dashboard, ready, failed = late(node, seconds=600)
    end(dashboard)
    assert node.started == ["raylet"]
    assert not ready.lines
    assert not failed.lines


def test_a_dashboard_that_never_began_can_be_ended(started):
    dashboard = LateDashboard(started[0], program="none", ready=Told(), failed=Told())
    dashboard.settle()
    dashboard.end()


def sleeper(name):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", name])


def test_a_dashboard_that_is_starting_is_ended_with_the_run(started):
    """Ray would wait for its answer, up to a minute."""
    node, _ = started
    begun = threading.Event()

    def start():
        with sleeper("/ray/dashboard/dashboard.py") as process:
            begun.set()
        raise RuntimeError(f"the dashboard ended with {process.returncode}")

    node.late_starts["start_api_server"] = start
    dashboard, ready, failed = late(node, program="/ray/dashboard/dashboard.py")
    assert begun.wait(30)
    begin = time.monotonic()
    end(dashboard)
    assert time.monotonic() - begin < 30
    assert node.started == ["raylet"], "nothing more is started"
    assert not ready.lines
    assert not failed.lines, "nobody wants to know"


def test_nothing_else_is_ended(started):
    """Neither a program of the user's own, nor a dashboard that is up while a monitor starts."""
    node, _ = started
    begun, go_on = threading.Event(), threading.Event()

    def start():
        begun.set()
        go_on.wait(30)

    node.late_starts["start_monitor"] = start
    with sleeper("/home/me/dashboard/dashboard.py") as own, sleeper("/ray/dashboard/dashboard.py") as rays:
        dashboard, _, _ = late(node, program="/ray/dashboard/dashboard.py")
        assert begun.wait(30)
        threading.Timer(0.5, go_on.set).start()
        end(dashboard)
        assert (own.poll(), rays.poll()) == (None, None)
        own.kill()
        rays.kill()


@pytest.mark.parametrize(
    ("part", "told"), [("start_api_server", [("no port is free",)]), ("start_monitor", [])]
)
def test_what_does_not_start_is_told_if_it_matters_and_costs_nothing_else(started, part, told):
    node, _ = started

    def start():
        raise RuntimeError("no port is free")

    node.late_starts[part] = start
    dashboard, ready, failed = late(node)
    assert (failed if told else ready).told.wait(30)
    end(dashboard)
    assert [tuple(map(str, line)) for line in failed.lines] == told
    assert len(node.started) == 3, "the other two"


def test_an_error_of_who_is_told_does_not_end_the_dashboard(started, caplog):
    asked = threading.Event()

    def ready():
        asked.set()
        raise ValueError("a closed terminal")

    dashboard = LateDashboard(started[0], program="none", ready=ready, failed=Told(), seconds=0)
    dashboard.start()
    assert asked.wait(30)
    end(dashboard)
    assert "a closed terminal" in caplog.text


def test_a_dashboard_that_may_not_start_is_told(started):
    def check():
        raise RuntimeError("the token is gone")

    dashboard, ready, failed = late(started[0], check=check)
    assert failed.told.wait(30)
    end(dashboard)
    assert started[0].started == ["raylet"]
    assert [str(error) for (error,) in failed.lines] == ["the token is gone"]
    assert not ready.lines


@pytest.mark.parametrize("error", [TimeoutError, TypeError])
def test_a_node_that_cannot_be_waited_for_is_left_to_ray(error):
    def wait_for_node(*_, timeout):
        raise error

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
    dashboard, ready, _ = late(node(), seconds=600)
    assert ready.told.wait(30), "its address is told, and at once"
    end(dashboard)


def test_a_module_without_private_parts_is_left_alone():
    with prompt_node(SimpleNamespace()):
        pass


def test_the_ray_of_today_has_these_parts(shared_ray):
    import ray

    assert type(ray._private.worker._global_node).__name__ == "PromptNode"
    assert len(ray._private.worker._global_node.late_starts) == 3
