"""A file system that is really full, for caches and trainings (needs root, to mount one)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_pipelines"))

from dying_driver import run_driver
from expected_cache import assert_every_image_once

from viewgen.cli import main

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="mount needs root"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """An empty file system, and a function that gives it a size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")

    def resize(kibibytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", str(folder)], check=True)

    yield folder, resize
    # whatever still maps a file of it may do so
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_it_says_where_and_how_much(code: int | None, said: str, folder: Path) -> None:
    assert code == 1, said
    assert "No space left on device" in said
    assert "bytes are free" in said
    assert str(folder) in said
    assert "unexpected" not in said
    assert "Traceback" not in said


def test_a_cache_on_a_disk_that_is_full_at_many_writes(disk, tmp_path, tally):
    """More space each time: the run gets a few writes further, and the last one finishes."""
    folder, resize = disk
    url, faults = folder / "c.zarr", tmp_path / "faults.json"
    faults.write_text("{}")
    options = {"views": 4, "limit": 60, "shard_images": 12, "max_attempts": 1, "out": url}
    commits, sizes = 0, []
    for kibibytes in range(48, 8192, 72):
        resize(kibibytes)
        code = run_driver(faults, **options)
        if code == 0:
            break
        assert_it_says_where_and_how_much(code, Path(f"{faults}.stderr").read_text(), folder)
        sizes.append(kibibytes)
        records = list(url.glob("commits/*.json"))
        assert len(records) >= commits, "what was committed stays"
        commits = len(records)
        assert all(json.loads(record.read_text()) for record in records)
    assert code == 0
    assert len(sizes) >= 8
    assert_every_image_once(str(url), num_images=60, num_views=4)
    tally(f"a cache on a full disk of {sizes[0]} to {sizes[-1]} KiB, {len(sizes)} times, then complete")


def test_a_training_on_a_full_disk(disk, tmp_path, capsys, tally):
    folder, resize = disk
    words = ["train", "--dataset", "digits", "--assimilation", "none", "--limit", "256", "--epochs", "2"]
    words += ["--batch-size", "64", "--set", "width=4", "--set", "projection_dim=8", "--device", "cpu"]
    words += ["--no-evaluate", "--checkpoint-seconds", "0"]

    def train(out: Path) -> int | None:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--out", str(out)])
        return ended.value.code

    sizes = []
    for kibibytes in range(40, 8192, 96):
        resize(kibibytes)
        code = train(folder / "run")
        said = capsys.readouterr().err
        if code == 0:
            break
        assert_it_says_where_and_how_much(code, said, folder)
        sizes.append(kibibytes)
    assert code == 0, said
    assert sizes
    assert train(tmp_path / "whole") == 0
    found, expected = (load_file(run / "last.safetensors") for run in (folder / "run", tmp_path / "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    tally(f"a training on a full disk of {sizes[0]} to {sizes[-1]} KiB, then equal to the bit")
