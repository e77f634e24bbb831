import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.recommenders import (
    BiasesConfig,
    DiffRecConfig,
    EaseConfig,
    FittedRecommender,
    GlobalMeanConfig,
    StepContext,
    make_biases,
    make_diffrec,
    make_ease,
    make_global_mean,
    on_ratings,
    rating_rows,
    values_of,
)
from diffrec_jax.recommenders.biases import fit_biases
from diffrec_jax.rows import row_keys, to_dense
from tests.rated_data import DATASET, DENSE, NUM_ITEMS, NUM_USERS
from tests.reference import comparators_numpy, ratings_numpy

TRAIN, CONFIG = DATASET.rated("train"), BiasesConfig()
BATCH = make_row_batch(TRAIN, np.arange(NUM_USERS), batch_size=NUM_USERS + 2)
KEYS = row_keys(jax.random.key(0), BATCH)
EXPECTED, RESIDUALS = ratings_numpy.residuals(DENSE["train"], CONFIG.user_l2, CONFIG.item_l2)


def scores_of(recommender, batch=BATCH):
    state = jax.device_put(recommender.fit(TRAIN))
    return np.asarray(jax.jit(recommender.score_fn)(state, batch, row_keys(jax.random.key(0), batch)))


@pytest.mark.parametrize(("user_l2", "item_l2"), [(5, 2), (0.5, 20), (0, 1)])
def test_biases_solve_their_normal_equations(user_l2, item_l2):
    mean, by_user, by_item = ratings_numpy.biases(DENSE["train"], user_l2, item_l2)
    config = BiasesConfig(user_l2=user_l2, item_l2=item_l2)
    found = fit_biases(config, TRAIN)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.items, by_item, atol=2e-5)
    predicted = scores_of(make_biases(config))[:NUM_USERS]
    np.testing.assert_allclose(predicted, mean + by_user[:, None] + by_item[None], atol=2e-4)


def test_a_new_user_has_the_bias_of_its_own_row_and_items_nobody_rated_have_none():
    biases = fit_biases(CONFIG, TRAIN)
    dense = np.zeros((1, NUM_ITEMS))
    dense[0, [2, 7]] = 5, 4
    batch = make_row_batch(type(TRAIN)(dense.astype(np.float32)), np.array([0]))
    of_user = sum(dense[0, item] - float(biases.mean) - float(biases.items[item]) for item in (2, 7)) / (
        2 + CONFIG.user_l2
    )
    found = scores_of(make_biases(CONFIG), batch)[0]
    np.testing.assert_allclose(found, float(biases.mean) + of_user + biases.items, rtol=1e-5)
    unrated = TRAIN.tolil()
    unrated[:, 3] = 0
    assert fit_biases(CONFIG, unrated.tocsr()).items[3] == 0


def test_the_global_mean_is_the_same_everywhere():
    found = scores_of(make_global_mean(GlobalMeanConfig(), NUM_ITEMS))
    np.testing.assert_allclose(found, np.nanmean(DENSE["train"]), rtol=1e-6)
    assert found.shape == (NUM_USERS + 2, NUM_ITEMS)


def test_rows_are_what_biases_leave_and_scores_are_ratings_again():
    rows = rating_rows("residuals", TRAIN)
    values = np.asarray(to_dense(rows.values(BATCH), NUM_ITEMS))
    np.testing.assert_allclose(values[:NUM_USERS], RESIDUALS, atol=2e-4)
    assert not np.any(values[NUM_USERS:]) and not np.any(np.asarray(rows.values(BATCH).weights)[TRAIN.nnz :])
    np.testing.assert_allclose(values_of(rows, TRAIN).toarray(), RESIDUALS, atol=2e-4)
    ratings = np.asarray(rows.ratings(jnp.asarray(values), BATCH))[:NUM_USERS]
    np.testing.assert_allclose(ratings, EXPECTED + RESIDUALS, atol=2e-4)
    rated = ~np.isnan(DENSE["train"])
    np.testing.assert_allclose(ratings[rated], DENSE["train"][rated], rtol=1e-5)


def test_scaled_rows_have_the_largest_rating_as_1():
    rows = rating_rows("ratings", TRAIN)
    values = to_dense(rows.values(BATCH), NUM_ITEMS)
    np.testing.assert_allclose(values[:NUM_USERS], np.nan_to_num(DENSE["train"]) / 5, rtol=1e-6)
    np.testing.assert_allclose(rows.ratings(values, BATCH)[:NUM_USERS], np.nan_to_num(DENSE["train"]), rtol=1e-6)
    below = TRAIN.copy()
    below.data -= 5
    with pytest.raises(ValueError, match="needs ratings above 0.* the least is -4: take residuals"):
        rating_rows("ratings", below)
    rating_rows("residuals", below)
    with pytest.raises(ValueError, match="row_values 'ones' are no ratings"):
        rating_rows("ones", TRAIN)


def test_ease_on_what_biases_leave_is_the_plain_formula():
    made = on_ratings(make_ease(EaseConfig(l2=30.0)), rating_rows("residuals", TRAIN))
    assert isinstance(made, FittedRecommender)
    expected = EXPECTED + RESIDUALS @ comparators_numpy.ease(RESIDUALS, 30.0)
    np.testing.assert_allclose(scores_of(made)[:NUM_USERS], expected, atol=2e-3)


def test_a_trained_model_sees_and_learns_the_values():
    """Its loss and its scores are those of the model itself on rows that hold them."""
    config = DiffRecConfig(dims=(6,), num_timesteps=3, unobserved_error_weight=0.2, observed_error_weight=0.5)
    plain, rows = make_diffrec(config, NUM_ITEMS), rating_rows("residuals", TRAIN)
    made = on_ratings(plain, rows)
    params, history = plain.init_params(jax.random.key(1)), plain.init_model_state()
    context = StepContext(jnp.int32(0), jnp.int32(0), jax.random.key(2))
    inner = make_row_batch(values_of(rows, TRAIN), np.arange(NUM_USERS), batch_size=NUM_USERS + 2)
    found, expected = (
        jax.jit(model.loss_fn)(params, history, batch, KEYS, context)[0]
        for model, batch in ((made, BATCH), (plain, inner))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    state = plain.prepare_scoring(params)
    found, scores = (
        np.asarray(jax.jit(model.score_fn)(state, batch, KEYS))[:NUM_USERS]
        for model, batch in ((made, BATCH), (plain, inner))
    )
    np.testing.assert_allclose(found, EXPECTED + scores, atol=5e-4)
    assert made.score_new_fn is None


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="item_l2 must be at least 0, got -1"):
        BiasesConfig(item_l2=-1)
