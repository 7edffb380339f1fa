"""Fixtures that several test folders share."""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from viewgen.store import CacheSpec, Storage, open_storage
from viewgen.store.remote import FsspecStorage
from viewgen.testing.caches import Arrays, random_shard, small_spec, write_random_cache

sys.path.insert(0, str(Path(__file__).parent / "chaos"))

from leftovers import mark_run, sweep_leftovers

STARTED = time.monotonic()
# Runs of the command under Ray serve no gallery, here and in the processes that tests start.
os.environ["VIEWGEN_GALLERY"] = "0"
# Nor do they measure the views, which would take longer than to make them.
os.environ["VIEWGEN_QUALITY"] = "0"
os.environ["VIEWGEN_ESTIMATE"] = "0"

# A crash prints the stack of the C code too, where it still can; pytest-xdist reports it as the failure of
# its test and goes on with the others.
torch._C._set_print_stack_traces_on_fatal_signal(True)

# Files that start Ray, browsers or whole trainings: marked slow.
SLOW_FILES = {
    "test_commands_run",
    "test_docker_files",
    "test_executor_contract",
    "test_faults_ray",
    "test_gallery_browser",
    "test_gallery_serve",
    "test_launch",
    "test_metrics",
    "test_mi",
    "test_ray_session",
    "test_resumed_training",
    "test_resuming",
    "test_snippets",
}


PIPELINES = Path(__file__).parent / "viewgen_pipelines"


SWEPT = pytest.StashKey[set[int]]()


def pytest_configure(config: pytest.Config) -> None:
    """End what an earlier, killed run left behind, which would disturb this one."""
    if not hasattr(config, "workerinput"):  # of pytest-xdist
        mark_run()
        config.stash[SWEPT] = sweep_leftovers()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark slow tests, and order all, of which pytest-xdist gives each of two processes one half at first.

    Tests of the long campaign (``chaos``) run only where ``-m`` asks for them.

    The first half begins with the tests that share a Ray session, so that one process has one, and for a
    while only; the second with the other slow ones. What is left in the end are short tests.
    """
    for item in items:
        if item.path.stem in SLOW_FILES or needs_ray(item):
            item.add_marker("slow")
    yield
    if "chaos" not in config.getoption("-m"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("chaos")])
        items[:] = [item for item in items if not item.get_closest_marker("chaos")]
    ray = [item for item in items if needs_ray(item)]
    slow = [item for item in items if item.get_closest_marker("slow") and not needs_ray(item)]
    short = [item for item in items if not item.get_closest_marker("slow") and not needs_ray(item)]
    place = max(0, len(items) // 2 - len(ray))
    items[:] = [*ray, *short[:place], *slow, *short[place:]]


def needs_ray(item: pytest.Item | None) -> bool:
    """Say whether a test uses the shared Ray session."""
    return not {"shared_ray", "shared_ray_of_class"}.isdisjoint(getattr(item, "fixturenames", ()))


class SharedRay:
    """The Ray session of this process: started for the first test that needs it, ended after the last."""

    def __init__(self) -> None:
        self._running: contextlib.ExitStack | None = None

    def start(self, faults: Path, site: Path) -> None:
        from viewgen_pipelines.executors.session import ray_session

        if self._running is not None:
            return
        with contextlib.ExitStack() as starting:
            environment = starting.enter_context(pytest.MonkeyPatch.context())
            # the workers' environment is that of the session's start
            environment.setenv("VIEWGEN_TEST_FAULTS", str(faults))
            environment.setenv("RAY_metrics_report_interval_ms", "1000")  # of 10,000
            for folder in (PIPELINES, site):
                environment.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
            starting.enter_context(ray_session(None, num_workers=2))
            self._running = starting.pop_all()

    def end(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


SHARED_RAY = SharedRay()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """End the shared Ray session, whose processes are never quite idle, before a test that needs none."""
    yield
    if not needs_ray(nextitem):
        SHARED_RAY.end()


@pytest.fixture(autouse=True)
def _forgotten_memory() -> Iterator[None]:
    """Forget what a test wrote to ``memory://``: to list a folder there takes a look at all files."""
    files, folders = set(MemoryFileSystem.store), [*MemoryFileSystem.pseudo_dirs]
    yield
    for path in MemoryFileSystem.store.keys() - files:
        del MemoryFileSystem.store[path]
    MemoryFileSystem.pseudo_dirs[:] = folders


@pytest.fixture(scope="session")
def ray_faults_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of the shared Ray session look for faults."""
    return tmp_path_factory.mktemp("ray") / "faults.json"


@pytest.fixture(scope="session")
def ray_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, empty at first, from which the workers of the shared Ray session import."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture
def shared_ray(ray_faults_path: Path, ray_site: Path) -> None:
    """One Ray session for all tests in this process."""
    SHARED_RAY.start(ray_faults_path, ray_site)


@pytest.fixture
def shared_dashboard(shared_ray: None) -> None:
    """The dashboard of the shared Ray session, which comes some seconds after its workers."""
    import ray

    from viewgen_pipelines.executors.orphans import children_running

    end = time.monotonic() + 120
    while not (ray._private.worker.get_dashboard_url() and children_running("log_monitor.py")):  # the last
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="class")
def shared_ray_of_class(ray_faults_path: Path, ray_site: Path) -> None:
    """The same session, for a fixture of a class."""
    SHARED_RAY.start(ray_faults_path, ray_site)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., CacheSpec]:
    """Return a factory of small specifications: 21 rows in shards of 8, so the last shard is partial."""
    return small_spec


@pytest.fixture(scope="session")
def shard_arrays() -> Callable[..., Arrays]:
    """Return a function (spec, shard_id, seed) → random contents of one shard, all rows ok."""
    return random_shard


@pytest.fixture(scope="session")
def write_cache() -> Callable[..., Arrays]:
    """Return a function that writes a complete cache and returns its contents, `(N, …)` per array."""
    return write_random_cache


@pytest.fixture
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip flushes to the device: a test cannot see what they are for, and they take most of its time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def blocks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two records be put together instead of 1000."""
    monkeypatch.setattr("viewgen.store.names._BLOCK_SHARDS", 2)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the packages catches it."""


class FragileStorage(FsspecStorage):
    """Dies before its change number `life`."""

    parallel_reads = 1

    def __init__(self, url: str, life: int) -> None:
        super().__init__(url)
        self.life = life

    def _spend(self) -> None:
        if self.life == 0:
            raise Killed
        self.life -= 1

    def write_new(self, path: str, data: bytes) -> None:
        self._spend()
        super().write_new(path, data)

    def write(self, path: str, data: bytes) -> None:
        self._spend()
        super().write(path, data)

    def delete(self, path: str) -> None:
        self._spend()
        super().delete(path)

    def delete_tree(self, prefix: str) -> None:
        # object by object, as stores do
        for path in self.paths(prefix):
            self._spend()
            super().delete(path)


@pytest.fixture(scope="session")
def kill_everywhere() -> Callable[..., Iterator[Storage]]:
    """Return a function (act, template) that runs `act` on copies of the storage `template`.

    Each time it is killed before a later change, until it survives. Yields the storage after each kill.
    """

    def kill(act: Callable[[Storage], object], template: Storage | None = None) -> Iterator[Storage]:
        for life in range(1000):
            url = f"memory://{uuid.uuid4().hex}"
            after = open_storage(url)
            for path in template.paths() if template else []:
                after.write(path, template.read(path))
            try:
                act(FragileStorage(url, life))
                return
            except Killed:
                yield after
            finally:
                after.delete_tree("")
        raise AssertionError("it never ends")

    return kill


@pytest.fixture(scope="session")
def check_command() -> Callable[[list[str]], None]:
    """Return a function that parses a command line, without ``viewgen``, but does not run it."""

    def check(words: list[str]) -> None:
        from viewgen.cli import cli

        command: click.Command = cli
        context = click.Context(cli, info_name="viewgen")
        while isinstance(command, click.Group):
            below = command.get_command(context, words[0])
            assert below is not None, f"no command {words[0]!r}"
            context = click.Context(below, info_name=words[0], parent=context)
            command, words = below, words[1:]
        known = [parameter for parameter in command.params if isinstance(parameter.type, click.Path)]
        types = [parameter.type for parameter in known]
        try:
            for parameter in known:
                parameter.type = click.Path()  # the reader's files need not exist here
            command.make_context("viewgen", list(words)).close()
        except click.exceptions.Exit:
            assert {"--help", "-h"} & set(words)
        finally:
            for parameter, before in zip(known, types, strict=True):
                parameter.type = before

    return check


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """Return a function that adds a line to what is printed of this test at the end."""

    def add(line: object) -> None:
        record_property("tally", line)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tally of the long campaign. (Under pytest-xdist no other conftest has the terminal.)"""
    if "chaos" not in config.getoption("-m"):
        return
    terminalreporter.section("tally")
    if swept := config.stash[SWEPT]:
        terminalreporter.line(f"ended {len(swept)} processes that an earlier run had left behind")
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if (outcome == "skipped" and report.when == "setup") or report.when == "call":
                name = report.nodeid.rpartition("/")[2]
                terminalreporter.line(f"{outcome} {name} ({report.duration:.0f} s)")
                for kind, line in report.user_properties:
                    if kind == "tally":
                        terminalreporter.line(f"    {line}")
    terminalreporter.line(f"{(time.monotonic() - STARTED) / 60:.0f} minutes")
