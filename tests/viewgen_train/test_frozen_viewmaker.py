"""From the training of a Viewmaker to a cache of its views, their measures, and trainings on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from viewgen.errors import MissingFileError, UsageError
from viewgen.images import to_model
from viewgen.networks.files import load_model, read_header
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.frozen_viewmaker import FrozenViewmakerConfig
from viewgen_pipelines.cache import cache
from viewgen_train.checkpoints import CHECKPOINT, read_checkpoint
from viewgen_train.distributed import World
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.training import _forget
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")

CPU = torch.device("cpu")
ENTRY = VIEWS.entry("frozen-viewmaker")


@pytest.fixture
def run(make_tiny_plan, tmp_path):
    """The plan of a finished training against a Viewmaker of the usual width."""
    plan = make_tiny_plan(
        out=tmp_path / "against", assimilation="A1", generated="viewmaker", transform="none", epochs=1
    )
    train_worker(plan, "cpu", checkpoint_seconds=1e9)
    return plan


def test_a_training_leaves_its_viewmaker(run, tiny):
    """Its views are those of the training, within the rounding of half precision."""
    path = Path(run.out) / "viewmaker.safetensors"
    viewmaker, header = load_model(path, "viewmaker"), read_header(path)
    state = read_checkpoint(Path(run.out) / CHECKPOINT)["trainer"]["generated"]["viewmaker"]
    assert all(torch.equal(value, state[name]) for name, value in viewmaker.state_dict().items())
    assert (header["step"], header["dataset"]) == (2, run.dataset)
    trainer = build_trainer(run, World(), CPU)
    trainer.restore(read_checkpoint(Path(run.out) / CHECKPOINT)["trainer"])
    images = trainer.batch(1)
    with torch.no_grad():
        expected = trainer.generated.source.views(images, 2).pixels
    found = ENTRY.build(ENTRY.fit(FrozenViewmakerConfig(file=run.out), tiny), None).views(images, 2).pixels
    change = (expected - to_model(images.pixels)).abs().mean()
    assert float((found - expected).abs().mean()) < 0.02 * float(change)


def test_the_file_is_written_at_the_end_and_again_where_it_is_missing(make_tiny_plan, run, tmp_path):
    path = Path(run.out) / "viewmaker.safetensors"
    written = path.read_bytes()
    path.unlink()
    train_worker(run, "cpu")
    assert path.read_bytes() == written
    _forget(Path(run.out))
    assert not path.exists()
    unfinished = make_tiny_plan(out=tmp_path / "unfinished", assimilation="A1", generated="viewmaker")
    train_worker(unfinished, "cpu", stop_after=1)
    assert not (tmp_path / "unfinished/viewmaker.safetensors").exists()
    cached = make_tiny_plan(out=tmp_path / "cached", epochs=1)
    train_worker(cached, "cpu")
    assert list((tmp_path / "cached").glob("viewmaker*")) == []


def test_its_views_are_cached_measured_and_trained_on(run, tiny, tiny_root, tmp_path, plan_of):
    name, url, path = tiny.name, str(tmp_path / "views.zarr"), Path(run.out) / "viewmaker.safetensors"
    with pytest.raises(UsageError, match="made in a training step"):
        cache(name, method="viewmaker", out=url, executor="local", data_root=tiny_root, quiet=True)
    given = {"method": "frozen-viewmaker", "file": str(path), "views": 4}
    cache(name, **given, out=url, executor="local", data_root=tiny_root, quiet=True)
    reader = CacheReader(url)
    assert (reader.spec.num_views, reader.spec.models, reader.spec.config["file"]) == (4, {}, None)
    settings = FrozenViewmakerConfig.from_record(reader.spec.config)
    again = str(tmp_path / "again.zarr")
    cache(
        name, method="frozen-viewmaker", file=run.out, views=4, out=again, executor="local",
        data_root=tiny_root, quiet=True,
    )  # fmt: skip
    assert CacheReader(again).spec.identity == reader.spec.identity
    np.testing.assert_array_equal(CacheReader(again).views(reader.rows), reader.views(reader.rows))

    plan, _ = plan_of(dataset=name, cache=url, settings={"assimilation": "A1"}, out=str(tmp_path / "a1"))
    train_worker(plan, "cpu")
    on_the_fly = {"assimilation": "A2", "generated": "frozen-viewmaker", "views.file": str(path)}
    plan, _ = plan_of(dataset=name, settings=on_the_fly, out=str(tmp_path / "a2"))
    path.unlink()
    train_worker(plan, "cpu")
    assert plan.settings.views.settings.weights == settings.weights
    config = json.loads((tmp_path / "a2/config.json").read_text())
    assert config["config"]["views"]["settings"]["file"] is None
    with pytest.raises(MissingFileError, match="given as the viewmaker"):
        make_plan(TrainOptions(dataset=name, data_root=tiny_root, device="cpu", settings=on_the_fly))
