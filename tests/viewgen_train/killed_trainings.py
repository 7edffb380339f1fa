"""Trainings that are killed at given moments, each in a process of its own.

Usage: killed_trainings.py PLANS, a pickle of moment → plan.
"""

import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from viewgen_train import checkpoints as weights
from viewgen_train import curves
from viewgen_train import loop as session
from viewgen_train.trainer import AssimilationTrainer
from viewgen_train.worker import train_worker

# moment: checkpoint that is left
MOMENTS = {"in a step": 4, "weights written": 4, "half a checkpoint": 4, "weights not settled": 5}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str) -> None:
    """Make the process die at step 5, while the checkpoint after it is made."""
    step, save, settle = AssimilationTrainer.step, torch.save, weights.settle_weights

    def fatal_step(self: Any, number: int) -> Any:
        values = step(self, number)
        if number == 4 and moment == "in a step":
            die()
        return values

    def fatal_save(state: Any, file: Any) -> None:
        if state["step"] == 5 and moment == "weights written":
            die()
        if state["step"] == 5 and moment == "half a checkpoint":
            file.write(b"half")
            file.flush()
            die()
        save(state, file)

    def fatal_settle(folder: Path, number: int) -> None:
        if number == 5 and moment == "weights not settled":
            die()
        settle(folder, number)

    AssimilationTrainer.step = fatal_step  # type: ignore[method-assign]
    session.torch.save = fatal_save
    sys.modules["viewgen_train.trainer"].settle_weights = fatal_settle  # type: ignore[attr-defined]


if __name__ == "__main__":
    # once, rather than in every process
    import torch._dynamo
    import torch.utils.tensorboard.writer

    torch.set_num_threads(1)
    curves.draw_curves = lambda *_: None
    for moment, plan in pickle.loads(Path(sys.argv[1]).read_bytes()).items():
        child = os.fork()
        if not child:
            arm(moment)
            train_worker(plan, "cpu", checkpoint_seconds=-1.0)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), moment
        assert os.WTERMSIG(status) == signal.SIGKILL, moment
