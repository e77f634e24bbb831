import tracemalloc

import numpy as np
import pytest
from scipy import linalg, sparse

from diffrec_jax.data import similarity
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import LinearFit, fit_linear_denoiser, fit_linear_factors, linear_denoiser
from diffrec_jax.recommenders.linear_denoiser import linear_factors_bytes, user_weighted

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=80, num_items=24, num_interactions=700, num_clusters=4)).train
X = TRAIN.toarray().astype(np.float64)
GROUPS = np.arange(24) % 2


def user_weights(power):
    counts = (X > 0).sum(axis=1)
    return (counts / counts.mean()) ** power


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.3])
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_each_item_is_the_ridge_regression_on_the_others(dropout, power):
    """The expected squared error over dropout's draws is a ridge whose penalty grows with an item's frequency."""
    found = fit_linear_denoiser(TRAIN, LinearFit(l2=3.0, dropout=dropout, user_weight_power=power))
    weighted = X * np.sqrt(user_weights(power))[:, None]
    for item in range(X.shape[1]):
        others = np.delete(np.arange(X.shape[1]), item)
        features = weighted[:, others]
        penalty = 3.0 + dropout / (1 - dropout) * np.square(features).sum(axis=0)
        expected = linalg.solve(features.T @ features + np.diag(penalty), features.T @ weighted[:, item])
        np.testing.assert_allclose(found[others, item], expected, rtol=1e-5, atol=1e-7)
        assert found[item, item] == 0


def test_no_other_matrix_of_zero_diagonal_has_less_error_on_dropped_rows():
    """By draws of dropout: moved anywhere, the fit has more of the error that it minimises."""
    rng, fit = np.random.default_rng(0), LinearFit(l2=1e-6, dropout=0.5)
    best = fit_linear_denoiser(TRAIN, fit).astype(np.float64)
    dropped = np.concatenate([X * (rng.random(X.shape) < 0.5) / 0.5 for _ in range(400)])
    target = np.tile(X, (400, 1))

    def error(weights):
        return np.square(dropped @ weights - target).mean()

    least = error(best)
    for _ in range(5):
        moved = 0.02 * rng.standard_normal(best.shape) * (1 - np.eye(len(best)))
        assert error(best + moved) > least and error(best - moved) > least


def test_users_of_the_same_number_of_items_weigh_the_same():
    np.testing.assert_array_equal(user_weighted(sparse.csr_array(np.eye(5, dtype=np.float32)), 0.7).data, np.ones(5))
    with_nobody = sparse.csr_array(sparse.vstack([TRAIN, sparse.csr_array((3, TRAIN.shape[1]))]))
    np.testing.assert_array_equal(user_weighted(with_nobody, 0.7).data, user_weighted(TRAIN, 0.7).data)
    users = user_weighted(TRAIN, 1.0).toarray()
    np.testing.assert_allclose(np.square(users).sum(axis=1) / user_weights(1.0), X.sum(axis=1), rtol=1e-6)


def test_full_rank_is_the_whole_matrix():
    fit = LinearFit(l2=5.0, user_weight_power=0.25)
    weights = fit_linear_denoiser(TRAIN, fit)
    factors = fit_linear_factors(TRAIN, GROUPS, (24, 24), fit)
    for group, encoder in enumerate(factors.encoders):
        decoder = factors.decoder[:, 24 * group : 24 * (group + 1)]
        np.testing.assert_allclose(encoder @ decoder.T, weights[group == GROUPS], atol=1e-5)


@pytest.mark.parametrize("ranks", [(3, 5), (1, 8)])
def test_no_other_factors_of_the_rank_are_closer_over_the_users(ranks):
    """Eckart-Young: what is left of X_c B_c is its smaller singular values."""
    fit = LinearFit(l2=5.0)
    weights = fit_linear_denoiser(TRAIN, fit).astype(np.float64)
    factors = fit_linear_factors(TRAIN, GROUPS, ranks, fit)
    assert factors.decoder.shape == (24, sum(ranks)) and factors.decoder.dtype == np.float32
    decoders = np.split(factors.decoder, [ranks[0]], axis=1)
    for group, rank in enumerate(ranks):
        own = group == GROUPS
        whole = X[:, own] @ weights[own]
        left = whole - X[:, own] @ factors.encoders[group] @ decoders[group].T
        tail = linalg.svdvals(whole)[rank:]
        np.testing.assert_allclose(np.square(left).sum(), np.square(tail).sum(), rtol=1e-4)


@pytest.mark.parametrize("ranks", [(20,), (400,), (20, 20)])
def test_memory_is_known_before_it_is_taken(ranks, monkeypatch):
    """The measured peak is below what is said, and not by half."""
    num_items = 400
    for module in (similarity, linear_denoiser):
        monkeypatch.setattr(module, "BLOCK_BYTES", 2**16)
    train = sparse.random_array((300, num_items), density=0.02, rng=0, format="csr", dtype=np.float32)
    tracemalloc.start()
    try:
        fit_linear_factors(train, np.arange(num_items) % len(ranks), ranks, LinearFit())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 * linear_factors_bytes(train) < peak < linear_factors_bytes(train)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"l2": 0.0}, "l2"), ({"dropout": 1.0}, "dropout"), ({"user_weight_power": -1.0}, "user_weight")],
)
def test_wrong_values_are_named(wrong, name):
    with pytest.raises(ValueError, match=name):
        LinearFit(**wrong)
