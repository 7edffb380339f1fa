"""Bounds of the largest clique against networkx and graphs whose cliques are known."""

import itertools

import networkx
import numpy as np
import pytest

from viewgen.diagnostics.concentration.clique import (
    clique_bounds,
    exact_clique,
    extended_clique,
    greedy_clique,
)


def complement(edges: np.ndarray) -> np.ndarray:
    apart = ~(edges | edges.T)
    np.fill_diagonal(apart, False)
    return apart


def random_graph(size: int, density: float, seed: int) -> np.ndarray:
    return complement(np.triu(np.random.default_rng(seed).random((size, size)) < density, 1))


def planted(size: int, clique: int, density: float, seed: int) -> np.ndarray:
    apart = random_graph(size, density, seed)
    chosen = np.random.default_rng(seed + 1).permutation(size)[:clique]
    apart[np.ix_(chosen, chosen)] = False
    return apart


def union_of_cliques(sizes: list[int], seed: int) -> np.ndarray:
    label = np.repeat(np.arange(len(sizes)), sizes)
    label = label[np.random.default_rng(seed).permutation(len(label))]
    return label[:, None] != label


def largest(apart: np.ndarray) -> int:
    near = ~apart
    np.fill_diagonal(near, False)
    members, _ = networkx.max_weight_clique(networkx.from_numpy_array(near), weight=None)
    return len(members)


def is_clique(members: np.ndarray, apart: np.ndarray) -> bool:
    return not apart[np.ix_(members, members)].any()


GRAPHS = [random_graph(30, density, seed) for density in (0.2, 0.5, 0.8, 0.95) for seed in range(4)]
GRAPHS += [planted(30, 12, 0.4, seed) for seed in range(4)]


def test_bounds_hold_the_largest_clique_and_their_members_are_one():
    closed = 0
    for apart in GRAPHS:
        expected, found = largest(apart), clique_bounds(apart)
        assert is_clique(found.members, apart)
        assert found.low <= expected <= found.high
        closed += found.low == expected
        exact = clique_bounds(apart, exact_up_to=30)
        assert exact.low == exact.high == expected
        assert is_clique(exact.members, apart)
    # heuristics that found little would keep the bounds valid, and useless
    assert closed >= len(GRAPHS) - 3


@pytest.mark.parametrize("sizes", [[7, 5, 3], [4, 4, 4], [1, 1, 1], [9]])
def test_unions_of_cliques_are_solved_without_search(sizes):
    found = clique_bounds(union_of_cliques(sizes, 0))
    assert found.low == found.high == max(sizes)


def test_a_dropped_member_comes_back_and_one_is_exchanged_for_two():
    # a path of non-edges 0 – 1 – 2: vertex 1 alone blocks 0 and 2
    apart = np.zeros((5, 5), np.bool_)
    apart[0, 1] = apart[1, 0] = apart[1, 2] = apart[2, 1] = True
    start = np.array([False, True, False, True, False])
    assert extended_clique(start, apart).tolist() == [True, False, True, True, True]
    assert greedy_clique(apart).sum() == 4


def test_exact_search_equals_all_subsets_and_ends_when_it_takes_too_long():
    apart = random_graph(11, 0.6, 3)
    start = greedy_clique(apart)
    found = exact_clique(apart, start)
    sizes = [
        len(chosen)
        for count in range(1, 12)
        for chosen in itertools.combinations(range(11), count)
        if not apart[np.ix_(chosen, chosen)].any()
    ]
    assert found is not None
    assert found.sum() == max(sizes)
    nothing = np.zeros(40, np.bool_)
    assert exact_clique(random_graph(40, 0.7, 0), nothing, max_branches=3) is None


def test_a_known_clique_is_never_lost():
    apart = planted(40, 15, 0.5, 7)
    known = exact_clique(apart, greedy_clique(apart))
    assert known is not None
    assert clique_bounds(apart, start=known).low >= known.sum()
