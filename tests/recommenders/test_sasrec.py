import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from diffrec_jax.data import csr_from_pairs, make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import SASRecConfig, StepContext, make_sasrec
from diffrec_jax.recommenders.sasrec import softmax_losses
from diffrec_jax.rows import row_keys

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4)).train
NUM_ITEMS = TRAIN.shape[1]
CLOCK = StepContext(step=jnp.int32(0), epoch=jnp.int32(0), key=jax.random.key(0))
CONFIG = SASRecConfig(embedding_size=8, num_heads=2, max_length=3, num_negatives=5)


@pytest.mark.parametrize("size", [3, 512])
def test_losses_agree_with_plain_loops(size):
    rng = np.random.default_rng(0)
    hidden, targets = rng.normal(size=(2, size, 4))
    vectors, next_items, negatives = rng.normal(size=(7, 4)), rng.integers(7, size=size), np.array([2, 2, 6])
    for candidates in (negatives, None):
        given = [jnp.float32(part) for part in (hidden, targets)]
        found = softmax_losses(*given, jnp.asarray(next_items), jnp.float32(vectors), candidates)
        for place in range(0, size, 7):
            sums = np.exp(vectors @ hidden[place])
            total = sums.sum()
            if candidates is not None:
                others = negatives[negatives != next_items[place]]
                total = sums[next_items[place]] + sums[others].sum() * 7 / len(negatives)
            expected = np.log(total) - hidden[place] @ targets[place]
            np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-5)


def test_sampled_losses_aim_at_those_of_all_items():
    """The sum of sampled exponentials is unbiased: with many draws its logarithm is right."""
    rng = np.random.default_rng(1)
    hidden, vectors = jnp.float32(rng.normal(size=(4, 3))), jnp.float32(rng.normal(size=(30, 3)))
    next_items = jnp.asarray(rng.integers(30, size=4))
    targets, many = vectors[next_items], jnp.asarray(rng.integers(30, size=200_000))
    sampled = softmax_losses(hidden, targets, next_items, vectors, many)
    np.testing.assert_allclose(sampled, softmax_losses(hidden, targets, next_items, vectors, None), atol=0.02)


def test_few_items_all_compete_and_many_are_sampled():
    assert SASRecConfig().negatives_of(2_810) == 0
    assert SASRecConfig().negatives_of(94_949) == 2048
    assert SASRecConfig(num_negatives=0).negatives_of(94_949) == 0
    assert SASRecConfig(num_negatives=64).negatives_of(50) == 0


def test_long_rows_tell_of_sets_and_short_ones_of_the_next_item():
    def train(length):
        return csr_from_pairs(np.array([(user, item) for user in range(4) for item in range(length)]), 4, 30)

    assert SASRecConfig().horizon_of(train(20)) == 3.0
    assert SASRecConfig().horizon_of(train(19)) == 0.0
    without = sparse.csr_array(sparse.vstack([train(20), sparse.csr_array((2, 30))]))
    assert SASRecConfig().horizon_of(without) == 3.0  # users without items change nothing
    assert SASRecConfig(future_horizon=1.5).horizon_of(train(19)) == 1.5
    assert SASRecConfig(future_horizon=0.0).horizon_of(train(20)) == 0.0


@pytest.mark.parametrize("settings", [{"num_negatives": 0}, {"num_negatives": 5}, {"future_horizon": 2.0}])
def test_losses_do_not_depend_on_the_other_rows(settings):
    recommender = make_sasrec(SASRecConfig(8, 1, 2, 6, **settings), TRAIN)
    params = recommender.init_params(jax.random.key(0))

    @jax.jit
    def losses(batch):
        return recommender.loss_fn(params, (), batch, row_keys(jax.random.key(7), batch), CLOCK)[0]

    together = losses(make_row_batch(TRAIN, np.array([9, 3, 5])))
    np.testing.assert_allclose(losses(make_row_batch(TRAIN, np.array([5])))[0], together[2], rtol=1e-4)
    assert np.all(np.isfinite(together)) and np.all(together > 0)


def test_scores_come_from_the_newest_items_in_order():
    """Two blocks that look 3 items back know the 5 newest."""
    recommender = make_sasrec(CONFIG, TRAIN)
    params = jax.tree.map(lambda leaf: 3 * leaf, recommender.init_params(jax.random.key(0)))
    user = int(np.argmax(np.diff(TRAIN.indptr)))
    items = TRAIN.indices[TRAIN.indptr[user] : TRAIN.indptr[user + 1]]
    assert len(items) > 8

    def scores(order):
        matrix = TRAIN.copy()
        matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]] = order
        batch = make_row_batch(matrix, np.array([user - 1, user]), batch_size=3)
        return recommender.score_fn(params, batch, row_keys(jax.random.key(0), batch))[1]

    original = scores(items)
    np.testing.assert_allclose(scores(np.concatenate([items[:-5][::-1], items[-5:]])), original, rtol=1e-4, atol=1e-5)
    assert np.abs(scores(np.concatenate([items[:-5], items[-5:][::-1]])) - original).max() > 1e-3


def test_values_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="does not split over num_heads 3"):
        SASRecConfig(embedding_size=8, num_heads=3)
    with pytest.raises(ValueError, match="max_length"):
        SASRecConfig(max_length=1)
