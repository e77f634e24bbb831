import numpy as np
import pytest
from scipy import sparse

from diffrec_jax.data import find_dataset_folder, make_row_batch, read_official
from diffrec_jax.evaluation import Evaluator, evaluate_dataset
from diffrec_jax.recommenders import WindowRidgeConfig, make_window_ridge, window_ridge
from tests.reference import comparators_numpy as reference

pytestmark = pytest.mark.once

NUM_ITEMS = 12
RNG = np.random.default_rng(0)
ROWS = [
    (RNG.permutation(NUM_ITEMS)[:length], RNG.uniform(0.5, 1.5, length).astype(np.float32))
    for length in (0, 1, 2, 3, 5, 9, 12, 7, 7)
]


def matrix(rows):
    indptr = np.cumsum([0, *(len(items) for items, _ in rows)])
    items, weights = (np.concatenate(parts) for parts in zip(*rows))
    return sparse.csr_array((weights, items, indptr), shape=(len(rows), NUM_ITEMS))


def newest(length):
    return [(items[-length:], weights[-length:]) for items, weights in ROWS]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("max_length", [2, 8, 50])
def test_weights_and_scores_are_those_of_all_windows_made_one_by_one(stride, max_length):
    config = WindowRidgeConfig(scales=(1, 4), horizon=2.5, l2=0.7, stride=stride, max_length=max_length)
    recommender = make_window_ridge(config)
    expected = reference.window_ridge(newest(max_length), NUM_ITEMS, (1, 4), 2.5, 0.7, stride)
    state = recommender.fit(matrix(ROWS))
    np.testing.assert_allclose(state.weights.reshape(2 * NUM_ITEMS, NUM_ITEMS), expected, rtol=1e-4, atol=1e-6)
    past = [np.concatenate([reference.recency_row(*row, NUM_ITEMS, scale) for scale in (1, 4)]) for row in ROWS]
    batch = make_row_batch(matrix(ROWS), np.arange(len(ROWS)), batch_size=len(ROWS) + 1)
    scores = recommender.score_fn(state, batch, None)
    np.testing.assert_allclose(scores[:-1], np.array(past) @ expected, rtol=1e-4, atol=1e-5)
    assert np.all(scores[-1] == 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_all_factors_are_no_restriction(stride):
    """An orthogonal F turns the coordinates, and neither the rows nor the penalty."""
    rows = matrix([(np.roll(items, turn), weights) for turn in range(4) for items, weights in ROWS])
    given = {"scales": (1, 4), "l2": 0.7, "stride": stride}
    whole = make_window_ridge(WindowRidgeConfig(**given)).fit(rows)
    reduced = make_window_ridge(WindowRidgeConfig(rank=NUM_ITEMS, **given)).fit(rows)
    assert reduced.factors.shape == (NUM_ITEMS, NUM_ITEMS)
    np.testing.assert_allclose(reduced.factors @ reduced.weights, whole.weights, rtol=1e-3, atol=1e-5)
    batch = make_row_batch(rows, np.arange(8))
    found = [make_window_ridge(WindowRidgeConfig(**given)).score_fn(state, batch, None) for state in (whole, reduced)]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def dense(state):
    """The weights of neighbours as [S I, I]."""
    num_scales, num_items, _ = state.weights.shape
    found = np.zeros((num_scales * num_items, NUM_ITEMS))
    rows = np.arange(num_scales * num_items)[:, None]
    np.add.at(found, (rows, state.neighbors.reshape(len(rows), -1)), state.weights.reshape(len(rows), -1))
    return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pairs_at_once", [1, 60, 10**6])
def test_an_item_is_predicted_from_those_that_come_before_it_most(monkeypatch, stride, pairs_at_once):
    monkeypatch.setattr(window_ridge, "PAIRS_AT_ONCE", pairs_at_once)
    phi, y = reference.windows(newest(8), NUM_ITEMS, (1, 4), 2.5, stride)
    gram, right = phi.T @ phi, (phi.T @ y).reshape(2, NUM_ITEMS, NUM_ITEMS)
    for most in (3, NUM_ITEMS):
        expected = np.zeros((2 * NUM_ITEMS, NUM_ITEMS))
        for item in range(NUM_ITEMS):
            before = np.argsort(-right.sum(0)[:, item], kind="stable")[:most]
            before = before[right.sum(0)[before, item] > 0]
            own = np.concatenate([before, before + NUM_ITEMS])
            system = gram[np.ix_(own, own)] + 0.7 * np.eye(len(own))
            expected[own, item] = np.linalg.solve(system, right.reshape(-1, NUM_ITEMS)[own, item])
        for row in expected:  # each keeps its strongest
            row[np.argsort(-np.abs(row), kind="stable")[most:]] = 0.0
        config = WindowRidgeConfig((1, 4), 2.5, 0.7, stride, 8, num_neighbors=most)
        state = make_window_ridge(config).fit(matrix(ROWS))
        np.testing.assert_allclose(dense(state), expected, rtol=1e-4, atol=1e-6)
        batch = make_row_batch(matrix(ROWS), np.arange(len(ROWS)), batch_size=len(ROWS) + 1)
        past = [np.concatenate([reference.recency_row(*row, NUM_ITEMS, scale) for scale in (1, 4)]) for row in ROWS]
        scores = make_window_ridge(config).score_fn(state, batch, None)
        np.testing.assert_allclose(scores[:-1], np.array(past) @ expected, rtol=1e-4, atol=1e-5)


def test_blocks_of_rows_give_what_one_block_gives(monkeypatch):
    recommender = make_window_ridge(WindowRidgeConfig(scales=(1, 4), rank=5, l2=2.0))
    expected = recommender.fit(matrix(ROWS * 3)).weights
    monkeypatch.setattr(window_ridge, "BLOCK_BYTES", 1)
    np.testing.assert_allclose(recommender.fit(matrix(ROWS * 3)).weights, expected, rtol=1e-4, atol=1e-6)


def test_on_ml_1m_it_is_far_above_linear_models_of_whole_rows(data_dir):
    dataset = read_official(find_dataset_folder("ml-1m", "clean", data_dir))
    recommender = make_window_ridge(WindowRidgeConfig(rank=64, stride=8))  # the whole one takes longer
    results = evaluate_dataset(Evaluator(recommender.score_fn, ks=(20,)), recommender.fit(dataset.train), dataset)
    assert results["test"].mean()["recall@20"] > 0.24  # EASE: .1816


def test_settings_are_checked():
    for wrong, message in [
        ({"scales": ()}, "scales must be one or more positive whole numbers"),
        ({"horizon": 0.0}, "horizon must be above 0"),
        ({"max_length": 1}, "max_length must be at least 2"),
        ({"rank": 3, "num_neighbors": 2}, "rank and num_neighbors are two ways to save memory"),
    ]:
        with pytest.raises(ValueError, match=message):
            WindowRidgeConfig(**wrong)
