"""Addressed randomness: the numbers of an address never change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from viewgen.randomness import addressed_generator, addressed_normal, addressed_seed

parts = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5)), min_size=1, max_size=4)


def test_seeds_are_on_file():
    """A cache made by an earlier version is only completed by the same numbers."""
    assert addressed_seed(0) == 3581690635855307741
    assert addressed_seed(0, "wsearch", 17, 3) == 5858550635723159648
    assert addressed_seed(2**40, "é") == 9175167816148716314


def test_normal_numbers_are_on_file():
    draws = addressed_normal((2, 2), 0, "wsearch", 17, 3)
    assert draws.dtype == torch.float32
    assert draws.flatten().tolist() == pytest.approx([1.318196, -0.64103, 0.670167, 0.373331], abs=1e-6)


@given(first=parts, second=parts)
def test_different_addresses_have_different_seeds(first, second):
    assert (addressed_seed(*first) == addressed_seed(*second)) == (
        [(type(part), part) for part in first] == [(type(part), part) for part in second]
    )
    assert 0 <= addressed_seed(*first) < 2**63


def test_numbers_and_texts_are_kept_apart_and_numpys_integers_are_numbers():
    assert addressed_seed(1, 2) != addressed_seed(1, "2")
    assert addressed_seed(1, 2) != addressed_seed(12)
    assert addressed_seed("a", "b") != addressed_seed("ab")
    assert addressed_seed(np.int64(5), "x") == addressed_seed(5, "x")


def test_a_draw_does_not_depend_on_other_draws():
    first = addressed_normal((3,), 1, "a")
    torch.manual_seed(99)
    addressed_generator(1, "b")
    torch.randn(10)
    assert torch.equal(addressed_normal((3,), 1, "a"), first)
    before = torch.get_rng_state()
    addressed_normal((3,), 1, "a")
    assert torch.equal(torch.get_rng_state(), before)
