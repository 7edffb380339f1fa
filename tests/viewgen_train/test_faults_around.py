"""A training whose surroundings fail while it runs: a full disk, a cache that changes."""

import errno
import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from viewgen.errors import CorruptDataError, StorageError
from viewgen_train import checkpoints
from viewgen_train.trainer import AssimilationTrainer
from viewgen_train.worker import train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures", "no_flushing")


def run(plan, **options):
    train_worker(plan, "cpu", checkpoint_seconds=-1.0, **options)


def assert_equal_results(found, expected):
    weights = [load_file(Path(plan.out) / "last.safetensors") for plan in (found, expected)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    metrics = [(Path(plan.out) / "metrics.csv").read_bytes() for plan in (found, expected)]
    assert metrics[0] == metrics[1]


def test_a_full_disk_ends_a_training_that_goes_on_once_there_is_space(make_tiny_plan, monkeypatch, tmp_path):
    whole = make_tiny_plan(knn_every=0, out=tmp_path / "whole")
    run(whole)
    plan = make_tiny_plan(knn_every=0)
    for moment in (0, 4, 9):
        flushed = iter(range(1000))

        def flush(_, flushed=flushed, moment=moment):
            if next(flushed) >= moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", flush)
            with pytest.raises(StorageError, match=rf"bytes are free.*{plan.out}"):
                run(plan)
        assert [path.name for path in Path(plan.out).iterdir() if "viewgen-tmp" in path.name] == []
    run(plan)
    assert_equal_results(plan, whole)


def test_a_checkpoint_that_does_not_fit_says_why(tmp_path, monkeypatch):
    """Torch's writer reports its own position in the file, and hides what the file said."""

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self):
            raise AssertionError("nothing is flushed")

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(StorageError, match=r"No space left on device; .* bytes are free"):
        checkpoints.write_checkpoint(tmp_path / "checkpoint.pt", {"step": 1, "weights": torch.zeros(9)})


def change(url, how):
    """Delete, replace or damage all objects of views of a cache."""
    for path in sorted(Path(url).glob("views/c.*")):
        data = bytearray(path.read_bytes())
        other = path.with_name("other")
        if how == "deleted":
            path.unlink()
        elif how == "cut":
            path.unlink()
            path.write_bytes(data[:-9])
        else:
            data[7] ^= 1
            other.write_bytes(data)
            other.replace(path)


def test_a_cache_that_changes_meanwhile_or_between_two_runs(
    tiny, cache_of, make_tiny_plan, monkeypatch, tmp_path
):
    """The store replaces files and never writes into them: a training goes on with what it has mapped.

    The next run finds the change and names the file; with the file restored it comes to the same end.
    """
    options = {"knn_every": 0, "memory_bytes": 0}
    whole = make_tiny_plan(out=tmp_path / "whole", **options)
    run(whole)
    step = AssimilationTrainer.step
    for how in ("deleted", "cut", "flipped"):
        url, done = cache_of(tiny), []
        sound = {path: path.read_bytes() for path in Path(url).glob("views/c.*")}

        def changing(self, *arguments, url=url, how=how, done=done):
            done.append(1)
            if len(done) == 4:
                change(url, how)
            return step(self, *arguments)

        plan = make_tiny_plan(out=tmp_path / how, cache=url, **options)
        with monkeypatch.context() as patch:
            patch.setattr(AssimilationTrainer, "step", changing)
            run(plan, stop_after=6)
        assert len(done) == 6
        with pytest.raises(CorruptDataError, match=r"views/c\.") as caught:
            run(plan)
        assert caught.value.exit_code == 5
        for path, data in sound.items():
            path.write_bytes(data)
        run(plan)
        assert_equal_results(plan, whole)


def test_a_cache_held_in_memory_may_go(tiny, cache_of, make_tiny_plan, monkeypatch, tmp_path):
    whole, url = make_tiny_plan(knn_every=0, out=tmp_path / "whole"), cache_of(tiny)
    run(whole)
    step = AssimilationTrainer.step

    def without(self, *arguments):
        change(url, "deleted")
        return step(self, *arguments)

    monkeypatch.setattr(AssimilationTrainer, "step", without)
    plan = make_tiny_plan(knn_every=0, cache=url)
    run(plan)
    assert_equal_results(plan, whole)
