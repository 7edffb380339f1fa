"""Further encoders of a search: found by file, recorded by digest, loaded by the worker."""

import numpy as np
import pytest
import torch
from small_networks import save_small_networks

from viewgen.errors import MissingFileError, ModelError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import file_digest, load_models, save_model
from viewgen.networks.weights import find_models
from viewgen.store import CacheReader, open_storage, read_spec
from viewgen_pipelines.cache import cache

BRIEF = {"limit": 2, "views": 2, "max_steps": 2, "invert.max_steps": 1, "executor": "local", "quiet": True}


@pytest.fixture
def other(tmp_path) -> str:
    torch.manual_seed(1)
    path = tmp_path / "other.safetensors"
    save_model(Encoder(EncoderConfig(image_size=32, width=4, projection_dim=8)), path)
    return str(path)


def test_a_further_encoder_takes_part_and_is_known_by_its_digest(other, tmp_path):
    folder = save_small_networks(tmp_path)
    brief = BRIEF | {"models": folder}
    out, alone = str(tmp_path / "both.zarr"), str(tmp_path / "alone.zarr")
    assert cache("digits", out=out, encoders=other, combine="max", **brief).complete
    spec = read_spec(open_storage(out))
    assert spec.config["encoders"] == [file_digest(other)]
    assert spec.models["encoder:2"] == file_digest(other)
    # the distance that is stored is the larger one of both encoders
    paths = find_models("digits", {"generator", "encoder"}, models_dir=folder)
    models = load_models({"encoder": paths["encoder"], "encoder:2": other})
    assert len(models.further_encoders) == 1
    reader = CacheReader(out)
    inversions = CacheReader(str(next(tmp_path.glob("inversions-*.zarr"))))
    distances = []
    for encoder in (models.encoder, *models.further_encoders):
        anchors = encoder(to_model(torch.from_numpy(inversions.views(reader.rows)[:, 0])))
        views = encoder(to_model(torch.from_numpy(reader.views(reader.rows)).flatten(0, 1)))
        distances.append((views.unflatten(0, (2, 2)) - anchors[:, None]).norm(dim=2))
    np.testing.assert_allclose(reader.distance, torch.stack(distances).amax(dim=0).numpy(), atol=1e-4)
    # the same file under another name is the same cache
    assert cache("digits", out=out, encoders=other, combine="max", **brief).complete
    assert cache("digits", out=alone, **brief).complete
    assert "encoder:2" not in read_spec(open_storage(alone)).models


def test_further_encoders_that_do_not_fit_are_refused(other, tmp_path):
    out = str(tmp_path / "c.zarr")
    with pytest.raises(MissingFileError, match="nowhere"):
        cache("digits", out=out, encoders=str(tmp_path / "nowhere"), **BRIEF)
    with pytest.raises(ModelError, match="kind 'generator'; it was given as the encoder"):
        cache("digits", out=out, encoders=str(find_models("digits", {"generator"})["generator"]), **BRIEF)
    with pytest.raises(UsageError, match="encoders is a setting of wsearch"):
        cache("digits", out=out, method="wboundary", encoders=other, limit=2, executor="local", quiet=True)
