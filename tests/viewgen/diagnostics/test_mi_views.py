"""Originals, expert views and cached views as pairs."""

import numpy as np
import pytest
import torch
from viewgen.views.methods import expert_uniforms

from viewgen.datasets import load_dataset
from viewgen.diagnostics.mutual_information.views import (
    CachedViews,
    ExpertViews,
    OriginalViews,
    ViewPairs,
    check_cache,
)
from viewgen.errors import DataError
from viewgen.images import to_model
from viewgen.store import CacheReader, open_storage
from viewgen.views.augmentation import expert_views
from viewgen.views.expert import ExpertConfig


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


def test_originals_are_the_images(digits):
    taken = OriginalViews(digits).take(np.array([5, 2]), 0, "s", 0)
    assert torch.equal(taken, to_model(digits.images([5, 2])))


def test_expert_views_are_addressed_by_image_and_draw(digits):
    views = ExpertViews(digits, ExpertConfig())
    one = views.take(np.array([3, 4, 5]), 0, "s", 0)
    other_order = views.take(np.array([5, 9, 3]), 0, "s", 0)
    assert torch.allclose(one[[2, 0]], other_order[[0, 2]], atol=1e-6)
    assert not torch.allclose(one, views.take(np.array([3, 4, 5]), 0, "s", 1))
    assert not torch.allclose(one, views.take(np.array([3, 4, 5]), 1, "s", 0))
    # the same transform as that of an expert cache
    images = to_model(digits.images([3]))
    assert one[:1].shape == expert_views(images, expert_uniforms(np.array([3]), 1, 0), ExpertConfig()).shape


def test_cached_views_belong_to_their_images_and_all_have_their_turn(cache):
    status = [1] * 21
    status[4], status[7] = 3, 2
    reader, contents = cache(status=status)
    views = CachedViews(reader)
    assert views.source_index.tolist() == [i for i in range(21) if i != 4]
    ids = np.array([20, 7, 0])
    drawn = torch.stack([views.take(ids, 0, "s", draw) for draw in range(3)], dim=1)
    stored = to_model(contents["views"][ids])
    for taken, there in zip(drawn, stored, strict=True):
        matches = [[torch.equal(view, other) for other in there] for view in taken]
        assert np.array(matches).sum(0).tolist() == [1, 1, 1]


def test_a_pair_shows_the_same_image_twice(digits, cache):
    reader, contents = cache()
    pairs = ViewPairs(CachedViews(reader), OriginalViews(digits), np.array([9, 3, 12, 6]))
    assert (pairs.num_images, pairs.num_draws) == (4, 3)
    x, y = pairs.draw(np.array([2, 0]), 0, "s", 0)
    assert torch.equal(y, to_model(digits.images([12, 9])))
    assert any(torch.equal(x[0], view) for view in to_model(contents["views"][12]))
    again = pairs.draw(np.array([2, 0]), 0, "s", 0)
    assert torch.equal(x, again[0])


def test_two_expert_views_of_a_pair_differ(digits):
    expert = ExpertViews(digits, ExpertConfig())
    x, y = ViewPairs(expert, expert, np.arange(4)).draw(np.arange(4), 0, "s", 0)
    assert not torch.allclose(x, y)


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
