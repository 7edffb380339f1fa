"""An objective with state of its own: a queue that grows by its outputs, and a decoder that trains."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from viewgen.settings import Settings, setting
from viewgen_train.distributed import World
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")


class QueueSettings(Settings):
    title = "queue"

    weight: float = setting(0.1, "weight of the reconstruction", ge=0)


class Queue(nn.Module):
    """Two views drawn together, away from the last step's, with a linear decoder of the features."""

    num_expert, num_generated = 0, 2
    head = Head(momentum=0.5)

    def __init__(self, settings: QueueSettings) -> None:
        super().__init__()
        self.weight = settings.weight
        self.register_buffer("keys", torch.zeros(8, 8))
        self.decoder = nn.Linear(32, 3)
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        assert out.target is not None
        assert out.features is not None
        assert out.images is not None
        pull = -(out.z[0] * out.target[1]).sum(dim=1).mean()
        push = (out.z[0] @ self.keys.T).mean()
        reconstruction = (self.decoder(out.features[0]) - out.images.mean(dim=(2, 3))).square().mean()
        return {"loss": pull + push + self.weight * reconstruction, "reconstruction": reconstruction}

    def after_step(self, out: Outputs) -> None:
        assert not out.z.requires_grad
        self.keys.copy_(out.z[0])


@pytest.fixture
def _queue(monkeypatch):
    entry = ObjectiveEntry(
        name="queue",
        summary="a queue and a decoder",
        settings=QueueSettings,
        build=Queue,
        needs=frozenset({"features", "images"}),
    )
    monkeypatch.setitem(OBJECTIVES._registered, "queue", entry)


GIVEN = {"assimilation": "none", "objective": "queue", "objective.weight": 0.3}


@pytest.mark.usefixtures("_queue")
def test_a_run_in_pieces_equals_a_run_in_one(make_tiny_plan, tmp_path):
    plans = [make_tiny_plan(out=tmp_path / name, **GIVEN) for name in ("whole", "pieces")]
    train_worker(plans[0], "cpu", checkpoint_seconds=1e9)
    for stop_after in (1, 4, None):
        train_worker(plans[1], "cpu", checkpoint_seconds=1e9, stop_after=stop_after)
    states = [torch.load(Path(plan.out) / "checkpoint.pt", weights_only=True)["trainer"] for plan in plans]
    metrics = [(Path(plan.out) / "metrics.csv").read_text() for plan in plans]
    assert metrics[0] == metrics[1]
    assert "reconstruction" in metrics[0].splitlines()[0]
    for part in ("objective", "target"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    assert float(states[0]["objective"]["keys"].abs().sum()) > 0
    assert float(states[0]["objective"]["decoder.weight"].abs().sum()) > 0, "its own weights train"


@pytest.mark.usefixtures("_queue")
def test_the_target_follows_the_encoder(make_tiny_plan):
    trainer = build_trainer(make_tiny_plan(**GIVEN), World(), torch.device("cpu"))
    network = trainer.network
    before = [parameter.clone() for parameter in network.target.parameters()]
    trainer.step(0)
    for old, slow, fast in zip(
        before, network.target.parameters(), network.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(slow, (old + fast) / 2)
    assert not any(parameter.requires_grad for parameter in network.target.parameters())


def test_a_built_in_objective_leaves_nothing_in_the_checkpoint(make_tiny_plan):
    trainer = build_trainer(make_tiny_plan(), World(), torch.device("cpu"))
    assert trainer.state().keys() == {"step", "optimiser", "predictor", "generated", "best"}
