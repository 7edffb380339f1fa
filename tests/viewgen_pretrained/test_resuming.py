"""Resumable training: interrupted anywhere, it ends with the bits and the metrics of an undisturbed run."""

import csv
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from viewgen.errors import CacheMismatchError, CorruptDataError, LeaseError
from viewgen_train.loop import Trainer, TrainingDivergedError, run_training

KINDS = ("generator", "inverter")
OFTEN = {"checkpoint_seconds": 0.0, "log_every": 3, "picture_seconds": 0.0}


def folder(out: Path, kind: str) -> Path:
    return out / f"{kind}-training"


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert len(found) > 10
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def undisturbed(make_trainer, weights_of, tmp_path_factory) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """Weights and metrics of one run per kind, seven steps long."""
    runs = {}
    for kind in KINDS:
        out = tmp_path_factory.mktemp("undisturbed")
        trainer = make_trainer(kind)
        run_training(trainer, out, **(OFTEN | {"checkpoint_seconds": 1e9}))
        runs[kind] = (weights_of(trainer), (folder(out, kind) / "metrics.csv").read_text())
    return runs


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_pieces_equals_a_run_in_one(make_trainer, weights_of, undisturbed, tmp_path, kind):
    for stop_after in (2, 3, 5, None):
        torch.manual_seed(stop_after or 0)  # whatever the process drew before must not matter
        trainer = make_trainer(kind)
        run_training(trainer, tmp_path, stop_after=stop_after, **OFTEN)
    expected, metrics = undisturbed[kind]
    assert_same_bits(weights_of(trainer), expected)
    assert (folder(tmp_path, kind) / "metrics.csv").read_text() == metrics
    steps = [int(row["step"]) for row in csv.DictReader(metrics.splitlines())]
    assert steps == [2, 5, 6]


def test_an_adaptive_probability_goes_on_where_it_was(make_trainer, weights_of, tmp_path):
    settings = {"ada_target": 0.3, "ada_images": 32, "ada_interval": 2}
    whole = make_trainer("generator", **settings)
    run_training(whole, tmp_path / "whole", **OFTEN)
    for stop_after in (1, 3, None):
        trainer = make_trainer("generator", **settings)
        run_training(trainer, tmp_path / "pieces", stop_after=stop_after, **OFTEN)
    assert_same_bits(weights_of(trainer), weights_of(whole))
    assert trainer.ada.state() == whole.ada.state()
    text = (folder(tmp_path / "pieces", "generator") / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert {"d_loss", "g_loss", "r1", "ada_p", "real_sign"} <= rows[0].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_the_networks(make_trainer, weights_of, undisturbed, kind):
    first = weights_of(make_trainer(kind))
    expected, _ = undisturbed[kind]
    trained = {
        "generator": (".generator.", ".discriminator.", ".average."),
        "inverter": (".inverter.", ".current.", ".critic."),
    }
    networks = {name for name in first if name.startswith(trained[kind]) and name.endswith("weight")}
    changed = {name for name in networks if not torch.equal(first[name], expected[name])}
    assert len(changed) > 0.8 * len(networks)


# one child for each moment, forked after the imports, which take longer than the trainings
KILLED = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
import conftest
import torch._dynamo, torch.utils.tensorboard.writer
from pathlib import Path
from viewgen.datasets import load_dataset
from viewgen_train import loop as session
from viewgen_pretrained.pretrain import training_config

torch.set_num_threads(1)
trainer_class, config_class = conftest.TRAINERS["inverter"]
data = load_dataset({dataset!r}, data_root={data_root!r})
config = training_config(config_class, "inverter", data.name, conftest.SETTINGS["inverter"])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def run(moment, out):
    trainer = trainer_class(data, config, torch.device("cpu"), **conftest.make_adversaries())
    step, save, replace = trainer.step, torch.save, Path.replace

    def fatal_step(number):
        values = step(number)
        if number == 4:
            die()
        return values

    def fatal_save(state, file):
        if state["step"] == 6:
            file.write(b"half")
            file.flush()
            die()
        save(state, file)

    def counted_step(number):
        trainer.steps_done = number + 1
        return step(number)

    def fatal_replace(self, target):
        replace(self, target)
        if trainer.steps_done == 6:
            die()

    if moment == "step":
        trainer.step = fatal_step
    elif moment == "half a checkpoint":
        torch.save = fatal_save
    else:
        trainer.steps_done = 0
        trainer.step, Path.replace = counted_step, fatal_replace
    session.run_training(trainer, out, checkpoint_seconds=-1.0, log_every=3)

for moment in {moments!r}:
    child = os.fork()
    if not child:
        run(moment, Path({out!r}) / moment)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), moment
    assert os.WTERMSIG(status) == signal.SIGKILL, moment
"""
# moment → step of the checkpoint that is left
MOMENTS = {"step": 4, "half a checkpoint": 5, "metrics": 5}


@pytest.fixture(scope="module")
def killed(dataset, data_root, tmp_path_factory) -> Path:
    """Return a folder of trainings, by the moment at which they were killed."""
    out = tmp_path_factory.mktemp("killed")
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        dataset=dataset.name,
        data_root=str(data_root),
        out=str(out),
        moments=list(MOMENTS),
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_process_loses_nothing(make_trainer, weights_of, undisturbed, killed, moment):
    out = killed / moment
    checkpoint = folder(out, "inverter") / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == MOMENTS[moment]
    trainer = make_trainer("inverter")
    run_training(trainer, out, **OFTEN)
    expected, metrics = undisturbed["inverter"]
    assert_same_bits(weights_of(trainer), expected)
    assert (folder(out, "inverter") / "metrics.csv").read_text() == metrics
    assert not list(checkpoint.parent.glob("*.part"))


def test_a_finished_run_is_not_trained_again(make_trainer, weights_of, undisturbed, tmp_path):
    run_training(make_trainer("inverter"), tmp_path, **OFTEN)
    again = make_trainer("inverter")
    again.step = None
    run_training(again, tmp_path, **OFTEN)
    assert_same_bits(weights_of(again), undisturbed["inverter"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_another_configuration_is_refused_with_the_difference(make_trainer, tmp_path, kind):
    run_training(make_trainer(kind), tmp_path, stop_after=1)
    before = (folder(tmp_path, kind) / "checkpoint.pt").read_bytes()
    with pytest.raises(CacheMismatchError, match=r"(?s)seed: there 0, asked 1.*--overwrite") as error:
        run_training(make_trainer(kind, seed=1), tmp_path, stop_after=2)
    assert error.value.exit_code == 3
    assert "learning_rate" not in str(error.value)
    assert (folder(tmp_path, kind) / "checkpoint.pt").read_bytes() == before


def test_overwrite_starts_afresh(make_trainer, weights_of, undisturbed, tmp_path):
    run_training(make_trainer("inverter", seed=1), tmp_path, **OFTEN)
    trainer = make_trainer("inverter")
    run_training(trainer, tmp_path, overwrite=True, **OFTEN)
    expected, metrics = undisturbed["inverter"]
    assert_same_bits(weights_of(trainer), expected)
    assert (folder(tmp_path, "inverter") / "metrics.csv").read_text() == metrics


def poison(trainer: Trainer, at: int, *, weights: bool) -> Trainer:
    step = trainer.step

    def poisoned(number: int) -> dict[str, float]:
        values = step(number)
        if number == at and weights:
            with torch.no_grad():
                next(trainer.inverter.parameters())[0] = torch.nan
        return values | {"loss": float("nan")} if number == at and not weights else values

    trainer.step = poisoned  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize(
    ("weights", "message"), [(False, "loss is nan at step 4"), (True, "a weight is not finite after step 4")]
)
def test_what_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    make_trainer, weights_of, undisturbed, tmp_path, weights, message
):
    trainer = poison(make_trainer("inverter"), 4, weights=weights)
    with pytest.raises(TrainingDivergedError, match=message) as error:
        run_training(trainer, tmp_path, checkpoint_seconds=-1.0, log_every=3)
    assert "Lower the learning rate" in str(error.value)
    assert str(folder(tmp_path, "inverter")) in str(error.value)
    checkpoint = torch.load(folder(tmp_path, "inverter") / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 4
    healed = make_trainer("inverter")
    run_training(healed, tmp_path, **OFTEN)
    assert_same_bits(weights_of(healed), undisturbed["inverter"][0])


def test_a_run_that_diverges_at_once_promises_no_checkpoint(make_trainer, tmp_path):
    with pytest.raises(TrainingDivergedError) as error:
        run_training(make_trainer("inverter", learning_rate=1e30), tmp_path)
    assert "checkpoint" not in str(error.value)
    assert not (folder(tmp_path, "inverter") / "checkpoint.pt").exists()


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_other(path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, path)


def damage_code(path: Path) -> None:
    torch.save({"trainer": Path("x"), "step": 1, "seconds": 0.0}, path)


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_other, damage_code])
def test_a_damaged_checkpoint_is_refused_and_named(make_trainer, tmp_path, damage):
    run_training(make_trainer("inverter"), tmp_path, stop_after=2)
    path = folder(tmp_path, "inverter") / "checkpoint.pt"
    damage(path)
    with pytest.raises(CorruptDataError, match="--overwrite") as error:
        run_training(make_trainer("inverter"), tmp_path)
    assert error.value.exit_code == 5
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_identity_is_refused_and_named(make_trainer, tmp_path, text):
    run_training(make_trainer("inverter"), tmp_path, stop_after=1)
    path = folder(tmp_path, "inverter") / "identity.json"
    path.write_text(text)
    with pytest.raises(CorruptDataError, match=r"identity\.json"):
        run_training(make_trainer("inverter"), tmp_path)


def test_two_runs_in_one_folder_exclude_each_other(make_trainer, tmp_path):
    run_training(make_trainer("inverter"), tmp_path, stop_after=1)
    with open(folder(tmp_path, "inverter") / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LeaseError, match="another process trains"):
            run_training(make_trainer("inverter"), tmp_path)
    run_training(make_trainer("inverter"), tmp_path, stop_after=2)


def test_the_folder_says_what_it_holds(make_trainer, tmp_path):
    for kind in KINDS:
        trainer = make_trainer(kind)
        run_training(trainer, tmp_path, stop_after=1)
        identity: dict[str, Any] = json.loads((folder(tmp_path, kind) / "identity.json").read_text())
        assert identity == json.loads(json.dumps(trainer.identity))
        assert identity["dataset"].startswith("sha256:")
        assert (folder(tmp_path, kind) / "samples.png").exists()
