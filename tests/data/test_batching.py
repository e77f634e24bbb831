import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from diffrec_jax.data import RowBatch, make_row_batch, steps_per_epoch, training_user_ids


def random_matrix(rng, num_users, num_items, density=0.3):
    dense = rng.random((num_users, num_items)) * (rng.random((num_users, num_items)) < density)
    return sparse.csr_array(dense.astype(np.float32))


def dense_rows(batch: RowBatch, num_items):
    rows = np.zeros((len(batch.user_ids), num_items + 1), np.float32)
    rows[batch.rows, batch.item_ids] = batch.weights
    return rows[:, :num_items]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), num_chosen=st.integers(1, 8), num_devices=st.sampled_from([1, 2, 4]))
def test_a_batch_holds_the_chosen_rows_and_nothing_else(seed, num_chosen, num_devices):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, 12, 9)
    users = rng.permutation(12)[:num_chosen]
    batch = make_row_batch(matrix, users, batch_size=8, num_shards=num_devices)
    parts = [field for field in batch if field is not None]
    shards = [batch] if num_devices == 1 else [RowBatch(*(field[d] for field in parts)) for d in range(num_devices)]
    dense = np.concatenate([dense_rows(shard, 9) for shard in shards])
    expected = np.zeros((8, 9), np.float32)
    expected[:num_chosen] = matrix.toarray()[users]
    np.testing.assert_array_equal(dense, expected)
    mask = np.concatenate([shard.row_mask for shard in shards])
    np.testing.assert_array_equal(mask, np.arange(8) < num_chosen)
    for shard in shards:
        assert np.all(np.diff(shard.rows) >= 0)
        padding = shard.item_ids == 9
        assert np.all(shard.weights[padding] == 0)


def skewed_matrix():
    """2,000 rows of 1 to 400 of 500 items."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(3, 1, 2000).astype(int) + 1, 400)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.concatenate([rng.permutation(500)[:length] for length in lengths])
    return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(2000, 500))


def test_batches_of_random_rows_have_one_shape():
    rng, matrix = np.random.default_rng(0), skewed_matrix()
    shapes = {make_row_batch(matrix, rng.permutation(2000)[:100]).item_ids.shape for _ in range(50)}
    assert len(shapes) == 1
    lengths = np.diff(matrix.indptr)
    longest = np.argsort(-lengths)[:100]
    for tight in (False, True):
        assert make_row_batch(matrix, longest, tight=tight).item_ids.shape[0] >= lengths[longest].sum()


def test_tight_batches_have_a_few_shapes_less_padding_and_the_same_rows():
    rng, matrix = np.random.default_rng(0), skewed_matrix()
    users = [rng.permutation(2000)[:100] for _ in range(50)]
    wide, tight = ([make_row_batch(matrix, ids, tight=tight) for ids in users] for tight in (False, True))
    sizes = [sum(batch.item_ids.shape[0] for batch in batches) for batches in (wide, tight)]
    assert 2 <= len({batch.item_ids.shape for batch in tight}) <= 3 and sizes[1] < 0.85 * sizes[0]
    for a, b in zip(wide, tight):
        np.testing.assert_array_equal(dense_rows(a, 500), dense_rows(b, 500))


def test_a_batch_must_fit():
    matrix = random_matrix(np.random.default_rng(0), 5, 4)
    with pytest.raises(ValueError, match="at least one row"):
        make_row_batch(matrix, np.arange(0))
    with pytest.raises(ValueError, match="3 users do not fit a batch of 2"):
        make_row_batch(matrix, np.arange(3), batch_size=2)
    with pytest.raises(ValueError, match="no multiple of the number of shards, 2"):
        make_row_batch(matrix, np.arange(3), batch_size=3, num_shards=2)


def test_an_epoch_visits_every_user_once_and_epochs_differ():
    num_steps = steps_per_epoch(103, 25)
    assert num_steps == 5
    epochs = [
        np.concatenate([training_user_ids(103, 25, seed=3, step=epoch * num_steps + i) for i in range(num_steps)])
        for epoch in range(2)
    ]
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(103))
    assert not np.array_equal(*epochs)
    assert not np.array_equal(training_user_ids(103, 25, seed=4, step=0), epochs[0][:25])
    np.testing.assert_array_equal(training_user_ids(103, 25, seed=3, step=7), epochs[1][50:75])
