"""A training interrupted anywhere ends with the bits and the metrics of an undisturbed one."""

import csv
import dataclasses
import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from viewgen.errors import CacheMismatchError, CorruptDataError
from viewgen_train.distributed import World
from viewgen_train.loop import TrainingDivergedError
from viewgen_train.roles import splitting_views
from viewgen_train.run import open_run
from viewgen_train.trainer import AssimilationTrainer
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")

SCRIPT = Path(__file__).parent / "killed_trainings.py"
KINDS = {
    "A2 from a cache": {},
    "A1 against a Viewmaker": {"assimilation": "A1", "generated": "viewmaker"},
    "A2-SimSiam": {"assimilation": "A2-simsiam", "generated": "expert", "batchnorm": "separate"},
    "streamed": {"memory_bytes": 0},
}
STATEFUL = (
    {"objective": "moco", "queue_size": 19, "key_groups": 2, "symmetric": True},
    {"objective": "byol"},
    {"objective": "infonce", "assimilation": "none", "generated": "color"},
)


def contents(folder: Path) -> tuple[dict[str, bytes], str]:
    """Return what a run came to: weights, the rest of the state, metrics."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["trainer"]
    weights = load_file(folder / "last.safetensors")
    best = load_file(folder / "best.safetensors")
    tensors = {f"last {name}": value for name, value in weights.items()}
    tensors |= {f"best {name}": value for name, value in best.items()}
    tensors |= dict(flatten(state))
    return {
        name: value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
        for name, value in tensors.items()
    }, (folder / "metrics.csv").read_text()


def flatten(value, name="state"):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from flatten(part, f"{name}.{key}")
    else:
        yield name, value


def assert_equal_runs(found: Path, expected: Path) -> None:
    (found_parts, found_metrics), (parts, metrics) = contents(found), contents(expected)
    assert found_metrics == metrics
    assert found_parts.keys() == parts.keys()
    assert len(parts) > 100
    assert [name for name in parts if parts[name] != found_parts[name]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_pieces_equals_a_run_in_one(make_tiny_plan, tmp_path, kind):
    plan = make_tiny_plan(out=tmp_path / "whole", **KINDS[kind])
    train_worker(plan, "cpu", checkpoint_seconds=1e9)
    pieces = make_tiny_plan(out=tmp_path / "pieces", **KINDS[kind])
    for stop_after in (3, 5, None):
        torch.manual_seed(stop_after or 0)  # whatever the process drew before must not matter
        train_worker(pieces, "cpu", checkpoint_seconds=1e9, stop_after=stop_after)
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")
    rows = list(csv.DictReader((tmp_path / "whole/metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 3, 5, 7]
    assert [bool(row["knn5_top1"]) for row in rows] == [False, True, False, True]


def test_a_killed_process_loses_nothing(make_tiny_plan, tmp_path):
    """MoCo's queue and target network and BYOL's target network and predictor, both under A2, and the two
    encoders of a colour split.
    """
    specification = importlib.util.spec_from_file_location("killed_trainings", SCRIPT)
    killed = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(killed)
    kinds = {moment: STATEFUL[number % len(STATEFUL)] for number, moment in enumerate(killed.MOMENTS)}

    def make(folder, kind):
        found = make_tiny_plan(out=tmp_path / folder, **kind)
        return dataclasses.replace(found, splitting=splitting_views(found.settings, None))

    plans = {moment: make(moment, kind) for moment, kind in kinds.items()}
    (tmp_path / "plans").write_bytes(pickle.dumps(plans))
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "plans")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for kind in STATEFUL:
        whole = make(kind["objective"], kind)
        train_worker(whole, "cpu", checkpoint_seconds=1e9)
    halves = load_file(tmp_path / "infonce/last.safetensors")
    assert {name.split(".")[1] for name in halves} == {"first", "rest"}
    for moment, step in killed.MOMENTS.items():
        folder = tmp_path / moment
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == step
        train_worker(plans[moment], "cpu", checkpoint_seconds=1e9)
        assert_equal_runs(folder, tmp_path / kinds[moment]["objective"])
        leftovers = [path.name for path in folder.iterdir() if "last-" in path.name or "part" in path.name]
        assert leftovers == []


def test_a_finished_training_is_not_done_again(make_tiny_plan, monkeypatch):
    plan = make_tiny_plan()
    assert train_worker(plan, "cpu") > 0
    before = contents(Path(plan.out))
    monkeypatch.setattr(AssimilationTrainer, "step", None)
    speed = train_worker(plan, "cpu")
    assert speed != speed
    assert contents(Path(plan.out)) == before
    assert open_run(plan.out).complete


def test_another_configuration_is_refused_with_the_difference(make_tiny_plan):
    plan = make_tiny_plan()
    train_worker(plan, "cpu", stop_after=1)
    before = (Path(plan.out) / "config.json").read_text()
    with pytest.raises(CacheMismatchError, match=r"(?s)alpha.*--overwrite") as error:
        train_worker(make_tiny_plan(alpha=0.9), "cpu")
    assert error.value.exit_code == 3
    assert (Path(plan.out) / "config.json").read_text() == before


def test_weights_of_another_step_are_refused(make_tiny_plan):
    plan = make_tiny_plan()
    train_worker(plan, "cpu", stop_after=2)
    (Path(plan.out) / "last.safetensors").unlink()
    with pytest.raises(CorruptDataError, match="step 2 without its weights"):
        train_worker(plan, "cpu")


def test_a_loss_that_is_not_finite_stops_and_names_the_images(make_tiny_plan, monkeypatch):
    plan = make_tiny_plan()
    views = AssimilationTrainer._scored_views

    def poisoned(self, batch):
        made, scores = views(self, batch)
        if batch.draws.step == 3:
            made[0, 0, 0, 0, 0] = torch.nan
        return made, scores

    monkeypatch.setattr(AssimilationTrainer, "_scored_views", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"loss is nan at step 3 \(.*diverged\.json") as error:
        train_worker(plan, "cpu", checkpoint_seconds=-1.0)
    assert "Lower the learning rate" in str(error.value)
    document = json.loads((Path(plan.out) / "diverged.json").read_text())
    expected = build_trainer(plan, World(), torch.device("cpu")).order.rows(3)
    assert document == {"step": 3, "source_index": expected.tolist()}
    assert torch.load(Path(plan.out) / "checkpoint.pt", weights_only=True)["step"] == 3


def test_the_run_folder_holds_what_it_says(make_tiny_plan):
    plan = make_tiny_plan()
    train_worker(plan, "cpu", loggers=("tensorboard",))
    folder = Path(plan.out)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "last.safetensors", "best.safetensors", "metrics.csv", "checkpoint.pt"} <= names
    assert list((folder / "tensorboard").glob("events*"))
    run = open_run(folder)
    assert run.settings == plan.settings
    assert (run.dataset, run.step, run.num_steps) == (plan.dataset, 8, 8)
    assert run.cache == plan.cache
    assert run.encoder(torch.zeros(2, 3, 8, 8)).shape == (2, 8)
    assert open_run(folder, "best").step in (4, 8)
