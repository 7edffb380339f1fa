"""Experiments on two classes of 8-px pictures, with caches that need no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viewgen_train.experiment import ExperimentResult, experiment

TOY = """
[experiment]
baseline = "plain"
seeds = [0, 1]
threads = 1

[train]
width = 2
projection_dim = 4
batch_size = 8
epochs = 2
warm_up_epochs = 0.0
learning_rate = 0.05
knn_every = 1
precision = "float32"

[measure]
quality = false
probe = {epochs = 2}

[caches.same]
method = "original"
views = 2

[rows.plain]
label = "SimCLR"
train = {assimilation = "none"}

[rows.a2]
label = "A2"
cache = "same"
train = {assimilation = "A2"}

[rows.a2.grid]
"train.alpha" = [0.25, 0.5]

[[questions]]
ask = "Is it more?"
row = "a2[alpha=0.5]"
against = "plain"
"""


@pytest.fixture
def toy(tmp_path: Path, tiny: Any) -> Path:
    """The file of an experiment of six trainings."""
    path = tmp_path / "toy.toml"
    path.write_text(TOY.replace("[experiment]", f'[experiment]\ndataset = "{tiny.name}"'))
    return path


@pytest.fixture
def run_toy(toy: Path, tiny_root: str, tmp_path: Path) -> Callable[..., ExperimentResult]:
    """Return a function (text of the file, **options) → result of the experiment."""

    def run(text: str | None = None, **options: Any) -> Any:
        if text is not None:
            toy.write_text(text)
        given = {"out": str(tmp_path / "results"), "executor": "local", "quiet": True, "data_root": tiny_root}
        return experiment(str(toy), **(given | options))

    return run
