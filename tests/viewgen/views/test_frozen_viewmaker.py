"""Views of a trained Viewmaker: those of its network, the recorded weights, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_dataset import dataset_of
from random_flow import write_flow
from random_viewmaker import write_viewmaker

from viewgen.errors import CorruptDataError, DataError, MissingFileError, ModelError, UsageError
from viewgen.images import to_model
from viewgen.networks.files import load_model
from viewgen.networks.recorded import unpacked
from viewgen.networks.viewmaker import num_noise_channels
from viewgen.views import VIEWS, frozen_viewmaker
from viewgen.views.draws import ImageDraws
from viewgen.views.frozen_viewmaker import FrozenViewmakerConfig
from viewgen.views.source import Images

ENTRY = VIEWS.entry("frozen-viewmaker")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (35, 3, 8, 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_viewmaker(tmp_path_factory.mktemp("viewmaker"))


@pytest.fixture(scope="module")
def settings(path, images):
    return ENTRY.fit(FrozenViewmakerConfig(file=str(path)), dataset_of(images))


def batch(images):
    index = torch.arange(len(images))
    return Images(pixels=torch.from_numpy(images), source_index=index, draws=ImageDraws(5, index))


def test_views_are_those_of_the_network(settings, path, images):
    """Within the rounding of half precision, which normalisation over few pixels magnifies."""
    viewmaker, found = load_model(path, "viewmaker"), batch(images)
    noise = found.draws.uniform("viewmaker", 2, num_noise_channels(), 8, 8)
    views = ENTRY.build(settings, None).views(found, 2).pixels
    assert views.shape == (2, 35, 3, 8, 8)
    for view in range(2):
        expected = viewmaker(to_model(found.pixels), noise[:, view])
        change = (expected - to_model(found.pixels)).abs().mean()
        assert float((views[view] - expected).abs().mean()) < 0.02 * float(change)
    assert not torch.equal(views[0], views[1])
    assert not views.requires_grad


def test_the_record_needs_the_file_no_longer(settings, path, images, tmp_path):
    moved = write_viewmaker(tmp_path)
    for place in (moved, tmp_path):  # the file, and the folder of a run
        assert ENTRY.fit(FrozenViewmakerConfig(file=str(place)), dataset_of(images)).record() == (
            settings.record()
        )
    assert settings.record()["file"] is None
    assert settings.to_json()["weights"] is None, "people see the file"
    read = FrozenViewmakerConfig.from_record(settings.record())
    assert ENTRY.fit(read, dataset_of(images)) == read
    given = FrozenViewmakerConfig(file=str(path))
    made = [ENTRY.build(one, None).views(batch(images), 1).pixels for one in (settings, read, given)]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_the_usual_width_fits_into_a_record_and_twice_as_many_do_not(images, tmp_path, monkeypatch):
    stand_in = ENTRY.stand_in(FrozenViewmakerConfig(file="not/there.safetensors"))
    ENTRY.check(stand_in)
    assert unpacked(stand_in.weights, "viewmaker").config.width == 32
    assert len(stand_in.weights) < frozen_viewmaker.MOST_CHARACTERS
    wide = FrozenViewmakerConfig(file=str(write_viewmaker(tmp_path, width=8)))
    monkeypatch.setattr(frozen_viewmaker, "MOST_CHARACTERS", 100_000)
    with pytest.raises(ModelError, match=r"a Viewmaker of width 8.*at most 100000: train one with a smaller"):
        ENTRY.fit(wide, dataset_of(images))


def test_refusals(path, images, settings, tmp_path):
    colored = dataset_of(images)
    for use in (ENTRY.check, lambda one: ENTRY.build(one, None), lambda one: ENTRY.fit(one, colored)):
        with pytest.raises(UsageError, match="frozen-viewmaker views need a Viewmaker: `viewgen train"):
            use(FrozenViewmakerConfig())
        with pytest.raises(MissingFileError, match="given as the viewmaker"):
            use(FrozenViewmakerConfig(file=str(tmp_path / "none.safetensors")))
        with pytest.raises(MissingFileError, match="writes it when the training ends; run that command"):
            use(FrozenViewmakerConfig(file=str(tmp_path)))
    with pytest.raises(DataError, match="a Viewmaker needs images of 3 channels; these have 1"):
        ENTRY.fit(settings, replace(colored, channels=1))
    with pytest.raises(DataError, match="these have 1"):
        ENTRY.build(settings, None).views(batch(images[:, :1]), 2)
    with pytest.raises(ModelError, match="holds a network of kind 'flow'; a viewmaker is needed"):
        ENTRY.fit(FrozenViewmakerConfig(file=str(write_flow(tmp_path))), colored)
    with pytest.raises(ModelError, match="the recorded weights of a viewmaker are no base64"):
        ENTRY.fit(FrozenViewmakerConfig(weights="?"), colored)
    with pytest.raises((ModelError, CorruptDataError)):
        ENTRY.fit(FrozenViewmakerConfig(weights=settings.weights[:400]), colored)
