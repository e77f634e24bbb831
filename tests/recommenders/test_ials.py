import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch, parse_recency
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import IALSConfig, make_ials
from diffrec_jax.recommenders.ials import IALSState
from diffrec_jax.recommenders.least_squares import LeastSquares, solve_positive_definite, solve_rows
from tests.reference import assert_close
from tests.reference import comparators_numpy as reference

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=60, num_items=30, num_interactions=700, num_clusters=4)).train
SQUARES = LeastSquares(l2=0.02, unobserved_weight=0.2, l2_exponent=0.7)


@pytest.mark.parametrize(("size", "right_sides"), [(1, 1), (32, 2), (33, 1), (70, 3)])
def test_systems_are_solved_to_rounding(size, right_sides):
    rng = np.random.default_rng(size)
    factor = rng.normal(size=(4, size, size + 5))
    left = factor @ factor.transpose(0, 2, 1) + 0.5 * np.eye(size)
    right = rng.normal(size=(4, size, right_sides))
    found = solve_positive_definite(jnp.float32(left), jnp.float32(right))
    expected = np.linalg.solve(left, right)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_rows_are_solved_without_library_calls():
    """jaxlib's batched LAPACK calls wait for each other for ever where CPU devices hold all threads of the pool."""
    state = IALSState(jnp.ones((TRAIN.shape[1], 40)), jnp.ones((40, 40)))
    batch = make_row_batch(TRAIN, np.arange(20))
    compiled = jax.jit(functools.partial(solve_rows, SQUARES)).lower(batch, *state).compile().as_text()
    assert "lapack" not in compiled


@pytest.mark.parametrize("recency", ["none", "linear:0:1"])
def test_solved_rows_agree_with_the_reference(recency):
    weighted = parse_recency(recency).weigh(TRAIN)
    table = np.random.default_rng(0).normal(size=(TRAIN.shape[1], 8))
    state = IALSState(jnp.float32(table), jnp.float32(table.T @ table))
    users = np.arange(20)
    found = solve_rows(SQUARES, make_row_batch(weighted, users, batch_size=24), *state)
    rows, stored = weighted.toarray().astype(np.float64), TRAIN.toarray() > 0
    expected = [reference.ials_row(rows[user], stored[user], table, 0.02, 0.2, 0.7) for user in users]
    np.testing.assert_allclose(found[:20], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[20:], 0, atol=1e-6)


def objective(users, items):
    """The sum that both half-steps lower."""
    observed = TRAIN.toarray()
    predicted = users @ items.T
    total = np.sum(observed * (predicted - 1) ** 2) + 0.2 * np.sum(predicted**2)
    for vectors, counts, others in ((users, observed.sum(1), len(items)), (items, observed.sum(0), len(users))):
        total += np.sum(0.02 * (counts + 0.2 * others) ** 0.7 * np.sum(vectors**2, axis=1))
    return total


def test_iterations_lower_the_objective_and_scores_are_the_users_vectors_times_the_items():
    batch = make_row_batch(TRAIN, np.arange(TRAIN.shape[0]))
    values = []
    for iterations in (1, 2, 6):
        config = IALSConfig(8, 0.02, 0.2, 0.7, iterations)
        recommender = make_ials(config)
        state = recommender.fit(TRAIN)
        users = solve_rows(SQUARES, batch, *state)
        values.append(objective(np.asarray(users), np.asarray(state.items)))
        scores = recommender.score_fn(state, batch, jax.random.split(jax.random.key(0), TRAIN.shape[0]))
        # Solved twice: a GPU leaves the order of sums open, and the systems enlarge what that changes.
        assert_close(scores, users @ state.items.T, rtol=1e-4)
    assert values[0] > values[1] > values[2]


def test_the_seed_decides():
    first, again, other = (make_ials(IALSConfig(4, num_iterations=1, seed=seed)).fit(TRAIN).items for seed in (1, 1, 2))
    assert_close(again, first, rtol=1e-3)  # as above
    assert np.abs(np.asarray(first) - np.asarray(other)).max() > 0.1 * np.abs(first).max()
