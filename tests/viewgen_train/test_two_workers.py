"""A training on two Ray Train workers on the processor, one of which dies."""

import csv
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray import cloudpickle
from safetensors.torch import load_file

from viewgen.errors import UsageError
from viewgen_train import training
from viewgen_train.distributed import World
from viewgen_train.launch import distribute
from viewgen_train.training import train
from viewgen_train.worker import train_worker

# workers cannot import this file
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SETTINGS = {
    "generated": "expert",
    "width": 2,
    "projection_dim": 4,
    "batch_size": 8,
    "epochs": 3,
    # small steps: rounding grows by a factor of ten each time a network this narrow takes a large one
    "learning_rate": 0.001,
    "warm_up_epochs": 0.0,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("test", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def losses(run: Path) -> list[float]:
    with open(run / "metrics.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def dying_worker(plan, device, *, checkpoint_seconds):
    """Train as ever, but rank 1 dies once, at step 3; draw no curves, which takes longer than training."""
    from viewgen_train import trainer, worker

    marker = Path(plan.out) / "died"
    step = trainer.AssimilationTrainer.step

    def dying_step(self, number):
        if number == 3 and World.current() == World(1, 2) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number)

    trainer.AssimilationTrainer.step = dying_step
    worker.CurveWriter = lambda _: None
    return train_worker(plan, device, checkpoint_seconds=checkpoint_seconds)


@pytest.mark.usefixtures("shared_ray")
def test_two_workers_are_one_even_if_one_dies(pictures, tmp_path, monkeypatch, capfd):
    """Losses and weights differ by the rounding of sums in another order, through the killed worker too."""
    options = {"settings": SETTINGS, "data_root": str(tmp_path / "data"), "evaluate": False}
    options["checkpoint_seconds"] = 0.0
    alone = train(f"folder:{pictures}", out=str(tmp_path / "alone"), **options)
    monkeypatch.setattr(training, "train_worker", dying_worker)
    capfd.readouterr()
    both = train(f"folder:{pictures}", out=str(tmp_path / "both"), workers=2, **options)
    out, error = capfd.readouterr()
    assert (tmp_path / "both/died").exists()
    assert losses(tmp_path / "alone") == pytest.approx(losses(tmp_path / "both"), rel=1e-4)
    assert len(losses(tmp_path / "both")) == 3
    assert both.loss == pytest.approx(alone.loss, rel=1e-4)
    weights = [load_file(tmp_path / run / "last.safetensors") for run in ("alone", "both")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    # the user hears of the death, and nothing from Ray
    assert out == ""
    assert "a worker died; starting all again from the last checkpoint (1 of 3 restarts)" in error
    assert "ray" not in error.lower().replace("array", "")
    assert not (tmp_path / "both/.ray-train").exists()


@pytest.mark.usefixtures("shared_ray")
def test_workers_that_ray_would_wait_for_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"1000 workers were asked for, but Ray sees \d+ GPUs"):
        distribute(train_worker, {}, num_workers=1000, folder=tmp_path, use_gpu=True)
    with pytest.raises(UsageError, match=r"1000 workers were asked for, but Ray sees \d+ processor cores"):
        distribute(train_worker, {}, num_workers=1000, folder=tmp_path)
