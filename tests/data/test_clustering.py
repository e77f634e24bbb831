import numpy as np
import pytest
from scipy import sparse

from diffrec_jax.data import (
    DataError,
    csr_from_pairs,
    group_items,
    make_synthetic,
    read_item_embeddings,
    svd_item_embeddings,
)
from diffrec_jax.data.embeddings import leading_column_factors
from diffrec_jax.data.synthetic import SyntheticSpec
from tests.data.test_communities import NEEDS_LEIDEN

LEIDEN = pytest.param("leiden", marks=NEEDS_LEIDEN)
TRAIN = make_synthetic(SyntheticSpec(num_users=200, num_items=60, num_interactions=4000, num_clusters=3)).train


def two_blocks(num_users=60, num_items=21):
    """Users of one half see the first 14 items, users of the other half the rest but the last, which nobody sees."""
    rng = np.random.default_rng(0)
    pairs = []
    for user in range(num_users):
        items = np.arange(14) if user % 2 else np.arange(14, num_items - 1)
        pairs += [(user, item) for item in rng.permutation(items)[:5]]
    return csr_from_pairs(np.array(pairs), num_users, num_items)


@pytest.mark.parametrize("method", ["kmeans", "spherical_kmeans", "spectral", LEIDEN, "popularity", "random"])
@pytest.mark.parametrize("num_groups", [1, 2, 5])
def test_every_item_has_a_group_and_every_group_an_item(method, num_groups):
    embeddings = svd_item_embeddings(TRAIN, 8)
    first, again = (group_items(method, num_groups, train=TRAIN, embeddings=embeddings, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (60,) and first.dtype == np.int32
    sizes = np.bincount(first, minlength=num_groups)
    assert len(sizes) == num_groups and sizes.min() > 0 and np.all(np.diff(sizes) <= 0)


@pytest.mark.parametrize("method", ["kmeans", "spherical_kmeans", "spectral", LEIDEN])
def test_what_is_seen_together_is_grouped_together(method):
    train = two_blocks()
    groups = group_items(method, 2, train=train, embeddings=svd_item_embeddings(train, 2))
    np.testing.assert_array_equal(groups[:20], [0] * 14 + [1] * 6)


def test_spherical_kmeans_sees_directions_and_not_lengths():
    """Two directions, of which one has a long embedding: kmeans puts that one by itself."""
    embeddings = np.float32([[1, 0], [1, 0.1], [20, 0], [0, 1], [0.1, 1], [0, 0]])
    train = csr_from_pairs(np.array([[0, 0]]), 1, 6)
    by_length, by_direction = (
        group_items(method, 2, train=train, embeddings=embeddings) for method in ("kmeans", "spherical_kmeans")
    )
    np.testing.assert_array_equal(by_length, [0, 0, 1, 0, 0, 0])
    assert len(set(by_direction[:3])) == len(set(by_direction[3:5])) == 1 and by_direction[0] != by_direction[3]


def test_popularity_strata_are_in_order_of_popularity():
    groups = group_items("popularity", 4, train=TRAIN)
    counts = np.bincount(TRAIN.indices, minlength=60)
    for more, less in zip(range(3), range(1, 4)):
        assert counts[groups == more].min() >= counts[groups == less].max()


def test_svd_embeddings_reproduce_the_normalised_matrix():
    train = two_blocks(num_users=12, num_items=21)
    dense = train.toarray().astype(np.float64)
    items = np.maximum(dense.sum(0), 1)
    normalised = dense / np.sqrt(np.outer(dense.sum(1), items))
    embeddings = svd_item_embeddings(train, 100).astype(np.float64)
    assert embeddings.shape == (21, 12)
    np.testing.assert_allclose(embeddings @ embeddings.T, normalised.T @ normalised, atol=1e-5)


@pytest.mark.parametrize("shape", [(80, 30), (30, 80)])
def test_factors_are_those_of_a_whole_svd(shape, monkeypatch):
    """Values that lie close together, too; and about, of matrices too large for that."""
    rng = np.random.default_rng(0)
    matrix = sparse.csr_array(rng.random(shape) * (rng.random(shape) < 0.3))
    _, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    singular_values, vectors = leading_column_factors(matrix, 10)
    np.testing.assert_allclose(singular_values, values[:10], rtol=1e-5)
    np.testing.assert_allclose(vectors @ vectors.T, right[:10].T @ right[:10], atol=1e-5)
    monkeypatch.setattr("diffrec_jax.data.embeddings.MOST_EXACT", 0)
    about = leading_column_factors(matrix, 10)
    np.testing.assert_allclose(about[0], values[:10], rtol=0.01)
    assert np.linalg.norm(right[:10] @ about[1]) ** 2 > 0.99 * 10
    monkeypatch.undo()
    small = leading_column_factors(matrix, 100)
    assert small[1].shape == (shape[1], 30)
    alike = np.vstack([matrix.toarray()[:15]] * 2 + [np.zeros((70, shape[1]))])
    for twice in (sparse.csr_array(alike), sparse.csr_array(alike.T)):  # equal rows and empty ones
        singular_values, vectors = leading_column_factors(twice, 30)
        assert np.count_nonzero(singular_values) == 15
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=1e-5)
        restored = vectors @ np.diag(np.square(singular_values)) @ vectors.T
        np.testing.assert_allclose(restored, (twice.T @ twice).toarray(), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kmeans", 2), "kmeans needs an embedding of each of the 60 items, got none"),
        (("random", 61), "61 item groups of 60 items: choose between 1 and 60"),
        (("random", 0), "choose between 1 and 60"),
        (("alphabet", 2), "grouping 'alphabet' is unknown: choose one of kmeans"),
    ],
)
def test_wrong_groupings_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        group_items(*arguments, train=TRAIN)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_group_that_stays_empty_is_an_error():
    with pytest.raises(DataError, match="kmeans left 2 of 4 item groups empty"):
        group_items("kmeans", 4, train=TRAIN, embeddings=np.repeat([[0.0], [1.0]], 30, axis=0))


def test_item_embeddings_are_read_as_they_are(tmp_path):
    np.save(tmp_path / "e.npy", np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(read_item_embeddings(tmp_path / "e.npy", 4), np.arange(12.0).reshape(4, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "e.npy do not exist: give a .npy file of shape"),
        (np.zeros((5, 3)), r"have shape \[5, 3\], the dataset has 4 items"),
        (np.zeros(4), r"have shape \[4\]"),
        (np.array([["a"]] * 4), "hold <U1, not numbers"),
        (np.array([[{}]] * 4), "cannot be read as a plain NumPy array"),
        (np.full((4, 2), np.nan), "not finite"),
        (np.full((4, 2), 1e300), "not finite in float32"),
    ],
)
def test_wrong_item_embeddings_are_refused(tmp_path, content, message):
    if content is not None:
        np.save(tmp_path / "e.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_item_embeddings(tmp_path / "e.npy", 4)


def test_embeddings_of_all_ids_serve_a_dataset_with_gaps(tmp_path):
    """A file has a row for each original id; where it has one for each item, they are taken as they are."""
    table = np.arange(24.0).reshape(8, 3)
    np.save(tmp_path / "e.npy", table)
    ids = np.array([1, 4, 5, 7])
    np.testing.assert_array_equal(read_item_embeddings(tmp_path / "e.npy", 4, item_ids=ids), table[ids])
    np.save(tmp_path / "e.npy", table[:4])
    np.testing.assert_array_equal(read_item_embeddings(tmp_path / "e.npy", 4, item_ids=ids), table[:4])
    np.save(tmp_path / "e.npy", table[:7])
    with pytest.raises(DataError, match=r"have shape \[7, 3\], the dataset has 4 items.* id from 0 on, \[8, size\]"):
        read_item_embeddings(tmp_path / "e.npy", 4, item_ids=ids)


def test_embeddings_are_picked_by_ids_in_any_order(tmp_path):
    table = np.arange(24.0).reshape(8, 3)
    np.save(tmp_path / "e.npy", table)
    ids = np.array([7, 1, 5])
    np.testing.assert_array_equal(read_item_embeddings(tmp_path / "e.npy", 3, item_ids=ids), table[ids])


@pytest.mark.parametrize("method", ["kmeans", "spectral", LEIDEN, "random"])
def test_large_seeds_group_too(method):
    embeddings = np.random.default_rng(0).normal(size=(TRAIN.shape[1], 4))
    found = [group_items(method, 3, train=TRAIN, embeddings=embeddings, seed=seed) for seed in (2**62, 2**62)]
    np.testing.assert_array_equal(*found)
