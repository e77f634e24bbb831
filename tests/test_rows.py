import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from diffrec_jax import rows
from diffrec_jax.data.batching import make_row_batch
from diffrec_jax.rows import (
    dropout_entries,
    embed,
    mask_scores,
    normalise_rows,
    num_entries,
    places,
    row_keys,
    sample_unseen,
    targets,
    to_dense,
    to_mask,
)

U, I = 12, 9  # noqa: E741


def weighted_matrix():
    """Rows of weights, some stored weights 0, row 4 empty, row 5 full, and items not in ascending order."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, I, U)
    lengths[4], lengths[5] = 0, I
    indices = np.concatenate([rng.permutation(I)[:length] for length in lengths]).astype(np.int32)
    weights = rng.uniform(0.1, 1, len(indices)).astype(np.float32)
    weights[::4] = 0
    matrix = sparse.csr_array((weights, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(U, I))
    assert not matrix.has_sorted_indices and matrix.nnz > np.count_nonzero(matrix.toarray())
    return matrix


def stored(matrix):
    """Which entries a matrix stores, [U, I] bool, whatever their values."""
    return sparse.csr_array((np.ones(matrix.nnz, bool), matrix.indices, matrix.indptr), shape=matrix.shape).toarray()


BATCHES = {
    "all": (np.arange(U), None),
    "some, in another order": (np.array([5, 0, 4, 11]), None),
    "padding rows": (np.array([5, 3]), 6),
    "only an empty row": (np.array([4]), 3),
    "nobody": (np.array([], np.int32), 4),
}
any_batch = pytest.mark.parametrize(("user_ids", "batch_size"), BATCHES.values(), ids=BATCHES.keys())


def padded(rows, batch_size):
    """Rows with zeros below them, up to batch_size."""
    return np.concatenate([rows, np.zeros((max(batch_size or 0, len(rows)) - len(rows), *rows.shape[1:]), rows.dtype)])


@any_batch
def test_normalised_rows_have_length_one_or_zero(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    rows = to_dense(normalise_rows(batch), I)
    lengths = np.linalg.norm(padded(matrix.toarray()[user_ids], batch_size), axis=1)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), lengths > 0, atol=1e-6)
    np.testing.assert_allclose(rows * lengths[:, None], to_dense(batch, I), rtol=1e-5)


@any_batch
def test_dense_rows(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    dense = to_dense(batch, I)
    assert dense.dtype == jnp.float32
    np.testing.assert_array_equal(dense, padded(matrix.toarray()[user_ids], batch_size))


@any_batch
def test_mask_is_what_is_stored_whatever_its_weight(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    mask = to_mask(batch, I)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, padded(stored(matrix)[user_ids], batch_size))
    np.testing.assert_array_equal(to_mask(batch._replace(weights=np.zeros_like(batch.weights)), I), mask)
    np.testing.assert_array_equal(num_entries(batch, I), np.asarray(mask).sum(1))


@any_batch
def test_masked_scores(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    scores = np.random.default_rng(1).standard_normal((len(batch.user_ids), I), dtype=np.float32)
    expected = np.where(padded(stored(matrix)[user_ids], batch_size), -np.inf, scores)
    np.testing.assert_array_equal(mask_scores(jnp.asarray(scores), batch), expected)


@any_batch
def test_embedding_is_the_product_with_the_dense_rows(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    table = np.random.default_rng(1).standard_normal((I, 5), dtype=np.float32)
    expected = padded((matrix @ table.astype(np.float64))[user_ids], batch_size)
    np.testing.assert_allclose(embed(batch, jnp.asarray(table)), expected, rtol=1e-5, atol=1e-6)


def test_entries_are_summed_alike_in_chunks_and_at_once(monkeypatch):
    """As on a CPU, and as elsewhere; the gradient, too."""
    matrix = sparse.csr_array(np.random.default_rng(0).uniform(1, 2, (40, 32)).astype(np.float32))
    batch, table = make_row_batch(matrix, np.arange(40)), jnp.ones((32, 3))

    def found():
        return jax.value_and_grad(lambda own: jnp.sum(jnp.square(embed(batch, own))))(table)

    in_chunks, text = found(), str(jax.make_jaxpr(lambda: embed(batch, table))())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(found()[0], in_chunks[0], rtol=1e-6)
    np.testing.assert_allclose(found()[1], in_chunks[1], rtol=1e-6)
    assert "length=5" in text and "length=1\n" in str(jax.make_jaxpr(lambda: embed(batch, table))())


def test_a_batch_without_a_single_place_to_spare():
    matrix = sparse.csr_array(np.random.default_rng(0).uniform(1, 2, (32, 32)).astype(np.float32))
    batch = make_row_batch(matrix, np.arange(32))
    assert batch.item_ids.max() < 32
    np.testing.assert_array_equal(to_dense(batch, 32), matrix.toarray())
    np.testing.assert_allclose(embed(batch, jnp.eye(32)), matrix.toarray(), rtol=1e-6)


def test_a_batch_of_the_longest_rows():
    # Four users with 200 items among hundreds with one: far more entries than four rows usually have.
    dense = np.zeros((400, 200), np.float32)
    dense[:, 7] = 1
    dense[::100] = np.random.default_rng(0).uniform(1, 2, (4, 200))
    matrix, longest = sparse.csr_array(dense), np.arange(0, 400, 100)
    usual, batch = (make_row_batch(matrix, ids) for ids in (longest + 1, longest))
    assert batch.item_ids.shape > usual.item_ids.shape
    np.testing.assert_array_equal(to_dense(batch, 200), dense[longest])
    np.testing.assert_array_equal(num_entries(batch, 200), [200] * 4)


def test_rows_of_several_devices():
    matrix = weighted_matrix()
    user_ids = np.array([5, 0, 4, 11, 7])
    batch = make_row_batch(matrix, user_ids, batch_size=8, num_shards=2)
    dense = jax.vmap(lambda part: to_dense(part, I))(batch)
    assert dense.shape == (2, 4, I)
    np.testing.assert_array_equal(dense.reshape(8, I), padded(matrix.toarray()[user_ids], 8))
    counts = jax.vmap(lambda part: num_entries(part, I))(batch)
    np.testing.assert_array_equal(counts.reshape(8), padded(stored(matrix)[user_ids].sum(1), 8))
    np.testing.assert_array_equal(batch.row_mask.reshape(8), np.arange(8) < 5)


def test_row_keys_follow_the_user_not_the_place():
    matrix = weighted_matrix()
    user_ids = np.array([5, 0, 4, 11])
    order = np.array([2, 0, 3, 1])
    key = jax.random.key(0)

    def data(ids, key=key, **options):
        return np.asarray(jax.random.key_data(row_keys(key, make_row_batch(matrix, ids, **options))))

    keys = data(user_ids)
    np.testing.assert_array_equal(data(user_ids[order]), keys[order])
    np.testing.assert_array_equal(data(user_ids[1:2]), keys[1:2])
    np.testing.assert_array_equal(data(user_ids, batch_size=7)[:4], keys)
    assert len({row.tobytes() for row in keys}) == 4
    assert not np.any(np.all(data(user_ids, key=jax.random.key(1)) == keys, axis=1))


@any_batch
def test_the_gradient_of_embed_is_that_of_the_dense_product(user_ids, batch_size):
    batch = make_row_batch(weighted_matrix(), user_ids, batch_size=batch_size)
    rng = np.random.default_rng(1)
    table = jnp.asarray(rng.normal(size=(I, 3)), jnp.float32)
    scale = jnp.asarray(rng.normal(size=(batch.user_ids.shape[0], 3)), jnp.float32)
    sparse_gradient = jax.grad(lambda table: jnp.sum(scale * jnp.tanh(embed(batch, table))))(table)
    dense_gradient = jax.grad(lambda table: jnp.sum(scale * jnp.tanh(to_dense(batch, I) @ table)))(table)
    np.testing.assert_allclose(sparse_gradient, dense_gradient, atol=1e-6)


def test_targets_are_the_target_weights_or_the_row_itself():
    matrix = weighted_matrix()
    users = np.arange(U)
    batch = make_row_batch(matrix, users, targets=2 * matrix.data)
    np.testing.assert_array_equal(to_dense(targets(batch), I), 2 * matrix.toarray())
    plain = make_row_batch(matrix, users)
    assert targets(plain) is plain


@pytest.mark.parametrize("impl", ["threefry2x32", "threefry4x32"])  # rbg ties the rows of a batch together
def test_dropout_of_entries(impl):
    """The share that is kept, the scale, equal fates of weight and target, and no dependence on the other rows."""
    dense = np.ones((400, 50), np.float32)
    matrix = sparse.csr_array(dense)
    key = jax.random.key(3, impl=impl)

    def dropped(users, rate=0.2):
        batch = make_row_batch(matrix, np.array(users), targets=3 * matrix.data)
        return dropout_entries(batch, row_keys(key, batch), rate)

    batch = dropped(range(400))
    values = np.asarray(to_dense(batch, 50))
    assert set(np.unique(values)) == {0, np.float32(1.25)}
    assert abs(np.mean(values > 0) - 0.8) < 5 * np.sqrt(0.2 * 0.8 / values.size)
    np.testing.assert_allclose(to_dense(targets(batch), 50), 3 * values, rtol=1e-6)
    np.testing.assert_array_equal(to_dense(dropped([17, 4]), 50), values[[17, 4]])
    correlation = np.corrcoef(values.T > 0) - np.eye(50)
    assert np.abs(correlation).max() < 6 / np.sqrt(400)
    unchanged = make_row_batch(matrix, np.arange(3))
    assert dropout_entries(unchanged, row_keys(key, unchanged), 0.0) is unchanged


@any_batch
def test_unseen_items_are_never_stored_ones(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    drawn = np.asarray(sample_unseen(batch, row_keys(jax.random.key(0), batch), I))
    is_entry = np.asarray(batch.item_ids) < I
    seen = padded(stored(matrix)[user_ids], batch_size)[batch.rows]
    full = seen.all(1)
    assert np.all(drawn[is_entry & full] >= I)
    drawn, seen = drawn[is_entry & ~full], seen[is_entry & ~full]
    assert np.all((drawn >= 0) & (drawn < I)) and not seen[np.arange(len(drawn)), drawn].any()


def test_unseen_items_are_uniform_and_independent_of_the_other_rows():
    matrix = weighted_matrix()
    user = int(np.argmax(np.diff(matrix.indptr) == 4))
    unseen = np.flatnonzero(~stored(matrix)[user])

    @jax.jit
    def draw(key):
        batch = make_row_batch(matrix, np.array([user]))
        return sample_unseen(batch, row_keys(key, batch), I)[:4]

    drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))).ravel()
    counts = np.bincount(drawn, minlength=I)[unseen]
    assert counts.sum() == drawn.size and stats.chisquare(counts).pvalue > 0.01
    together = make_row_batch(matrix, np.array([1, user]))
    alone = make_row_batch(matrix, np.array([user]))
    key = jax.random.key(5)
    first = len(np.flatnonzero((together.rows == 0) & (together.item_ids < I)))
    np.testing.assert_array_equal(
        sample_unseen(together, row_keys(key, together), I)[first : first + 4],
        sample_unseen(alone, row_keys(key, alone), I)[:4],
    )


def test_unseen_items_are_the_same_where_rows_times_items_need_two_sort_keys(monkeypatch):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, np.arange(U))
    keys = row_keys(jax.random.key(0), batch)
    expected = sample_unseen(batch, keys, I)
    monkeypatch.setattr(rows, "LARGEST_KEY", U * I)
    np.testing.assert_array_equal(sample_unseen(batch, keys, I), expected)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_unseen_items_of_random_rows(seed):
    rng = np.random.default_rng(seed)
    dense = rng.random((U, I)) < rng.random((U, 1))
    batch = make_row_batch(sparse.csr_array(dense.astype(np.float32)), np.arange(U), batch_size=U)
    drawn = np.asarray(sample_unseen(batch, row_keys(jax.random.key(seed), batch), I))
    for row, item, other in zip(batch.rows, batch.item_ids, drawn):
        if item < I:
            assert other >= I if dense[row].all() else not dense[row, other]


@any_batch
def test_places_count_the_entries_of_each_row(user_ids, batch_size):
    matrix = weighted_matrix()
    batch = make_row_batch(matrix, user_ids, batch_size=batch_size)
    lengths = (matrix.indptr[user_ids + 1] - matrix.indptr[user_ids]).tolist()
    expected = [place for length in lengths for place in range(length)]
    np.testing.assert_array_equal(places(batch)[: len(expected)], expected)
