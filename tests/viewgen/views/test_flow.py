"""Views under a flow: its channels, the recorded weights and statistics, refusals."""

import numpy as np
import pytest
import torch
from image_dataset import dataset_of
from random_flow import write_flow

from viewgen.diagnostics.mutual_information.views import source_pair
from viewgen.errors import CorruptDataError, DataError, MissingFileError, ModelError, UsageError
from viewgen.images import to_model, to_storage
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import load_model, save_model
from viewgen.networks.recorded import packed, unpacked
from viewgen.registry import Choice
from viewgen.store import CacheReader, CacheSpec, open_storage
from viewgen.testing.caches import small_spec, write_random_cache
from viewgen.views import VIEWS
from viewgen.views.color_spaces import from_rgb
from viewgen.views.flow import FlowViewsConfig

ENTRY = VIEWS.entry("flow")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (70, 3, 6, 6)).astype(np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_flow(tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def settings(path, images):
    return ENTRY.fit(FlowViewsConfig(file=str(path)), dataset_of(images))


def batch(images):
    return type("Batch", (), {"pixels": torch.from_numpy(images)})()


def test_views_are_standardised_channels_of_the_flow(settings, path, images):
    flow = load_model(path, "flow")
    x = from_rgb(torch.from_numpy(images).float() / 255, "YDbDr")
    y = flow((x - torch.tensor(flow.config.mean)[:, None, None]) / flow.deviation)
    torch.testing.assert_close(torch.tensor(settings.mean), y.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    views = ENTRY.build(settings, None).views(batch(images), 2).pixels
    assert views.shape == (2, 70, 3, 6, 6)
    mean, deviation = (torch.tensor(one)[:, None, None] for one in (settings.mean, settings.deviation))
    assert torch.equal(views[0], views[1])
    torch.testing.assert_close(views[0], ((y - mean) / (4 * deviation)).clamp(-1, 1), atol=1e-5, rtol=0)


def test_stored_views_give_the_channels_back_to_a_grey_level(settings, path, images):
    """By the recorded mean and deviation, and the inverse of the flow, within the rounding to 8 bits."""
    stored = to_storage(ENTRY.build(settings, None).views(batch(images), 2).pixels[0])
    mean, deviation = (torch.tensor(one)[:, None, None] for one in (settings.mean, settings.deviation))
    channels = mean + settings.span * deviation * to_model(stored)
    flow = load_model(path, "flow")
    rgb = from_rgb(torch.from_numpy(images).float() / 255, "YDbDr")
    exact = flow(flow.normalised(rgb))
    inside = ((exact - mean).abs() < settings.span * deviation).all(dim=1, keepdim=True)
    assert float(inside.float().mean()) > 0.95
    step = settings.span * deviation / 255
    assert bool(((channels - exact).abs() <= 1.001 * step)[inside.expand_as(exact)].all())


def test_the_record_needs_the_file_no_longer(settings, path, images, tmp_path):
    moved = write_flow(tmp_path)
    assert ENTRY.fit(FlowViewsConfig(file=str(moved)), dataset_of(images)).record() == settings.record()
    assert "file" not in {name: one for name, one in settings.record().items() if one is not None}
    assert settings.to_json()["weights"] is None, "people see the file"
    read = FlowViewsConfig.from_record(settings.record())
    assert ENTRY.fit(read, dataset_of(images)) == read
    views = [ENTRY.build(one, None).views(batch(images), 1).pixels for one in (settings, read)]
    assert torch.equal(*views)
    assert unpacked(packed(path), "flow").config.space == "YDbDr"


def test_the_space_that_a_flow_must_have(settings, path, images):
    """A flow of another is refused; as the flow itself tells its space, no record has it."""
    asked = FlowViewsConfig(file=str(path), space="YDbDr")
    found = ENTRY.fit(asked, dataset_of(images))
    assert found.space == "YDbDr"
    assert found.record() == settings.record()
    assert "space" not in settings.record()
    assert "space" in asked.record(), "of a file that is not read yet it tells what is meant"
    told = r"flow\.safetensors was trained in YDbDr, and flow views in RGB were asked for; name a flow of RGB"
    with pytest.raises(ModelError, match=told):
        ENTRY.fit(asked.replace(space="RGB"), dataset_of(images))
    with pytest.raises(ModelError, match="the recorded flow was trained in YDbDr"):
        ENTRY.fit(settings.replace(file=None, space="Lab"), dataset_of(images))
    assert unpacked(ENTRY.stand_in(FlowViewsConfig(space="HSV")).weights, "flow").config.space == "HSV"


def test_a_pair_of_one_and_two_channels(path, images):
    name, given = VIEWS.parsed(f"flow:{path}")
    choice = VIEWS.resolve(name, "some", given)
    pair = source_pair(choice, dataset_of(images), np.arange(10))
    x, y = pair.views.draw(np.arange(4), 0, 0)
    assert (pair.x, pair.y, x.shape[1], y.shape[1]) == ("first", "rest", 1, 2)


def test_refusals(path, images, settings, tmp_path):
    colored = dataset_of(images)
    with pytest.raises(UsageError, match="flow views need a flow: `viewgen pretrain views"):
        ENTRY.fit(FlowViewsConfig(), colored)
    for use in (ENTRY.check, lambda one: ENTRY.build(one, None)):
        with pytest.raises(UsageError, match="flow views need a flow"):
            use(FlowViewsConfig())
    with pytest.raises(MissingFileError, match="given as the flow"):
        ENTRY.fit(FlowViewsConfig(file=str(tmp_path / "none.safetensors")), colored)
    with pytest.raises(DataError, match="red, green and blue are the same in all pixels of some"):
        ENTRY.fit(FlowViewsConfig(file=str(path)), dataset_of(images[:, :1].repeat(3, axis=1)))
    with pytest.raises(DataError, match="needs images of 3 channels; these have 1"):
        ENTRY.build(settings, None).views(batch(images[:, :1]), 2)
    with pytest.raises(UsageError, match="expected three numbers above 0"):
        ENTRY.build(settings.replace(deviation=(1.0, 0.0, 1.0)), None)
    with pytest.raises(ModelError, match="no base64"):
        unpacked("?", "flow")
    with pytest.raises((ModelError, CorruptDataError)):
        unpacked(packed(path)[:400], "flow")
    encoder = tmp_path / "encoder.safetensors"
    save_model(Encoder(EncoderConfig(image_size=8, backbone="convnet", width=1)), encoder)
    with pytest.raises(ModelError, match="holds a network of kind 'encoder'; a flow is needed"):
        ENTRY.fit(FlowViewsConfig(file=str(encoder)), colored)


def test_a_cost_needs_no_file(images):
    """A flow that is still to be trained is measured by a new one, which changes nothing."""
    settings = ENTRY.stand_in(FlowViewsConfig(file="not/there.safetensors"))
    ENTRY.check(settings)
    views = ENTRY.build(settings, None).views(batch(images), 2).pixels
    torch.testing.assert_close(views[0], torch.from_numpy(images).float() / 255 / 4)
    with pytest.raises(MissingFileError):
        ENTRY.check(FlowViewsConfig(file="not/there.safetensors"))


def test_a_collapsed_channel_is_refused(images, tmp_path):
    path = write_flow(tmp_path, spread=0.0)
    constant = np.full_like(images, 130)
    constant[0, 0, 0, 0] += 1  # not quite grey
    with pytest.raises(DataError, match=r"channel \d of the flow has standard deviation .* below 0.001"):
        ENTRY.fit(FlowViewsConfig(file=str(path)), dataset_of(constant))


def test_a_source_that_is_not_here(settings):
    """Its views cannot be made, and are read: the specification says which channels count."""
    record = Choice(ENTRY, settings).record() | {"name": "flow2"}
    with pytest.raises(UsageError, match="no view method 'flow2'"):
        VIEWS.read(record)
    storage = open_storage("memory://flow2/views.zarr")
    spec = small_spec(method="flow2", config=record["settings"], roles=ENTRY.roles)
    stored = write_random_cache(storage, spec)["views"]
    reader = CacheReader("memory://flow2/views.zarr")
    assert reader.spec.roles == ENTRY.roles
    np.testing.assert_array_equal(reader.views(reader.rows), stored)


def test_a_reader_without_roles_refuses_the_cache(settings):
    """As a version without a key of the specification does: it would take channels for colours."""
    document = small_spec(method="flow", config=settings.record(), roles=ENTRY.roles).to_json()
    document["kinds"] = document.pop("roles")
    with pytest.raises(CorruptDataError, match=r"specification cannot be read: .*kinds"):
        CacheSpec.from_json(document)
