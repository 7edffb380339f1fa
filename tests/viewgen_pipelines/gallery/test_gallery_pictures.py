"""Pictures hold the pixels that they claim to hold, and the store of pictures keeps to its bound."""

import io

import numpy as np
import pytest
from PIL import Image

from viewgen.store import CacheReader
from viewgen_pipelines.gallery import pictures
from viewgen_pipelines.gallery.sources import CacheSource


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture
def with_inversions(make_cache, at_hand):
    """A cache of views with latents and, beside it, the inversions that it names."""
    inversions = make_cache(
        "inversions", method="invert", num_views=1, arrays=("anchor_w_plus",), latent_shape=(2, 512)
    )
    models = {"generator": "sha256:11", "inversions": inversions.spec.identity}
    cache = make_cache(models=models, arrays=("w_plus",), latent_shape=(2, 512))
    return CacheSource(url=cache.url, inversions=inversions.url), cache, inversions


def test_a_strip_shows_original_reconstruction_and_views(with_inversions, dataset):
    source, cache, inversions = with_inversions
    picture = pixels_of(pictures.strip_png(source, source.snapshot(), 9))
    assert picture.shape[1::-1] == pictures.strip_size(cache.spec)
    tiles = [
        dataset.images([9])[0],
        CacheReader(inversions.url).views(9, 0),
        *CacheReader(cache.url).views(9),
    ]
    for column, tile in enumerate(tiles):
        left = column * 10 + (4 if column >= 2 else 0)
        np.testing.assert_array_equal(picture[:, left : left + 8, :3], tile.transpose(1, 2, 0))
        assert (picture[:, left : left + 8, 3] == 255).all()
    assert (picture[:, 8:10, 3] == 0).all(), "the page shines through the gaps"


def test_a_failed_image_keeps_its_original(with_inversions, dataset):
    source, *_ = with_inversions
    picture = pixels_of(pictures.strip_png(source, source.snapshot(), 6))
    np.testing.assert_array_equal(picture[:, :8, :3], dataset.images([6])[0].transpose(1, 2, 0))
    assert (picture[:, 24:, 3] == 0).all()


@pytest.mark.parametrize("name", ["view-0", "view-2"])
def test_a_view_is_the_stored_one(with_inversions, name):
    source, cache, _ = with_inversions
    picture = pixels_of(pictures.single_png(source, source.snapshot(), 3, name))
    expected = CacheReader(cache.url).views(3, int(name[-1]))
    np.testing.assert_array_equal(picture, expected.transpose(1, 2, 0))


@pytest.mark.parametrize(
    "name", ["view-3", "view--1", "view-1e0", "view-²", "view-", "zarr.json", "view-00000001"]
)
def test_other_names_are_no_pictures(with_inversions, name):
    source, *_ = with_inversions
    assert pictures.single_png(source, source.snapshot(), 3, name) is None


def test_large_images_become_thumbnails(make_cache, at_hand):
    cache = make_cache(height=200, width=200, shard_images=8, num_images=8, shards=[0])
    source = CacheSource(url=cache.url)
    picture = pixels_of(pictures.strip_png(source, source.snapshot(), 0))
    assert picture.shape[0] == pictures.THUMBNAIL_SIDE


def test_the_store_draws_once_and_keeps_to_its_bound():
    store = pictures.PictureStore(max_bytes=100)
    drawn = []

    def draw(key, size=40):
        return store.get(key, lambda: drawn.append(key) or bytes(size))

    for key in ("a", "b", "a", "c"):  # c pushes out b, which was asked for longest ago
        assert len(draw(key)) == 40
    assert (drawn, store.num_bytes) == (["a", "b", "c"], 80)
    draw("a")
    draw("b")
    assert drawn == ["a", "b", "c", "b"]
    assert len(draw("large", 101)) == 101
    assert store.num_bytes <= 100
    assert store.get("nothing", lambda: None) is None


def test_reasons_are_given_for_what_is_missing(make_cache, dataset, at_hand):
    models = {"generator": "sha256:11", "inversions": "sha256:" + "2" * 64}
    cache = make_cache(models=models)
    source = CacheSource(url=cache.url)
    snapshot = source.snapshot()
    assert "inversions-made-up-train-22222222.zarr" in source.inversion_index(snapshot.spec)[1]
    assert "--keep-latents" in source.why_no_frames(snapshot, 3)
    assert source.reconstruction(snapshot, 3) is None
    other = make_cache("other", dataset=cache.spec.dataset | {"digest": "sha256:00"})
    source = CacheSource(url=other.url)
    found, reason = source.dataset(other.spec)
    assert found is None
    assert "--data-root" in reason
    assert source.original(source.snapshot(), 3) is None, "pictures of other data would mislead"


def test_latents_without_their_generator_are_explained(with_inversions):
    source, *_ = with_inversions
    assert "sha256:11" in source.why_no_frames(source.snapshot(), 9)
    assert pictures.frames_png(source, source.snapshot(), 9, 0) is None
