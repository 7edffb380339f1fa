"""A training on two Ray Train workers, one of which dies."""

import os
import signal
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from viewgen_train import training
from viewgen_train.distributed import World
from viewgen_train.worker import train_worker

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_train"))

from two_workers import assert_equal_runs, run, write_pictures

# workers cannot import this file
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def dying_worker(plan, device, **options):
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
    worker.CurveWriter = lambda *_: None
    return train_worker(plan, device, **options)


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.filterwarnings("ignore")  # Ray's own code warns
def test_two_workers_are_one_even_if_one_dies(tmp_path, monkeypatch, capfd):
    write_pictures(tmp_path / "pictures")
    alone = run(tmp_path, "alone")
    monkeypatch.setattr(training, "train_worker", dying_worker)
    capfd.readouterr()
    both = run(tmp_path, "both", workers=2)
    out, error = capfd.readouterr()
    assert (tmp_path / "both/died").exists()
    assert_equal_runs(tmp_path / "alone", tmp_path / "both")
    assert both == pytest.approx(alone, rel=1e-4)
    # the user hears of the death, and nothing from Ray
    assert out == ""
    assert "a worker died; starting all again from the last checkpoint (1 of 3 restarts)" in error
    assert "ray" not in error.lower().replace("array", "")
    assert not (tmp_path / "both/.ray-train").exists()
