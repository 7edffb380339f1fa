"""Frames and distances come from the very networks that made the cache, recognised by their digests."""

import numpy as np
import pytest
import torch

from viewgen.networks.batched import render
from viewgen.networks.files import file_digest, load_models
from viewgen.networks.weights import find_models
from viewgen_pipelines.gallery.networks import NUM_FRAMES, find_networks


@pytest.fixture(scope="module")
def paths():
    return find_models("digits", {"generator", "encoder"})


@pytest.fixture
def spec(make_spec, paths):
    digests = {kind: file_digest(path) for kind, path in paths.items()}
    return make_spec(dataset={"name": "digits", "split": "train", "digest": "sha256:00"}, models=digests)


def test_networks_are_those_of_the_cache_or_none(spec, make_spec, paths):
    assert find_networks(spec, None).paths == paths
    other = make_spec(dataset=spec.dataset, models=spec.models | {"generator": "sha256:00"})
    assert find_networks(other, None).paths == {"encoder": paths["encoder"]}
    assert find_networks(make_spec(dataset=spec.dataset, models={}), None).paths == {}


def test_frames_lead_from_the_anchor_to_the_view(spec, paths):
    networks = find_networks(spec, None)
    models = load_models(paths)
    z = torch.randn(2, models.generator.config.style_dim, generator=torch.Generator().manual_seed(3))
    codes = models.generator.broadcast(models.generator.mapping(z)).detach()
    frames, distances = networks.frames(codes[0].numpy(), codes[1].numpy())
    assert frames.shape[0] == NUM_FRAMES
    ends = render(models.generator, codes, NUM_FRAMES).numpy()
    # batches of other sizes round differently, by a grey level at most
    assert np.abs(frames[[0, -1]].astype(int) - ends.astype(int)).max() <= 1
    assert distances[0] == 0
    assert distances[-1] > 0.1
    pairwise = networks.pairwise_distances(frames)
    np.testing.assert_allclose(pairwise[0], distances, atol=1e-4)
    np.testing.assert_array_equal(pairwise, pairwise.T)
    assert (np.diag(pairwise) == 0).all()
    features = models.encoder(torch.from_numpy(frames).float().div(127.5).sub(1)).detach()
    for first, second in ((1, 4), (0, 8)):
        expected = (features[first] - features[second]).square().sum().sqrt()
        assert pairwise[first, second] == pytest.approx(float(expected), abs=1e-4)
