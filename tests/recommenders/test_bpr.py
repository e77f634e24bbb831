import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import LightGCNConfig, MFConfig, StepContext, bpr, make_bpr
from diffrec_jax.recommenders.bpr import FOLD_IN, Vectors, make_propagate
from diffrec_jax.rows import row_keys, sample_unseen
from tests.reference import assert_close
from tests.reference import comparators_numpy as reference

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4)).train
NUM_USERS, NUM_ITEMS = TRAIN.shape
X = TRAIN.toarray()
CLOCK = StepContext(step=jnp.int32(0), epoch=jnp.int32(0), key=jax.random.key(0))
CONFIGS = {"mf": MFConfig(embedding_size=6, l2=0.01), "lightgcn": LightGCNConfig(embedding_size=6, l2=0.01)}
any_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.mark.parametrize("between_items", ["dense", "sparse"])
@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
def test_propagation_and_its_gradient_agree_with_the_dense_adjacency(num_layers, between_items, monkeypatch):
    monkeypatch.setattr(bpr, "DENSE_RATIO", 1e9 if between_items == "dense" else 0)
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(NUM_USERS, 5)), rng.normal(size=(NUM_ITEMS, 5))
    weights = Vectors(jnp.float32(rng.normal(size=users.shape)), jnp.float32(rng.normal(size=items.shape)))
    propagate, rows = make_propagate(TRAIN, num_layers), make_row_batch(TRAIN, np.arange(NUM_USERS))
    vectors = Vectors(jnp.float32(users), jnp.float32(items))
    expected = reference.propagate(X, users, items, num_layers)
    for part, expected_part in zip(propagate(vectors, rows)[0], expected):
        np.testing.assert_allclose(part, expected_part, rtol=1e-5, atol=1e-6)

    some = np.array([7, 0, 31])
    found, _ = propagate(vectors, make_row_batch(TRAIN, some, batch_size=4))
    np.testing.assert_allclose(found.users[:3], expected[0][some], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.items, expected[1], rtol=1e-5, atol=1e-6)

    def product(vectors):
        return sum(jnp.sum(a * b) for a, b in zip(weights, propagate(vectors, rows)[0]))

    # The adjacency is symmetric: the gradient is the propagation of the weights.
    gradient = jax.grad(product)(vectors)
    for part, expected_part in zip(gradient, reference.propagate(X, *map(np.float64, weights), num_layers)):
        np.testing.assert_allclose(part, expected_part, rtol=1e-4, atol=1e-5)


@any_config
@pytest.mark.parametrize("scores", ["dense", "gathered"])
def test_losses_agree_with_the_reference(config, scores, monkeypatch):
    monkeypatch.setattr(bpr, "DENSE_RATIO", 1e9 if scores == "dense" else 0)
    recommender = make_bpr(config, TRAIN)
    params = jax.tree.map(lambda leaf: 5 * leaf, recommender.init_params(jax.random.key(0)))
    users = np.array([3, 0, 17])
    batch = make_row_batch(TRAIN, users, batch_size=4)
    keys = row_keys(jax.random.key(1), batch)
    losses, _ = recommender.loss_fn(params, (), batch, keys, CLOCK)
    base = [np.float64(params[name]) for name in ("users", "items")]
    user_vectors, item_vectors = reference.propagate(X, *base, config.num_layers)
    negatives = np.asarray(sample_unseen(batch, keys, NUM_ITEMS))
    expected = np.zeros(4)
    for row, positive, negative in zip(batch.rows, batch.item_ids, negatives):
        if positive == NUM_ITEMS:
            continue
        difference = user_vectors[users[row]] @ (item_vectors[positive] - item_vectors[negative])
        penalty = sum(np.sum(v**2) for v in (base[0][users[row]], base[1][positive], base[1][negative]))
        expected[row] += np.log1p(np.exp(-difference)) + config.l2 * penalty
    np.testing.assert_allclose(losses, expected / (TRAIN.nnz / NUM_USERS), rtol=1e-4)


@any_config
def test_losses_do_not_depend_on_the_other_rows_and_scores_are_of_the_user(config):
    recommender = make_bpr(config, TRAIN)
    params = recommender.init_params(jax.random.key(0))

    def losses(users):
        batch = make_row_batch(TRAIN, np.array(users))
        return recommender.loss_fn(params, (), batch, row_keys(jax.random.key(7), batch), CLOCK)[0]

    np.testing.assert_allclose(losses([9, 3, 5])[2], losses([5])[0], rtol=1e-5)
    state = recommender.prepare_scoring(params)
    batch = make_row_batch(TRAIN, np.array([8, 2]))
    scores = recommender.score_fn(state, batch, row_keys(jax.random.key(0), batch))
    assert_close(scores, state.users[np.array([8, 2])] @ state.items.T)
    assert recommender.item_embeddings(state).shape == (NUM_ITEMS, 6)


def test_a_user_who_has_seen_everything_counts_nothing():
    matrix = TRAIN[:2].copy()
    full = make_row_batch(_with_full_row(matrix), np.array([0, 1]))
    recommender = make_bpr(MFConfig(embedding_size=6), TRAIN)
    params = recommender.init_params(jax.random.key(0))
    losses, _ = recommender.loss_fn(params, (), full, row_keys(jax.random.key(0), full), CLOCK)
    assert losses[0] == 0 and losses[1] > 0


def scores_of_new(config, params, users):
    recommender, batch = (
        make_bpr(config, TRAIN),
        make_row_batch(TRAIN, users, batch_size=4)._replace(user_ids=np.zeros(4)),
    )
    nobody = batch._replace(user_ids=np.zeros(4, np.int32))
    return recommender.score_new_fn(recommender.prepare_scoring(params), nobody, None)[: len(users)]


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_new_user_of_lightgcn_is_one_without_a_vector_of_its_own(num_layers):
    config, users = LightGCNConfig(embedding_size=6, num_layers=num_layers), np.array([7, 0, 31])
    params = make_bpr(config, TRAIN).init_params(jax.random.key(0))
    found = scores_of_new(config, params, users)
    base = np.float64(params["users"]), np.float64(params["items"])
    own = np.zeros_like(base[0])
    own[users] = base[0][users] / (num_layers + 1)  # of the layers, the part that a user sends to itself: the first
    vectors, items = reference.propagate(X, *base, num_layers)
    expected = (vectors - own)[users] @ items.T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_new_user_of_mf_is_solved_for_by_least_squares():
    config, users = MFConfig(embedding_size=6), np.array([7, 0, 31])
    params = make_bpr(config, TRAIN).init_params(jax.random.key(0))
    found = scores_of_new(config, params, users)
    items = np.float64(params["items"])
    for scores, row in zip(found, X[users].astype(np.float64)):
        vector = reference.ials_row(row, row > 0, items, FOLD_IN.l2, FOLD_IN.unobserved_weight, 1.0)
        np.testing.assert_allclose(scores, items @ vector, rtol=1e-3, atol=1e-5)


def _with_full_row(matrix):
    dense = matrix.toarray()
    dense[0] = 1
    return type(matrix)(dense)
