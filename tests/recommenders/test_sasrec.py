import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.models.sasrec import SASRecEncoder
from diffrec_jax.recommenders import SASRecConfig, StepContext, make_sasrec
from diffrec_jax.recommenders.sasrec import next_item_losses
from diffrec_jax.rows import row_keys

TRAIN = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4)).train
NUM_ITEMS = TRAIN.shape[1]
CLOCK = StepContext(step=jnp.int32(0), epoch=jnp.int32(0), key=jax.random.key(0))
CONFIG = SASRecConfig(embedding_size=8, num_heads=2, max_length=6, num_negatives=5)


def test_a_place_sees_what_came_before_it_alone():
    model = SASRecEncoder(num_items=20, max_length=6, embedding_size=8, num_heads=2)
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0), jnp.zeros(6, jnp.int32)))
    sequence = jnp.array([20, 20, 3, 7, 1, 9])
    before = model.apply(params, sequence)
    after = model.apply(params, sequence.at[4].set(11))
    np.testing.assert_allclose(after[2:4], before[2:4], rtol=1e-5)
    assert np.all(np.abs(after[4:] - before[4:]).max(1) > 1e-3)
    earlier = model.apply(params, sequence.at[2].set(11))
    assert np.abs(earlier[5] - before[5]).max() > 1e-4
    assert np.all(np.isfinite(before))


def test_losses_of_next_items_agree_with_plain_loops():
    rng = np.random.default_rng(0)
    hidden, vectors = rng.normal(size=(2, 3, 4)), rng.normal(size=(7, 4))
    next_items = np.array([[7, 2, 5], [0, 0, 6]])
    negatives = np.array([[2, 2, 1], [6, 3, 3]])
    for candidates in (negatives, None):
        found = next_item_losses(jnp.float32(hidden), jnp.asarray(next_items), jnp.float32(vectors), candidates)
        for row, place in np.ndindex(2, 3):
            target, expected = next_items[row, place], 0.0
            if target < 7:
                others = np.arange(7) if candidates is None else candidates[row]
                logits = vectors[[target, *others[others != target]]] @ hidden[row, place]
                expected = np.log(np.exp(logits).sum()) - logits[0]
            np.testing.assert_allclose(found[row, place], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_negatives", [0, 5])
def test_losses_do_not_depend_on_the_other_rows(num_negatives):
    recommender = make_sasrec(SASRecConfig(8, 1, 2, 6, num_negatives), TRAIN)
    params = recommender.init_params(jax.random.key(0))

    @jax.jit
    def losses(batch):
        return recommender.loss_fn(params, (), batch, row_keys(jax.random.key(7), batch), CLOCK)[0]

    together = losses(make_row_batch(TRAIN, np.array([9, 3, 5])))
    np.testing.assert_allclose(losses(make_row_batch(TRAIN, np.array([5])))[0], together[2], rtol=1e-4)
    assert np.all(np.isfinite(together)) and np.all(together > 0)


def test_scores_come_from_the_newest_items_in_order():
    recommender = make_sasrec(CONFIG, TRAIN)
    params = jax.tree.map(lambda leaf: 3 * leaf, recommender.init_params(jax.random.key(0)))
    user = int(np.argmax(np.diff(TRAIN.indptr)))
    items = TRAIN.indices[TRAIN.indptr[user] : TRAIN.indptr[user + 1]]
    assert len(items) > 8

    def scores(order):
        matrix = TRAIN.copy()
        matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]] = order
        batch = make_row_batch(matrix, np.array([user]), batch_size=2)
        return recommender.score_fn(params, batch, row_keys(jax.random.key(0), batch))[0]

    original = scores(items)
    np.testing.assert_allclose(scores(np.concatenate([items[:2][::-1], items[2:]])), original, rtol=1e-4, atol=1e-5)
    assert np.abs(scores(items[::-1]) - original).max() > 1e-3


def test_values_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="does not split over num_heads 3"):
        SASRecConfig(embedding_size=8, num_heads=3)
    with pytest.raises(ValueError, match="max_length"):
        SASRecConfig(max_length=1)
