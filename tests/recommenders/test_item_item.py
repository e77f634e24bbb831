import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import (
    RowWeighting,
    find_dataset_folder,
    make_row_batch,
    parse_recency,
    read_official,
    similarity,
)
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.evaluation import Evaluator, evaluate_dataset
from diffrec_jax.recommenders import (
    EaseConfig,
    GFCFConfig,
    ItemKNNConfig,
    RP3betaConfig,
    SlimConfig,
    make_ease,
    make_gfcf,
    make_item_knn,
    make_rp3beta,
    make_slim,
)
from tests.reference import comparators_numpy as reference

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=60, num_items=30, num_interactions=700, num_clusters=4)).train
X = TRAIN.toarray().astype(np.float64)
NUM_USERS, NUM_ITEMS = TRAIN.shape
RECENCY = parse_recency("linear:0:1")


def scores(recommender, rows=TRAIN):
    batch = make_row_batch(rows, np.arange(rows.shape[0]))
    return np.asarray(recommender.score_fn(recommender.fit(TRAIN), batch, None))


CASES = {
    "ease": (make_ease(EaseConfig(l2=20.0)), X @ reference.ease(X, 20.0), 1e-5),
    # The randomised SVD of so flat a spectrum is right to a few thousandths.
    "gfcf": (make_gfcf(GFCFConfig(rank=5, alpha=0.7)), reference.gfcf(X, 5, 0.7), 1e-2),
    "itemknn": (make_item_knn(ItemKNNConfig(num_neighbors=7, shrink=3.0)), X @ reference.item_knn(X, 7, 3.0), 1e-5),
    "rp3beta": (
        make_rp3beta(RP3betaConfig(num_neighbors=7, alpha=0.8, beta=0.4)),
        X @ reference.rp3beta(X, 7, 0.8, 0.4),
        1e-5,
    ),
}


@pytest.mark.parametrize(("recommender", "expected", "atol"), CASES.values(), ids=CASES.keys())
def test_scores_agree_with_the_reference(recommender, expected, atol):
    np.testing.assert_allclose(scores(recommender), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_items_give_what_one_block_gives(name, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 8 * NUM_ITEMS * 7)
    recommender, expected, atol = CASES[name]
    np.testing.assert_allclose(scores(recommender), expected, rtol=1e-4, atol=atol)


def test_weighted_rows_are_scored_by_their_weights_and_weighted_training_is_another_model():
    weighted = RECENCY.weigh(TRAIN)
    dense = weighted.toarray().astype(np.float64)
    recommender = make_ease(EaseConfig(l2=20.0))
    np.testing.assert_allclose(scores(recommender, weighted), dense @ reference.ease(X, 20.0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(recommender.fit(weighted), reference.ease(dense, 20.0), rtol=1e-4, atol=1e-5)


def test_more_neighbours_than_items_is_every_item():
    recommender = make_item_knn(ItemKNNConfig(num_neighbors=1000, shrink=0.0))
    np.testing.assert_allclose(scores(recommender), X @ reference.item_knn(X, NUM_ITEMS, 0.0), rtol=1e-4, atol=1e-5)


def slim_objective(column, weights, config):
    rest = column - X @ weights
    return 0.5 * rest @ rest + 0.5 * config.l2 * weights @ weights + config.l1 * weights.sum()


def test_slim_is_sparse_and_no_single_coefficient_can_be_improved():
    config = SlimConfig(l1=1.0, l2=5.0, num_candidates=0)
    weights = make_slim(config).fit(TRAIN).astype(np.float64)
    assert (weights >= 0).all() and np.all(np.diag(weights) == 0)
    assert 0 < np.count_nonzero(weights) < weights.size / 2
    for item in range(NUM_ITEMS):
        best = slim_objective(X[:, item], weights[:, item], config)
        for other in set(range(NUM_ITEMS)) - {item}:
            for change in (-0.02, 0.02):
                moved = weights[:, item].copy()
                moved[other] = max(moved[other] + change, 0.0)
                assert slim_objective(X[:, item], moved, config) >= best - 1e-3


def test_slim_takes_its_coefficients_from_the_candidates():
    few = make_slim(SlimConfig(l1=0.1, l2=5.0, num_candidates=4)).fit(TRAIN)
    cosine = reference.item_knn(X, 4, 0.0)
    assert np.all(few[cosine.T == 0] == 0) and 0 < (few > 0).sum(0).max() <= 4


@pytest.mark.parametrize(
    ("config_class", "wrong"),
    [
        (EaseConfig, {"l2": 0.0}),
        (SlimConfig, {"l1": -1.0}),
        (SlimConfig, {"l1": 0.0, "l2": 0.0}),
        (GFCFConfig, {"rank": 0}),
        (ItemKNNConfig, {"num_neighbors": 0}),
        (RP3betaConfig, {"beta": float("nan")}),
    ],
)
def test_values_out_of_range_are_named(config_class, wrong):
    with pytest.raises(ValueError, match="l1 and l2" if len(wrong) == 2 else next(iter(wrong))):
        dataclasses.replace(config_class(), **wrong)


def test_memory_is_known_before_it_is_taken():
    for make, config, bytes_per_pair in (
        (make_ease, EaseConfig(), 16),
        (make_slim, SlimConfig(), 8),
        (make_gfcf, GFCFConfig(), 12),
    ):
        constant = make(config).fit_bytes(TRAIN) - bytes_per_pair * NUM_ITEMS**2
        assert constant == 4 * similarity.BLOCK_BYTES


@pytest.mark.parametrize(
    ("recency", "expected"), [("none", (0.1816, 0.1165)), ("linear:0:1", (0.2202, 0.1471))], ids=["EASE", "T-EASE"]
)
def test_ease_on_ml_1m_gives_the_independently_computed_figures(data_dir, recency, expected):
    dataset = read_official(find_dataset_folder("ml-1m", "clean", data_dir))
    recommender = make_ease(EaseConfig(l2=1000.0))
    state = jnp.asarray(recommender.fit(dataset.train))
    results = evaluate_dataset(
        Evaluator(recommender.score_fn, ks=(20,)), state, dataset, weighting=RowWeighting(infer=parse_recency(recency))
    )
    means = results["test"].mean()
    np.testing.assert_allclose((means["recall@20"], means["ndcg@20"]), expected, atol=1e-4)
