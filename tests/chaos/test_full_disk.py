"""A file system that is really full, for caches and trainings (needs root, to mount one)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(PIPELINE_TESTS := Path(__file__).parent.parent / "viewgen_pipelines"))

from expected_cache import assert_every_image_once

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="mount needs root"),
]

CLI = [sys.executable, str(PIPELINE_TESTS / "faulty_cli.py")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """An empty file system of 40 KiB, and a function that gives it another size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")

    def resize(kibibytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", str(folder)], check=True)


def run(*words: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*CLI, *words], capture_output=True, text=True, env=env)


def assert_it_says_where_and_how_much(ended: "subprocess.CompletedProcess[str]", folder: Path) -> None:
    assert ended.returncode == 1, ended.stderr
    assert "No space left on device" in ended.stderr
    assert "bytes are free" in ended.stderr
    assert str(folder) in ended.stderr
    assert "unexpected" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_cache_on_a_disk_that_is_full_at_many_writes(disk, tally):
    """More space each time: the run gets a few writes further, and the last one finishes."""
    folder, resize = disk
    url = folder / "c.zarr"
    words = ("cache", "--dataset", "digits", "--method", "faulty", "--executor", "local", "--views", "4")
    commits, sizes = 0, []
    for kibibytes in range(48, 8192, 72):
        resize(kibibytes)
        ended = run(*words, "--limit", "60", "--shard-images", "12", "--max-attempts", "1", "--out", str(url))
        if ended.returncode == 0:
            break
        assert_it_says_where_and_how_much(ended, folder)
        sizes.append(kibibytes)
        records = list(url.glob("commits/*.json"))
        assert len(records) >= commits, "what was committed stays"
        commits = len(records)
        assert all(json.loads(record.read_text()) for record in records)
    assert ended.returncode == 0, ended.stderr
    assert len(sizes) >= 8
    assert_every_image_once(str(url), num_images=60, num_views=4)
    tally(f"a cache on a full disk of {sizes[0]} to {sizes[-1]} KiB, {len(sizes)} times, then complete")


def test_a_training_on_a_full_disk(disk, tmp_path, tally):
    folder, resize = disk
    words = ["train", "--dataset", "digits", "--views", "expert", "--epochs", "2", "--json"]
    words += ["--batch-size", "512", "--set", "width=4", "--set", "projection_dim=8", "--device", "cpu"]
    sizes = []
    for kibibytes in (40, 400, 700, 20000):
        resize(kibibytes)
        ended = run(*words, "--out", str(folder / "run"))
        if ended.returncode == 0:
            break
        assert_it_says_where_and_how_much(ended, folder)
        sizes.append(kibibytes)
    assert ended.returncode == 0, ended.stderr
    whole = run(*words, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    weights = [(place / "last.safetensors").read_bytes() for place in (folder / "run", tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert sizes
    tally(f"a training on full disks of {sizes} KiB, then to the weights of an undisturbed one")
