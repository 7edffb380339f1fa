"""Damaged files of a run: found, named, exit code 5; the checkpoint before the last one is a way on."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen_train.checkpoints import (
    CHECKPOINT,
    PREVIOUS,
    keep_previous,
    read_checkpoint,
    settle_weights,
    use_previous,
    write_checkpoint,
)
from viewgen_train.metrics import Metrics
from viewgen_train.run import open_run
from viewgen_train.training import train
from viewgen_train.worker import train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures", "no_flushing")


def flip(path: Path, place: int, mask: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


@pytest.fixture
def stopped(make_tiny_plan):
    """A run that was stopped after three steps, with a checkpoint after each."""
    plan = make_tiny_plan(knn_every=0)
    train_worker(plan, "cpu", checkpoint_seconds=-1.0, stop_after=3)
    return plan


def test_every_damaged_file_is_named(stopped):
    folder = Path(stopped.out)
    sound = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    places = {
        CHECKPOINT: (300, len(sound[CHECKPOINT]) // 3, -80, -3),
        "last.safetensors": (60, len(sound["last.safetensors"]) // 2, -1),
        "metrics.csv": (sound["metrics.csv"].index(b"\n") + 8, 2),
        "identity.json": (30, len(sound["identity.json"]) // 2),
        "config.json": (30, len(sound["config.json"]) // 2),
    }
    for name, each in places.items():
        for place in each:
            flip(folder / name, place)
            with pytest.raises(CorruptDataError, match=name.replace(".", r"\.")) as error:
                train_worker(stopped, "cpu")
            assert error.value.exit_code == 5, (name, place)
            (folder / name).write_bytes(sound[name])
    (folder / CHECKPOINT).write_bytes(sound[CHECKPOINT][:-50])
    with pytest.raises(CorruptDataError, match="--previous-checkpoint"):
        train_worker(stopped, "cpu")


def test_the_previous_checkpoint_leads_to_the_same_weights(stopped, make_tiny_plan, tmp_path):
    folder = Path(stopped.out)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    train_worker(make_tiny_plan(knn_every=0, out=whole), "cpu")
    flip(folder / CHECKPOINT, 500)
    assert use_previous(folder) == 2
    train_worker(stopped, "cpu")
    expected, found = (load_file(run / "last.safetensors") for run in (whole, folder))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert read_checkpoint(folder / PREVIOUS)["step"] == 2


def test_the_previous_checkpoint_has_weights_at_every_moment(stopped):
    """A process that died before the weights were renamed goes on, and the checkpoint before it still can."""
    folder = Path(stopped.out)
    (folder / "last.safetensors").rename(folder / "last-3.safetensors")
    (folder / "previous.safetensors").rename(folder / "last.safetensors")
    train_worker(stopped, "cpu", checkpoint_seconds=-1.0, stop_after=4)
    assert read_checkpoint(folder / PREVIOUS)["step"] == use_previous(folder) == 3
    assert open_run(folder).step == 3
    settle_weights(folder, 3)
    assert open_run(folder).step == 3


def test_both_checkpoints_damaged(stopped):
    folder = Path(stopped.out)
    flip(folder / PREVIOUS, 500)
    with pytest.raises(CorruptDataError, match="checkpoint-previous"):
        use_previous(folder)
    (folder / PREVIOUS).unlink()
    with pytest.raises(MissingFileError, match="no checkpoint before the last one"):
        use_previous(folder)


def test_one_of_the_two_is_asked_for():
    with pytest.raises(UsageError, match="--previous-checkpoint"):
        train(overwrite=True, previous_checkpoint=True)


def test_a_deleted_file_is_written_again(stopped):
    folder = Path(stopped.out)
    for name in ("identity.json", "config.json", "metrics.csv"):
        (folder / name).unlink()
    train_worker(stopped, "cpu", stop_after=4)
    assert (folder / "config.json").exists()


def test_a_checkpoint_of_the_first_version_has_the_checksums_of_its_archive(tmp_path):
    path = tmp_path / CHECKPOINT
    torch.save({"trainer": {"w": torch.arange(1000)}, "step": 1, "seconds": 0.0}, path)
    assert read_checkpoint(path)["step"] == 1
    flip(path, path.read_bytes().index(bytes(torch.tensor([500, 501]).numpy().tobytes())))
    with pytest.raises(CorruptDataError, match="checksum of its entry"):
        read_checkpoint(path)


def test_a_checkpoint_is_an_archive_that_torch_reads(tmp_path):
    path = tmp_path / CHECKPOINT
    write_checkpoint(path, {"trainer": {}, "step": 4, "seconds": 1.0})
    assert torch.load(path, weights_only=True)["step"] == 4
    assert read_checkpoint(path)["step"] == 4
    keep_previous(tmp_path)
    write_checkpoint(path, {"trainer": {}, "step": 5, "seconds": 1.0})
    assert read_checkpoint(tmp_path / PREVIOUS)["step"] == 4
    path.write_bytes(path.read_bytes()[:-78])
    with pytest.raises(CorruptDataError, match="its digest is gone"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ["step\n\0", "a,b\n1,2\n", "step,loss\n\xff\n1", "step\n1\n2,3\n"])
def test_a_table_that_is_none(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptDataError, match=r"metrics\.csv"):
        Metrics(path, 3).check("00")


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"dataset":1,"config":{},"cache":null,"num_steps":8}', "{", "[" * 5000]
)
def test_a_configuration_that_is_none(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CorruptDataError, match=r"config\.json"):
        open_run(tmp_path)
