"""Experiments on two classes of 8-px pictures: caches without networks, trainings that are made up."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.measure import Measure
from viewgen_train.experiment import ExperimentResult, experiment
from viewgen_train.experiment.cost import ExperimentCost, TaskCost
from viewgen_train.experiment.results import Record

TOY = """
[experiment]
dataset = "DATASET"
baseline = "plain"
seeds = [0, 1, 2]
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
published = {cifar10 = 92.04}

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
def toy_text(tiny: ImageDataset) -> str:
    """The file of an experiment of three rows."""
    return TOY.replace("DATASET", tiny.name)


@pytest.fixture
def run_toy(
    toy_text: str, tiny_root: str, tmp_path: Path, _no_pictures: None
) -> Callable[..., ExperimentResult]:
    """Return a function (text of the file, **options) → result of the experiment."""

    def run(text: str = toy_text, **options: Any) -> Any:
        path = tmp_path / "toy.toml"
        path.write_text(text)
        given = {"out": str(tmp_path / "results"), "executor": "local", "quiet": True, "data_root": tiny_root}
        return experiment(str(path), **(given | options))

    return run


class MadeUp:
    """Trainings and caches that cost nothing.

    Attributes:
        accuracies: row → accuracy of its seed 0; each further seed has a point more.
        broken: (row, seed) → exception, or a record's status and reason.
        done: names of the tasks that were run, in their order.
    """

    def __init__(self) -> None:
        self.accuracies: dict[str, float] = {"plain": 0.5, "a2[alpha=0.25]": 0.6, "a2[alpha=0.5]": 0.4}
        self.broken: dict[tuple[str, int], Any] = {}
        self.done: list[str] = []

    def train(self, task: Any, place: Any, tell: Callable[[float], object]) -> Record:
        tell(0.5)
        found = self.broken.get((task.name, task.seed))
        if isinstance(found, BaseException):
            raise found
        self.done.append(f"{task.name} {task.seed}")
        status, reason = found or ("finished", "")
        value = self.accuracies.get(task.name, 0.3) + 0.01 * task.seed
        measures = {"top1": value, "knn5_top1": value / 2}
        return Record(
            kind=task.kind,
            name=task.name,
            seed=task.seed,
            status=status,
            reason=reason,
            measures=() if found else tuple(Measure(name=name, value=one) for name, one in measures.items()),
            seconds=1.0,
            identity=task.identity,
            about={"measurements": list(task.diagnostics), "images_per_second": 80.5},
            curves={"knn5_top1": [(1.0, 0.2), (2.0, value / 2)]},
        )

    def cache(self, task: Any, seed: int, tell: Callable[[float], object]) -> Record:
        found = self.broken.get((task.name, seed))
        if isinstance(found, BaseException):
            raise found
        self.done.append(f"cache {task.name}")
        status, reason = found or ("finished", "")
        return Record(
            kind="cache",
            name=task.name,
            seed=seed,
            status=status,
            reason=reason,
            measures=() if found else (Measure(name="label_kept", value=0.9),),
            seconds=1.0,
            identity=task.identity,
            about={
                **{"identity": "sha256:made-up", "method": "original", "num_views": 2},
                "measurements": ["quality"] if task.quality else [],
            },
        )


def free_cost(plan: Any, pending: Mapping[tuple[str, str], int], **_: Any) -> ExperimentCost:
    """Return a second for every task."""
    tasks = [
        TaskCost(kind=kind, name=name, count=count, seconds=1.0, num_bytes=1000)
        for (kind, name), count in pending.items()
    ]
    return ExperimentCost(title="toy", tasks=tuple(tasks), device="cpu", workers=2)


@pytest.fixture
def _free_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the measurement of the cost."""
    for module in ("run", "runner"):
        monkeypatch.setattr(f"viewgen_train.experiment.{module}.measure_cost", free_cost)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, _free_cost: None) -> MadeUp:
    """Replace the work of tasks."""
    found = MadeUp()

    def run_training_task(task: Any, place: Any, tell: Any) -> Record:
        return found.train(task, place, tell)

    monkeypatch.setattr("viewgen_train.experiment.runner.run_training_task", run_training_task)
    monkeypatch.setattr("viewgen_train.experiment.runner.run_cache", found.cache)
    # drawing takes longer than all the rest
    monkeypatch.setattr("viewgen_train.experiment.report.draw_pictures", lambda *_: [])
    return found
