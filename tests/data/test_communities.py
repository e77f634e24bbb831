import importlib.util
import sys

import numpy as np
import pytest
from scipy import sparse

from diffrec_jax.data import DataError, communities, csr_from_pairs, group_items
from diffrec_jax.data.communities import find_communities, join_communities, nearest_items_graph

NEEDS_LEIDEN = pytest.mark.skipif(
    importlib.util.find_spec("graspologic_native") is None,
    reason="graspologic-native is missing: pip install 'diffrec-jax[graph]'",
)
BLOCKS = np.repeat([0, 1, 2], [30, 18, 12])


def planted(noise=0.1, num_users=300, seed=0):
    """Users who take 8 items of one block of BLOCKS, or, with some probability each, of all items."""
    rng, pairs = np.random.default_rng(seed), []
    for user in range(num_users):
        own = np.flatnonzero(user % 3 == BLOCKS)
        drawn = [rng.integers(60) if rng.random() < noise else rng.choice(own) for _ in range(8)]
        pairs += [(user, item) for item in dict.fromkeys(drawn)]
    return csr_from_pairs(np.array(pairs), num_users, 60)


def overlap(groups, blocks=BLOCKS):
    """Items of each block [blocks] in each group [groups]."""
    counts = np.zeros((blocks.max() + 1, groups.max() + 1), int)
    np.add.at(counts, (blocks, groups), 1)
    return counts


@NEEDS_LEIDEN
def test_planted_blocks_are_found():
    found = group_items("leiden", 3, train=planted())
    np.testing.assert_array_equal(found, BLOCKS)  # the largest group first


@NEEDS_LEIDEN
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_fewer_groups_join_blocks_and_more_part_them(seed):
    fewer, more = (overlap(group_items("leiden", count, train=planted(), seed=seed)) for count in (2, 6))
    assert fewer.shape == (3, 2) and np.all(np.count_nonzero(fewer, axis=1) == 1)
    assert more.shape == (3, 6) and np.all(np.count_nonzero(more, axis=0) == 1)


@NEEDS_LEIDEN
@pytest.mark.parametrize("num_groups", [2, 7, 30, 60])
def test_there_are_as_many_groups_as_asked_for_and_none_is_empty(num_groups):
    graph = nearest_items_graph(planted(noise=0.5))
    first, again = (find_communities(graph, num_groups, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.bincount(first, minlength=num_groups).min() > 0 and first.max() == num_groups - 1


@NEEDS_LEIDEN
def test_small_parts_of_the_graph_are_no_groups():
    """Ten pairs of items that only each other's users have, and one that nobody has, beside two blocks."""
    pairs = [(300 + user, 60 + 2 * (user % 10) + side) for user in range(40) for side in range(2)]
    blocks = planted(noise=0.0).tocoo()
    seen = np.stack([blocks.row, blocks.col], axis=1)[BLOCKS[blocks.col] < 2]
    train = csr_from_pairs(np.concatenate([seen, pairs]), 340, 81)
    found = group_items("leiden", 2, train=train)
    assert np.count_nonzero(overlap(found[:48], BLOCKS[:48])) == 2
    assert found[80] == 0  # the largest


def test_the_graph_is_that_of_the_nearest_items_by_cosine(monkeypatch):
    monkeypatch.setattr(communities, "NUM_NEIGHBORS", 3)
    train = planted()
    train.data = np.random.default_rng(1).random(train.nnz, dtype=np.float32)  # no two cosines are the same
    dense = train.toarray().astype(np.float64)
    cosine = dense.T @ dense / np.outer(*[np.linalg.norm(dense, axis=0)] * 2)
    np.fill_diagonal(cosine, 0.0)
    least = np.sort(cosine, axis=1)[:, -3]
    kept = np.where(cosine >= np.minimum.outer(least, least) - 1e-7, cosine, 0.0)  # of either of the two
    np.testing.assert_allclose(nearest_items_graph(train).toarray(), kept, atol=1e-6)


def modularity(dense, groups):
    total, degrees = dense.sum(), dense.sum(axis=0)
    same = groups[:, None] == groups
    return np.sum(same * (dense / total - np.outer(degrees, degrees) / total**2))


@pytest.mark.parametrize("seed", range(5))
def test_the_lightest_community_joins_where_most_modularity_is_left(seed):
    rng = np.random.default_rng(seed)
    dense = np.triu(rng.random((40, 40)) * (rng.random((40, 40)) < 0.2), 1)
    dense, groups = dense + dense.T, np.arange(40) % 8
    graph = sparse.csr_array(dense)
    for left in range(7, 1, -1):
        least = np.bincount(groups, dense.sum(axis=0)).argmin()
        joined = [np.where(groups == least, other, groups) for other in range(left + 1) if other != least]
        best = max(joined, key=lambda candidate: modularity(dense, candidate))
        groups = join_communities(graph, groups, left)
        np.testing.assert_array_equal(groups[:, None] == groups, best[:, None] == best)
    np.testing.assert_array_equal(join_communities(graph, np.arange(40) % 8, 2), groups)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "graspologic_native", None)
    with pytest.raises(DataError, match=r"needs graspologic-native: pip install 'diffrec-jax\[graph\]'"):
        group_items("leiden", 2, train=planted())
