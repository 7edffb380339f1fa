"""Reading a cache where Unix' own modules are missing, as on Windows."""

import subprocess
import sys

import pytest

from viewgen import locking
from viewgen.store import open_storage
from viewgen.testing.caches import small_spec, write_random_cache

SCRIPT = """
import sys, os
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("O_NONBLOCK", "O_CLOEXEC", "sched_getaffinity", "getuid"):
    delattr(os, name)
from viewgen.store import CacheReader
reader = CacheReader(sys.argv[1])
print(reader.views(reader.rows).sum(), reader.distance.shape)
from viewgen.datasets import load_dataset
print(len(load_dataset("digits")))
import viewgen.cli
for package in ("viewgen.view_samples", "viewgen.opening", "viewgen_train.loop", "viewgen_train.evaluate"):
    __import__(package)
"""


def test_a_cache_is_read_without_modules_of_unix(tmp_path):
    url = str(tmp_path / "views.zarr")
    contents = write_random_cache(open_storage(url), small_spec())
    found = subprocess.run([sys.executable, "-c", SCRIPT, url], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[0] == f"{contents['views'].sum()} (21, 2)"


class Windows:
    """What Windows' module has of locks: one holder of a byte."""

    LK_NBLCK = 2

    def __init__(self):
        self.held, self.tries = True, 0

    def locking(self, descriptor, mode, size):
        assert (mode, size) == (self.LK_NBLCK, 1)
        self.tries += 1
        if self.held:
            self.held = self.tries < 3
            raise PermissionError(13, "Permission denied")


def test_locks_on_windows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Windows())
    with open(tmp_path / "lock", "w") as file:
        with pytest.raises(BlockingIOError):
            locking.lock(file.fileno(), wait=False)
        locking.lock(file.fileno(), wait=True)
    assert sys.modules["msvcrt"].tries == 4
