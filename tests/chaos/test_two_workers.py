"""A training on two Ray Train workers on the processor."""

import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from viewgen.errors import UsageError
from viewgen_train import training
from viewgen_train.launch import distribute
from viewgen_train.worker import train_worker

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_train"))

from two_workers import assert_equal_runs, run, write_pictures

# workers cannot import this file
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def worker_without_curves(plan, device, **options):
    """Train as ever, but draw no curves, which takes longer than training."""
    from viewgen_train import worker

    worker.CurveWriter = lambda *_: None
    return train_worker(plan, device, **options)


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("shared_ray")
def test_two_workers_are_one(tmp_path, monkeypatch, capfd):
    write_pictures(tmp_path / "pictures")
    alone = run(tmp_path, "alone")
    monkeypatch.setattr(training, "train_worker", worker_without_curves)
    capfd.readouterr()
    both = run(tmp_path, "both", workers=2)
    out, error = capfd.readouterr()
    assert_equal_runs(tmp_path / "alone", tmp_path / "both")
    assert both == pytest.approx(alone, rel=1e-4)
    # the user hears nothing from Ray
    assert out == ""
    assert "ray" not in error.lower().replace("array", "")
    assert not Path(tmp_path / "both/.ray-train").exists()


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("shared_ray")
def test_workers_that_ray_would_wait_for_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"1000 workers were asked for, but Ray sees \d+ GPUs"):
        distribute(train_worker, {}, num_workers=1000, folder=tmp_path, use_gpu=True)
    with pytest.raises(UsageError, match=r"1000 workers were asked for, but Ray sees \d+ processor cores"):
        distribute(train_worker, {}, num_workers=1000, folder=tmp_path)
