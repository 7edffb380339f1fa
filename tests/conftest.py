"""Fixtures that several test folders share."""

import os
import uuid
from collections.abc import Callable, Iterator

import click
import pytest
import torch

from viewgen.store import CacheSpec, Storage, open_storage
from viewgen.store.remote import FsspecStorage
from viewgen.testing.caches import Arrays, random_shard, small_spec, write_random_cache

# Runs of the command under Ray serve no gallery, here and in the processes that tests start.
os.environ["VIEWGEN_GALLERY"] = "0"

# A crash prints the stack of the C code too, where it still can; pytest-xdist reports it as the failure of
# its test and goes on with the others.
torch._C._set_print_stack_traces_on_fatal_signal(True)

# Files that start Ray, browsers or whole trainings: marked slow, and run first, so that no process has one
# left when the others are done.
SLOW_FILES = {
    "test_commands_run",
    "test_crashing_test",
    "test_docker_files",
    "test_executor_contract",
    "test_faults_ray",
    "test_gallery_browser",
    "test_gallery_serve",
    "test_launch",
    "test_lost_node",
    "test_metrics",
    "test_mi",
    "test_ray_session",
    "test_resumed_training",
    "test_resuming",
    "test_snippets",
    "test_two_workers",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and put them first."""
    for item in items:
        if item.path.stem in SLOW_FILES:
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
