"""Largest clique of a graph: bounds from below with their members, bounds from above, the exact size.

The largest clique is NP-hard to find, so `clique_bounds` returns an interval that holds it. From below, the
larger of two cliques, after exchanges of one member for two: what is left after dropping the vertex with most
non-neighbours again and again, and the vertices outside a maximal matching of the complement. From above, the
smaller of n − |matching of the complement|, of which a clique holds at most one end of each edge, and the
number of colours of a greedy colouring. The colouring takes vertices in smallest-last order, so that it never
needs more colours than the graph's degeneracy + 1. Small graphs are solved by branch and bound.

A graph is given by its complement: `apart[i, j]` is True if i ≠ j have no edge.

References:
    Smallest-Last Ordering and Clustering and Graph Coloring Algorithms, Matula and Beck, 1983,
    https://doi.org/10.1145/2402.322385
    Fast Local Search for the Maximum Independent Set Problem, Andrade, Resende and Werneck, 2012 (exchanges
    of one vertex for two), https://doi.org/10.1007/s10732-012-9196-4
    An Efficient Branch-and-Bound Algorithm for Finding a Maximum Clique, Tomita and Seki, 2003,
    https://doi.org/10.1007/3-540-45066-1_22
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CliqueBounds", "clique_bounds", "exact_clique", "extended_clique", "greedy_clique"]

Bools = NDArray[np.bool_]

# steps of branch and bound in one graph; beyond them the interval stays open
MAX_BRANCHES = 20_000


@dataclass(frozen=True, slots=True)
class CliqueBounds:
    """Interval that holds the size of the largest clique.

    Attributes:
        members: clique that was found, bool `(N,)`.
        high: size that no clique exceeds.
    """

    members: Bools
    high: int

    @property
    def low(self) -> int:
        """Size of the clique that was found."""
        return int(self.members.sum())


def clique_bounds(apart: Bools, *, exact_up_to: int = 0, start: Bools | None = None) -> CliqueBounds:
    """Return bounds of the largest clique.

    Args:
        apart: complement of the graph, symmetric with a False diagonal, bool `(N, N)`.
        exact_up_to: N up to which an open interval is closed by branch and bound, if that ends in time.
        start: members of a known clique, bool `(N,)`.
    """
    size = len(apart)
    if not apart.any():
        return CliqueBounds(np.ones(size, np.bool_), size)
    unmatched = _unmatched(apart)
    cliques = [greedy_clique(apart), unmatched, *([] if start is None else [start])]
    members = extended_clique(max(cliques, key=np.count_nonzero), apart)
    high = (size + int(unmatched.sum())) // 2
    if members.sum() < high:
        high = min(high, _num_colours(apart))
    if members.sum() < high and size <= exact_up_to:
        found = exact_clique(apart, members)
        if found is not None:
            members, high = found, int(found.sum())
    return CliqueBounds(members, high)


def greedy_clique(apart: Bools) -> Bools:
    """Return the members of a clique: drop the vertex with most non-neighbours until none has any."""
    members = np.ones(len(apart), np.bool_)
    foes = apart.sum(axis=1, dtype=np.int64)
    while True:
        worst = int(foes.argmax())
        if foes[worst] <= 0:
            return members
        members[worst] = False
        foes -= apart[worst]
        foes[worst] = -1


def extended_clique(members: Bools, apart: Bools) -> Bools:
    """Return a clique that contains no less: free vertices are added, one member exchanged for two."""
    members = members.copy()
    # number of members that each vertex has no edge to
    foes = apart[members].sum(axis=0, dtype=np.int64)

    def change(vertex: int, sign: int) -> None:
        nonlocal foes
        members[vertex] = sign > 0
        foes += sign * apart[vertex]

    while True:
        free = np.flatnonzero(~members & (foes == 0))
        if len(free):
            change(int(free[0]), 1)
            continue
        exchange = _exchange(members, apart, foes)
        if exchange is None:
            return members
        leaving, *entering = exchange
        change(leaving, -1)
        for vertex in entering:
            change(vertex, 1)


def _exchange(members: Bools, apart: Bools, foes: NDArray[np.int64]) -> tuple[int, int, int] | None:
    """Return a member, and two neighbours of each other to whom it alone has no edge."""
    tight = np.flatnonzero(~members & (foes == 1))
    if len(tight) < 2:
        return None
    inside = np.flatnonzero(members)
    blocker = inside[apart[np.ix_(tight, inside)].argmax(axis=1)]
    for member in np.unique(blocker):
        group = tight[blocker == member]
        near = ~apart[np.ix_(group, group)]
        np.fill_diagonal(near, False)
        if near.any():
            first, second = np.unravel_index(int(near.argmax()), near.shape)
            return int(member), int(group[first]), int(group[second])
    return None


def _unmatched(apart: Bools) -> Bools:
    """Return the vertices outside of a maximal matching of the complement: a clique."""
    order = np.argsort(apart.sum(axis=1), kind="stable")
    ordered = apart[np.ix_(order, order)]
    free = np.ones(len(apart), np.bool_)
    for vertex in range(len(apart)):
        if not free[vertex]:
            continue
        candidates = ordered[vertex] & free
        partner = int(candidates.argmax())
        if candidates[partner]:
            free[vertex] = free[partner] = False
    unmatched = np.zeros(len(apart), np.bool_)
    unmatched[order[free]] = True
    return unmatched


def _num_colours(apart: Bools) -> int:
    """Return the number of colours of a greedy colouring of the graph in smallest-last order."""
    size = len(apart)
    near = ~apart
    np.fill_diagonal(near, False)
    degree = near.sum(axis=1, dtype=np.int64)
    order = np.empty(size, np.int64)
    for place in range(size):
        order[place] = vertex = int(degree.argmin())
        degree -= near[vertex]
        degree[vertex] = 2 * size  # above every degree, however often it is reduced
    colour = np.full(size, -1)
    num_colours = 0
    for vertex in order[::-1]:
        taken = np.zeros(num_colours + 1, np.bool_)
        neighbours = colour[near[vertex]]
        taken[neighbours[neighbours >= 0]] = True
        colour[vertex] = first = int(taken.argmin())
        num_colours = max(num_colours, first + 1)
    return num_colours


def exact_clique(apart: Bools, start: Bools, max_branches: int = MAX_BRANCHES) -> Bools | None:
    """Return a largest clique by branch and bound, or None if it takes more than `max_branches` steps.

    Args:
        apart: complement of the graph, bool `(N, N)`.
        start: members of a known clique, bool `(N,)`.
        max_branches: steps after which the search ends without a result.
    """
    size = len(apart)
    near = ~apart
    np.fill_diagonal(near, False)
    masks = [sum(1 << int(other) for other in np.flatnonzero(row)) for row in near]
    best = [int(vertex) for vertex in np.flatnonzero(start)]
    branches = 0

    def search(chosen: list[int], candidates: int) -> bool:
        nonlocal best, branches
        branches += 1
        if branches > max_branches:
            return False
        for vertex, colours in reversed(_coloured(candidates, masks)):
            if len(chosen) + colours <= len(best):
                return True
            larger = [*chosen, vertex]
            rest = candidates & masks[vertex]
            if rest:
                if not search(larger, rest):
                    return False
            elif len(larger) > len(best):
                best = larger
            candidates &= ~(1 << vertex)
        return True

    if not search([], (1 << size) - 1):
        return None
    members = np.zeros(size, np.bool_)
    members[best] = True
    return members


def _coloured(candidates: int, masks: list[int]) -> list[tuple[int, int]]:
    """Return candidates in the order of a greedy colouring, each with the colours used up to it."""
    found: list[tuple[int, int]] = []
    colours = 0
    while candidates:
        colours += 1
        colourable = candidates
        while colourable:
            lowest = colourable & -colourable
            vertex = lowest.bit_length() - 1
            found.append((vertex, colours))
            candidates ^= lowest
            colourable &= ~(masks[vertex] | lowest)
    return found
