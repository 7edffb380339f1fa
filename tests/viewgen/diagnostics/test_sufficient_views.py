"""Finite distributions: what sufficient views must share, and that processing a view never adds to it.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    proposition 3.1 and appendix A, https://arxiv.org/abs/2005.10243
"""

import itertools

import numpy as np
import pytest
import torch

from viewgen.diagnostics.mutual_information.infonce import InfoNCE

NUM_X = 4


def information(joint):
    """Return I of a joint distribution `(A, B)`, in nats."""
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / product[there])).sum())


def joint_of(weights, *codes):
    """Return the joint distribution of functions of x, from p(x) `(X,)` and the value of each, `(X,)`."""
    found = np.zeros([int(code.max()) + 1 for code in codes])
    np.add.at(found, tuple(codes), weights)
    return found


def best_i_nce(joint, num_candidates):
    """Return the expectation of InfoNCE's objective over all batches, under the log density ratio."""
    places = [*zip(*np.nonzero(joint), strict=True)]
    ratio = joint / (joint.sum(axis=1, keepdims=True) * joint.sum(axis=0))
    scores = torch.from_numpy(np.log(np.maximum(ratio, 1e-300)))
    total = 0.0
    for batch in itertools.product(places, repeat=num_candidates):
        rows, columns = (torch.tensor([place[axis] for place in batch]) for axis in (0, 1))
        weight = float(np.prod([joint[place] for place in batch]))
        total += weight * float(InfoNCE(num_candidates).objective(scores[rows][:, columns][None]))
    return total


def relabelled(code):
    """Return values counted from 0, in the order of their first use."""
    order = list(dict.fromkeys(code))
    return [order.index(value) for value in code]


PARTITIONS = [
    np.array(code)
    for code in sorted({tuple(relabelled(code)) for code in itertools.product(range(NUM_X), repeat=NUM_X)})
]


def test_sufficient_views_share_what_the_image_tells_of_the_task():
    """All pairs of functions of x of four values: those with I(vᵢ; y) = I(x; y) have I(v₁; v₂) ≥ I(x; y)."""
    random = np.random.default_rng(0)
    sufficient, tight = [0, 0, 0], [0, 0, 0]
    for draw in range(21):
        weights = random.dirichlet(np.ones(NUM_X))
        given_x = random.dirichlet(np.ones(2), NUM_X)
        if (kind := draw % 3) == 1:
            given_x[1] = given_x[0]  # x has something that y does not depend on
        if kind == 2:
            given_x = np.eye(2)[[0, 0, 1, 1]]  # y is a function of x
        joint = weights[:, None] * given_x
        told = information(joint)
        good = []
        for code in PARTITIONS:
            view = np.zeros((code.max() + 1, 2))
            np.add.at(view, code, joint)
            assert information(view) <= told + 1e-12, "data processing"
            if information(view) > told - 1e-12:
                good.append(code)
        for v1, v2 in itertools.product(good, repeat=2):
            value = information(joint_of(weights, v1, v2))
            assert value >= told - 1e-12
            sufficient[kind] += 1
            tight[kind] += value < told + 1e-9
    assert sufficient == [7 * 1, 7 * 2**2, 7 * 4**2]
    assert tight[:2] == [0, 0], "functions of x cannot share alone what is random given x"
    assert tight[2] >= 7, "both views are y"


def test_the_optimum_shares_the_task_alone():
    """x = (y, n₁, n₂), v₁ = (y, n₁), v₂ = (y, n₂): I(v₁; v₂) = I(x; y), and nothing given y."""
    weights = np.einsum("a,b,c->abc", [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]).ravel()
    y, n1, n2 = (np.arange(8) >> shift & 1 for shift in (2, 1, 0))
    v1, v2 = 2 * y + n1, 2 * y + n2
    told = information(joint_of(weights, np.arange(8), y))
    joint = joint_of(weights, v1, v2)
    assert information(joint) == pytest.approx(told, abs=1e-12)
    for value in (0, 1):
        given = joint_of(weights * (y == value), v1, v2)
        assert information(given / given.sum()) == pytest.approx(0, abs=1e-12)
    # more shared is excess, less is missing
    assert information(joint_of(weights, v1, np.arange(8))) > told + 0.1
    assert information(joint_of(weights, v1, n2)) < told - 0.1


def test_i_nce_is_a_lower_bound_that_processing_lowers():
    """Over all batches of 2 and of 3, with the best critic: I_NCE(v₁; g(v₂)) ≤ I_NCE(v₁; v₂) ≤ I, ln K."""
    random = np.random.default_rng(1)
    for _ in range(3):
        joint = random.dirichlet(np.full(9, 0.5)).reshape(3, 3)
        merged = np.stack([joint[:, 0] + joint[:, 1], joint[:, 2]], axis=1)
        assert information(merged) <= information(joint)
        for num_candidates in (2, 3):
            whole, less = best_i_nce(joint, num_candidates), best_i_nce(merged, num_candidates)
            assert less <= whole + 1e-9
            assert whole <= min(information(joint), np.log(num_candidates)) + 1e-9
        assert best_i_nce(joint, 2) < best_i_nce(joint, 3), "more candidates tell more"
