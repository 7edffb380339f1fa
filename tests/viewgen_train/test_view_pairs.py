"""Trainings on built-in view pairs, in the step and from a cache; I_NCE of their views."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.datasets import load_dataset
from viewgen.diagnostics.subjects import SubjectArguments
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import read_header, save_model
from viewgen.networks.flow import Flow, FlowConfig
from viewgen.randomness import addressed_generator
from viewgen.store import CacheReader
from viewgen.views.branched import load_image_encoder
from viewgen_pipelines.cache import cache
from viewgen_train.distributed import World
from viewgen_train.dry_run import describe
from viewgen_train.evaluate import evaluate
from viewgen_train.held_out import held_out_i_nce, training_ceiling
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.run import open_run
from viewgen_train.training import train
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")
SETTINGS = {
    "assimilation": "none",
    "objective": "infonce",
    "temperature": 0.2,
    "network.width": 2,
    "projection_dim": 8,
    "batch_size": 8,
    "epochs": 2,
    "learning_rate": 0.05,
    "warm_up_epochs": 0.0,
    "knn_every": 0,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def colored(tmp_path_factory):
    """A folder of 16-px pictures of two classes, in colour; its name and the data root."""
    folder = tmp_path_factory.mktemp("colored")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 10)):
        for label, colour in (("red", (200, 40, 40)), ("blue", (30, 60, 210))):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + random.integers(-60, 60, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{number}.png")
    return f"folder:{folder}", str(tmp_path_factory.mktemp("colored-root"))


@pytest.fixture(scope="module")
def plan(colored, tmp_path_factory):
    def make(url=None, **settings):
        return make_plan(
            TrainOptions(
                dataset=colored[0],
                settings=SETTINGS | settings,
                cache=url,
                out=str(tmp_path_factory.mktemp("runs") / "run"),
                data_root=colored[1],
                device="cpu",
            )
        )

    return make


def test_a_colour_split_is_trained_with_recorded_statistics(plan, colored):
    found = plan(generated="color", space="YDbDr", transform="flip")
    mean, deviation = found.settings.views.settings.mean, found.settings.views.settings.deviation
    assert found.document()["config"]["views"]["settings"]["mean"] == list(mean)
    assert all(value > 0 for value in deviation)
    train_worker(found, "cpu", checkpoint_seconds=1e9)
    note = read_header(Path(found.out) / "last.safetensors")["views"]
    assert (note["name"], note["settings"]["deviation"]) == ("color", list(deviation))
    encoder = load_image_encoder(Path(found.out) / "last.safetensors")
    assert [encoder.branches[role].config.in_channels for role in ("first", "rest")] == [1, 2]
    rows = [*csv.DictReader((Path(found.out) / "metrics.csv").read_text().splitlines())]
    for row in rows:
        assert float(row["i_nce"]) == pytest.approx(math.log(8) - float(row["loss"]), abs=1e-5)
    document = evaluate(found.out, settings={"epochs": 1, "num_seeds": 1}, data_root=colored[1], device="cpu")
    i_nce = document["i_nce"]
    assert i_nce["ceiling"] == pytest.approx(math.log(8), abs=1e-6)
    assert (i_nce["candidates"], i_nce["images"]) == (8, 16), "whole batches"
    assert i_nce["low"] <= i_nce["nats"] <= i_nce["high"]
    assert i_nce["training"] == pytest.approx(float(rows[-1]["i_nce"]), abs=1e-6)
    assert document["i_nce_training"] == i_nce["training"]
    pair = SubjectArguments(kind="training", subject=found.out, data_root=colored[1]).open().pairs[-1]
    x, y = pair.views.draw(np.arange(4), 0, 0)
    assert (pair.title, x.shape[1], y.shape[1]) == ("first, rest", 1, 2)
    again = plan(generated="color", space="YDbDr", transform="flip")
    assert again.settings == found.settings


def test_held_out_i_nce_is_that_of_a_loop(plan, colored):
    """Without a transform: the mean over whole batches of ln K minus the loss, both ways."""
    found = plan(generated="frequency", transform="none", **{"views.sigma": 0.8})
    train_worker(found, "cpu", checkpoint_seconds=1e9)
    run = open_run(found.out)
    test = load_dataset(colored[0], "test", data_root=colored[1])
    value = held_out_i_nce(run.settings, run.encoder, test)
    views = found.splitting.build(None).views(
        type("Batch", (), {"pixels": torch.from_numpy(test.images(range(20)))})(), 2
    )
    with torch.no_grad():
        low, high = (
            torch.nn.functional.normalize(run.encoder.branches[role].project(view), dim=1)
            for role, view in zip(("low", "high"), views.pixels, strict=True)
        )
    order = torch.randperm(20, generator=addressed_generator(0, "held-out i_nce"))
    total = []
    for rows in (order[:8], order[8:16]):
        logits = low[rows] @ high[rows].T / 0.2
        for side in (logits, logits.T):
            total += (math.log(8) + side.log_softmax(dim=1).diagonal()).tolist()
    assert value["nats"] == pytest.approx(np.mean(total), abs=1e-4)


class ByColor(Encoder):
    """An encoder that knows red from blue and nothing else."""

    def forward(self, images):
        side = (images[:, 0] - images[:, 2]).mean(dim=(1, 2)).sign()
        return torch.stack([side, torch.zeros_like(side)], dim=1)


def test_held_out_batches_mix_the_classes_of_a_sorted_data_set(plan, colored):
    """Two classes, half and half: each draw of 8 tells about ln 2 minus what so few candidates lose."""
    found = plan(generated="original", transform="none")
    network = build_trainer(found, World(), torch.device("cpu")).network.encoder
    test = load_dataset(colored[0], "test", data_root=colored[1])
    assert sorted(test.targets) == test.targets.tolist()
    settings = found.settings.change("optimiser", batch_size=5)
    value = held_out_i_nce(settings, ByColor(network.config), test)
    assert value["nats"] > 0.2, "batches of one class would have 0"
    assert value["images"] == 20


@pytest.mark.parametrize(
    ("settings", "candidates"), [({"objective": "simclr"}, 15), ({"objective": "moco", "queue_size": 16,
     "key_batchnorm": "whole"}, 17)]
)  # fmt: skip
def test_the_candidates_of_other_objectives(plan, settings, candidates):
    found = plan(generated="expert", **settings)
    trainer = build_trainer(found, World(), torch.device("cpu"))
    metrics = trainer.step(0)
    assert float(metrics["i_nce"]) == pytest.approx(math.log(candidates) - float(metrics["loss"]), abs=1e-5)
    value = held_out_i_nce(found.settings, trainer.network.encoder, trainer._knn.test)
    assert value["candidates"] == 8


@pytest.mark.parametrize("changed", [{"ifm_epsilon": 0.1}, {"hardness": 1.0}])
def test_changed_negatives_are_measured_as_infonce_alone(plan, changed):
    """The training's own loss is another, and no I_NCE of it is logged."""
    plain, found = (plan(generated="expert", objective="infonce", **one) for one in ({}, changed))
    trainer = build_trainer(found, World(), torch.device("cpu"))
    assert "i_nce" not in trainer.step(0)
    encoder, test = trainer.network.encoder, trainer._knn.test
    assert held_out_i_nce(found.settings, encoder, test) == held_out_i_nce(plain.settings, encoder, test)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"objective": "simsiam"}, "no negatives"),
        ({"assimilation": "A2", "objective": "infonce"}, "a term of its own"),
        ({"assimilation": "A1", "objective": "infonce", "ifm_epsilon": 0.1}, "another loss"),
    ],
)
def test_other_trainings_have_no_i_nce(plan, settings, reason):
    given = {"generated": "expert"} | settings
    if settings["objective"] == "simsiam":
        found = make_plan_without(plan, "temperature", **given)
    else:
        found = plan(**given)
    trainer = build_trainer(found, World(), torch.device("cpu"))
    assert "i_nce" not in trainer.step(0)
    assert held_out_i_nce(found.settings, trainer.network.encoder, trainer._knn.test) is None, reason


def test_a1_has_the_value_of_its_training_alone(plan):
    found = plan(assimilation="A1", generated="expert", objective="infonce", views_per_step=2)
    trainer = build_trainer(found, World(), torch.device("cpu"))
    metrics = trainer.step(0)
    assert float(metrics["i_nce"]) == pytest.approx(math.log(8) - float(metrics["loss"]), abs=1e-5)
    assert training_ceiling(found.settings) == pytest.approx(math.log(8))
    assert held_out_i_nce(found.settings, trainer.network.encoder, trainer._knn.test) is None


def make_plan_without(plan, name, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(SETTINGS, name)
        return plan(**settings)


def test_patches_train_an_encoder_of_their_size(plan, colored, tmp_path):
    found = plan(generated="patches", distance=5, size=8, transform="flip")
    assert (found.view_size, found.settings.views.settings.size) == (8, 8)
    trainer = build_trainer(found, World(), torch.device("cpu"))
    assert trainer.network.encoder.config.image_size == 8
    assert trainer.views(trainer.batch(0)).shape == (2, 8, 3, 8, 8)
    train_worker(found, "cpu", checkpoint_seconds=1e9)
    assert held_out_i_nce(
        found.settings, open_run(found.out).encoder, load_dataset(*colored[:1], "test", data_root=colored[1])
    )
    url = str(tmp_path / "patches.zarr")
    cache(
        colored[0],
        method="patches",
        distance=5,
        size=8,
        out=url,
        executor="local",
        data_root=colored[1],
        quiet=True,
    )
    assert (CacheReader(url).spec.height, CacheReader(url).spec.num_views) == (8, 2)
    cached = plan(url=url, generated="cache")
    assert cached.view_size == 8
    trainer = build_trainer(cached, World(), torch.device("cpu"))
    assert trainer.views(trainer.batch(0)).shape == (2, 8, 3, 8, 8)
    pairs = SubjectArguments(kind="cache", subject=url, data_root=colored[1]).open().pairs
    assert [(pair.x, pair.y) for pair in pairs][1:] == [("patches 1", "patches 2")]
    assert cached.settings.assimilation.transform == "flip"
    for given in ({"generated": "patches"}, {"url": url, "generated": "cache"}):
        for kind in ("A1", "A2"):
            with pytest.raises(UsageError, match=r"patches makes 2 views.*give --assimilation none"):
                plan(**given, assimilation=kind)


def test_patches_are_flipped_together(plan, colored, tmp_path):
    url = str(tmp_path / "patches.zarr")
    cache(
        colored[0], method="patches", distance=0, size=8, out=url, executor="local", data_root=colored[1],
        quiet=True,
    )  # fmt: skip
    for found in (plan(generated="patches", distance=0, size=8), plan(url=url, generated="cache")):
        trainer = build_trainer(found, World(), torch.device("cpu"))
        images = trainer.batch(0)
        first, second = trainer.views(images)
        assert torch.equal(first, second)
        assert not torch.equal(first, trainer.generated.source.views(images, 2).model[0]), "some are flipped"


def test_a_training_on_patches_ends_without_a_readout(colored, tmp_path):
    result = train(
        colored[0],
        settings=SETTINGS | {"generated": "patches", "size": 8, "epochs": 1},
        out=str(tmp_path / "run"),
        data_root=colored[1],
        device="cpu",
        loggers=(),
        quiet=True,
    )
    assert math.isnan(result.top1)
    assert not (tmp_path / "run/evaluation.json").exists()


def test_a_cached_colour_split_is_drawn_and_measured_by_role(colored, tmp_path):
    url = str(tmp_path / "color.zarr")
    found = cache(
        colored[0], method="color", space="Lab", out=url, executor="local", data_root=colored[1], quiet=True
    )
    spec = CacheReader(url).spec
    assert len(spec.config["mean"]) == 3
    assert Path(found.contact_sheet).is_file()
    pair = SubjectArguments(kind="cache", subject=url, data_root=colored[1]).open().pairs[1]
    x, y = pair.views.draw(np.arange(4), 0, 0)
    assert (x.shape[1], y.shape[1]) == (1, 2)


def test_learned_views_are_trained_on_and_cached_without_their_file(plan, colored, tmp_path):
    path = tmp_path / "flow.safetensors"
    save_model(Flow(FlowConfig(image_size=16, space="YDbDr", hidden=2)), path)
    given = {"generated": "flow", "views.file": str(path), "transform": "flip"}
    found = plan(**given)
    url = str(tmp_path / "flow.zarr")
    cache(
        colored[0], method="flow", file=str(path), out=url, executor="local", data_root=colored[1], quiet=True
    )  # fmt: skip
    path.unlink()
    train_worker(found, "cpu", checkpoint_seconds=1e9)
    encoder = load_image_encoder(Path(found.out) / "last.safetensors")
    assert [encoder.branches[role].config.in_channels for role in ("first", "rest")] == [1, 2]
    test = load_dataset(colored[0], "test", data_root=colored[1])
    features = encoder.embed(to_model(test.images(range(3))))
    assert features.shape == (3, encoder.embedding_dim)
    assert held_out_i_nce(open_run(found.out).settings, encoder, test)["images"] == 16
    spec = CacheReader(url).spec
    assert spec.config["deviation"] == list(found.settings.views.settings.deviation)
    assert not {"file", "models"} & {name for name, value in spec.config.items() if value is not None}
    assert spec.models == {}
    trainer = build_trainer(plan(url=url, generated="cache"), World(), torch.device("cpu"))
    assert trainer.views(trainer.batch(0)).shape == (2, 8, 3, 16, 16)
    with pytest.raises(MissingFileError, match="given as the flow"):
        describe(colored[0], device="cpu", settings=SETTINGS | given, data_root=colored[1])


def test_refused_before_a_step(plan, colored):
    with pytest.raises(UsageError, match="at most 8 px apart"):
        plan(generated="patches", distance=9, size=8)
    with pytest.raises(UsageError, match="takes images of 24 px"):
        plan(generated="jigsaw")
    with pytest.raises(DataError, match="is the same in all pixels of digits"):
        make_plan(TrainOptions(dataset="digits", settings=SETTINGS | {"generated": "color"}, device="cpu"))
    cost = describe(
        colored[0], device="cpu", settings=SETTINGS | {"generated": "color"}, data_root=colored[1]
    )
    assert cost.estimate.seconds > 0


def test_a_dry_run_of_one_attribute_needs_no_data():
    given = {name: value for name, value in SETTINGS.items() if name != "temperature"}
    given |= {"objective": "supervised", "attribute": "color", "epochs": 1}
    found = describe("trifeature:16", device="cpu", settings=given)
    assert found.estimate.seconds > 0
