"""Originals, expert views and cached views as pairs."""

import numpy as np
import pytest
import torch

from viewgen.datasets import load_dataset
from viewgen.diagnostics.mutual_information.views import (
    PairDraws,
    ViewPairs,
    cached_kind,
    check_cache,
    expert_kind,
    original_kind,
    view_pair,
)
from viewgen.errors import DataError
from viewgen.images import to_model
from viewgen.randomness import addressed_generator
from viewgen.store import CacheReader, open_storage
from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
from viewgen.views.cached import CachedSource
from viewgen.views.draws import ImageDraws
from viewgen.views.expert import ExpertConfig, ExpertSource
from viewgen.views.original import OriginalSource
from viewgen.views.source import Images, Views


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def cache(tmp_path, digits, make_spec, write_cache, no_flushing):
    """Return a function that writes a cache of random views of the first digits: reader and contents."""

    def make(name="c", status=None, **changes):
        made_of = {"name": "digits", "split": "train", "digest": digits.digest}
        spec = make_spec(**({"dataset": made_of, "height": 32, "width": 32, "num_views": 3} | changes))
        storage = open_storage(str(tmp_path / name))
        contents = write_cache(storage, spec, status=status)
        return CacheReader(str(tmp_path / name)), contents

    return make


def take(source, digits, rows, *address):
    """Return one model view of each image."""
    ids = torch.tensor(rows)
    pixels = torch.from_numpy(digits.images(rows))
    images = Images(pixels=pixels, source_index=ids, draws=PairDraws(address, ids))
    return source.views(images, 1).model[0]


def test_originals_are_the_images(digits):
    taken = take(OriginalSource(), digits, [5, 2], 0, "s", 0)
    assert torch.equal(taken, to_model(digits.images([5, 2])))


def test_expert_views_are_addressed_by_image_and_draw(digits):
    source = ExpertSource(ExpertConfig())
    one = take(source, digits, [3, 4, 5], 0, "s", 0)
    other_order = take(source, digits, [5, 9, 3], 0, "s", 0)
    assert torch.allclose(one[[2, 0]], other_order[[0, 2]], atol=1e-6)
    assert not torch.allclose(one, take(source, digits, [3, 4, 5], 0, "s", 1))
    assert not torch.allclose(one, take(source, digits, [3, 4, 5], 1, "s", 0))


def test_expert_views_keep_the_addresses_of_results_on_file(digits):
    """Those of 0.1.0, whose measured pairs are read again."""
    rows = [
        torch.rand(NUM_UNIFORMS, generator=addressed_generator(7, "s", "x", 2, image)) for image in (3, 5)
    ]
    expected = expert_views(to_model(digits.images([3, 5])), torch.stack(rows), ExpertConfig())
    assert torch.equal(take(ExpertSource(ExpertConfig()), digits, [3, 5], 7, "s", "x", 2), expected)


def test_cached_views_keep_the_addresses_of_results_on_file(digits, cache):
    reader, contents = cache()
    first = torch.rand(3, generator=addressed_generator(7, "s", "y"), dtype=torch.float64)
    for draw in range(4):
        picks = ((first * 3).long() + draw) % 3
        expected = to_model(contents["views"][[20, 7, 0], picks.numpy()])
        assert torch.equal(take(CachedSource(reader), digits, [20, 7, 0], 7, "s", "y", draw), expected)


def test_cached_views_belong_to_their_images_and_all_have_their_turn(digits, cache):
    status = [1] * 21
    status[4], status[7] = 3, 2
    reader, contents = cache(status=status)
    source = CachedSource(reader)
    assert source.source_index.tolist() == [i for i in range(21) if i != 4]
    ids = [20, 7, 0]
    drawn = torch.stack([take(source, digits, ids, 0, "s", draw) for draw in range(3)], dim=1)
    stored = to_model(contents["views"][ids])
    for taken, there in zip(drawn, stored, strict=True):
        matches = [[torch.equal(view, other) for other in there] for view in taken]
        assert np.array(matches).sum(0).tolist() == [1, 1, 1]


def test_several_cached_views_of_an_image_differ_as_long_as_there_are_others(digits, cache):
    reader, contents = cache()
    ids = torch.tensor([20, 7])
    pixels = torch.from_numpy(digits.images(ids.numpy()))
    images = Images(pixels=pixels, source_index=ids, draws=ImageDraws(0, ids))
    views = CachedSource(reader).views(images, 4).storage
    assert views.shape[:2] == (4, 2)
    for place, image in enumerate(ids.tolist()):
        found = {bytes(view.numpy()) for view in views[:3, place]}
        assert found == {bytes(view) for view in contents["views"][image]}
    assert torch.equal(views[3], views[0])


def test_a_pair_shows_the_same_image_twice(digits, cache):
    reader, contents = cache()
    pair = view_pair(cached_kind(reader, "c"), original_kind(), digits, np.array([9, 3, 12, 6]))
    pairs = pair.views
    assert pair.title == "c, original"
    assert (pairs.num_images, pairs.num_draws) == (4, 3)
    x, y = pairs.draw(np.array([2, 0]), 0, "s", 0)
    assert torch.equal(y, to_model(digits.images([12, 9])))
    assert any(torch.equal(x[0], view) for view in to_model(contents["views"][12]))
    again = pairs.draw(np.array([2, 0]), 0, "s", 0)
    assert torch.equal(x, again[0])


def test_two_expert_views_of_a_pair_differ(digits):
    expert = expert_kind(ExpertConfig())
    x, y = view_pair(expert, expert, digits, np.arange(4)).views.draw(np.arange(4), 0, "s", 0)
    assert not torch.allclose(x, y)


def test_any_source_is_one_side_of_a_pair(digits):
    class Noise:
        roles = ("view",)

        def views(self, images, num_views):
            noise = images.draws.normal("noise", num_views, *images.pixels.shape[1:])
            return Views(pixels=noise.transpose(0, 1))

    pairs = ViewPairs(OriginalSource(), Noise(), digits, np.arange(6), num_draws=9)
    first, second, other = (pairs.draw(np.array([4, 1]), 0, "s", draw)[1] for draw in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
    assert torch.equal(first[1:], pairs.draw(np.array([1]), 0, "s", 0)[1])


def test_caches_of_other_images_are_refused(digits, cache):
    check_cache(cache()[0], digits)
    wrong = {"name": "cifar10", "split": "train", "digest": "sha256:00"}
    with pytest.raises(DataError, match="views of cifar10 train, not of digits train"):
        check_cache(cache("a", dataset=wrong)[0], digits)
    with pytest.raises(DataError, match="16×16 pixels, the images of digits have 32×32"):
        check_cache(cache("b", height=16, width=16)[0], digits)
    with pytest.raises(DataError, match="other images than digits train holds now"):
        check_cache(cache("d", dataset=wrong | {"name": "digits"})[0], digits)
    with pytest.raises(DataError, match="no finished images"):
        check_cache(cache("e", status=[3] * 21)[0], digits)
