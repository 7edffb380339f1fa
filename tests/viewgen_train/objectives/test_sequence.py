"""The sequence loss against a loop, and a training on moving digits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from viewgen.datasets import load_dataset
from viewgen.datasets.moving_digits import NUM_CLIPS
from viewgen.diagnostics.mutual_information import MIConfig
from viewgen.diagnostics.mutual_information.estimate import bootstrap
from viewgen.diagnostics.mutual_information.infonce import InfoNCE
from viewgen.errors import CorruptDataError, DataError, UsageError
from viewgen.randomness import addressed_generator
from viewgen.views.draws import ImageDraws
from viewgen.views.moving_digits import MovingDigitsSource
from viewgen.views.source import Images
from viewgen_train.cost import estimate
from viewgen_train.distributed import World
from viewgen_train.evaluate import evaluate
from viewgen_train.held_out import held_out_i_nce, trained_objective
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.objectives.objective import Outputs, Widths
from viewgen_train.objectives.sequence import Sequence, SequenceSettings
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.run import open_run
from viewgen_train.testing import ObjectiveContract
from viewgen_train.worker import build_trainer, train_worker

NAME = "moving-digits:digits?digits=digits"
SETTINGS = {
    "assimilation": "none",
    "generated": "moving-digits",
    "objective": "sequence",
    "backbone": "convnet",
    "network.width": 2,
    "projection_dim": 8,
    "batch_size": 8,
    "epochs": 1,
    "learning_rate": 0.03,
    "warm_up_epochs": 0.0,
    "knn_every": 0,
    "precision": "float32",
}


class TestSequence(ObjectiveContract):
    entry = OBJECTIVES.entry("sequence")


def test_the_loss_is_that_of_a_loop():
    torch.manual_seed(0)
    sequence = Sequence(SequenceSettings(num_frames=3, hidden=6, temperature=0.2))
    sequence.allocate(Widths(features=5, projections=4))
    features = torch.randn(4, 7, 5)
    z = torch.nn.functional.normalize(torch.randn(4, 7, 4), dim=2)
    clips = []
    for image in range(7):
        h = c = torch.zeros(1, 6)
        cell = torch.nn.LSTMCell(5, 6)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(cell, name, getattr(sequence.lstm, f"{name}_l0"))
        for frame in range(3):
            h, c = cell(features[frame, image : image + 1], (h, c))
        clip = sequence.projector(h[0])
        clips.append(clip / clip.norm())
    logits = torch.stack(clips) @ z[3].T / 0.2
    expected = -(logits.log_softmax(0).diagonal() + logits.log_softmax(1).diagonal()).mean() / 2
    torch.testing.assert_close(sequence.loss(Outputs(z=z, features=features))["loss"], expected)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(NUM_CLIPS, "train", 40)
    monkeypatch.setitem(NUM_CLIPS, "test", 12)


def options(tmp_path, dataset=NAME, **settings):
    return TrainOptions(
        dataset=dataset, settings=SETTINGS | settings, out=str(tmp_path / "run"), device="cpu"
    )


def held_out_of_a_loop(run, state, test):
    """Return I_NCE of 8 of 12 clips in random order, and the images that share two factors with them."""
    sequence = Sequence(SequenceSettings())
    sequence.allocate(Widths(features=16, projections=8))
    sequence.load_state_dict(state)
    order = torch.randperm(12, generator=addressed_generator(0, "held-out i_nce"))
    pixels = torch.from_numpy(test.images(order.numpy()))
    source = MovingDigitsSource(run.settings.views.settings, test.pixels)
    views = source.views(Images(pixels=pixels, source_index=order, draws=ImageDraws(0, order)), 11).model
    run.encoder.eval()
    with torch.no_grad():
        clips = sequence.clip(torch.stack([run.encoder.embed(frames) for frames in views[:10]]))
        logits = (clips @ run.encoder(views[10]).T).double() / 0.1
    config = MIConfig()
    bound = bootstrap(InfoNCE(8), [logits[None]], config, 0)
    return {
        "nats": pytest.approx(bound.nats, abs=1e-5),
        "low": pytest.approx(bound.low, abs=1e-5),
        "high": pytest.approx(bound.high, abs=1e-5),
        "ceiling": pytest.approx(math.log(8), abs=1e-5),
        "saturated": bound.saturated,
        "candidates": 8,
        "images": 8,
    }


@pytest.mark.usefixtures("few", "_no_pictures")
def test_a_training_on_clips_is_read_out_on_images(tmp_path):
    plan = make_plan(options(tmp_path, **{"views.share": "digit,position"}))
    assert plan.settings.assimilation.transform == "none"
    trainer = build_trainer(plan, World(), torch.device("cpu"))
    before = [value.clone() for value in trainer._module.parameters()]
    metrics = trainer.step(0)
    assert float(metrics["i_nce"]) == pytest.approx(math.log(8) - float(metrics["loss"]), abs=1e-5)
    after = list(trainer._module.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert trainer.network.encoder.embedding_dim == 16
    train_worker(plan, "cpu", checkpoint_seconds=1e9)
    found = evaluate(plan.out, settings={"epochs": 1, "num_seeds": 1}, device="cpu")
    assert set(found["attributes"]) == {"digit", "background"}
    assert set(found["reals"]) == {"x", "y"}
    assert np.isfinite(found["distance"])
    test = load_dataset(NAME, "test")
    run, state = open_run(plan.out), trained_objective(Path(plan.out), plan.settings)
    assert found["i_nce"] == held_out_of_a_loop(run, state, test) | {"training": found["i_nce_training"]}
    assert held_out_i_nce(run.settings, run.encoder, test) is None, "a clip needs the LSTM"
    contents = bytearray((checkpoint := Path(plan.out, "checkpoint.pt")).read_bytes())
    contents[len(contents) // 2] ^= 1
    checkpoint.write_bytes(contents)
    with pytest.raises(CorruptDataError, match=r"checkpoint\.pt cannot be read"):
        trained_objective(Path(plan.out), plan.settings)
    checkpoint.unlink()
    assert trained_objective(Path(plan.out), plan.settings) is None
    assert math.isfinite(found["i_nce_training"])
    cost = estimate(plan.settings, num_images=40, image_size=64, device="cpu")
    assert cost.without == "rendering the frames of clips"


@pytest.mark.usefixtures("few")
def test_what_does_not_fit_clips_is_refused(tmp_path):
    with pytest.raises(UsageError, match="transform is 'flip', which would move each frame"):
        make_plan(options(tmp_path, transform="flip"))
    with pytest.raises(UsageError, match=r"moving-digits makes 11 views of an image.*takes 2 generated ones"):
        make_plan(options(tmp_path, objective="infonce"))
    with pytest.raises(DataError, match="digits has none"):
        make_plan(options(tmp_path, dataset="digits"))
