import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from diffrec_jax.data import make_row_batch
from diffrec_jax.devices import SINGLE_DEVICE, MeshStrategy, PmapStrategy
from diffrec_jax.evaluation import Evaluator, RatingErrors, check_relevant, evaluate_dataset, evaluate_lists, goodness
from diffrec_jax.evaluation.candidates import SampledCandidates
from diffrec_jax.evaluation.rating_errors import rating_errors
from tests.rated_data import DATASET, DENSE, NUM_ITEMS, NUM_USERS
from tests.reference import ratings_numpy as reference

SCORES = np.random.default_rng(5).normal(3, 2, (NUM_USERS, NUM_ITEMS)).astype(np.float32)


def score_fn(table, batch, row_keys):
    return table[batch.user_ids]


@pytest.mark.parametrize(
    "devices", [SINGLE_DEVICE, PmapStrategy(2), MeshStrategy(2, 2, NUM_ITEMS)], ids=["one", "pmap", "mesh"]
)
def test_errors_are_those_of_plain_loops_in_float64(devices):
    evaluator = Evaluator(score_fn, ks=(5,), batch_size=8, devices=devices, rating_range=(1.0, 5.0))
    results = evaluate_dataset(evaluator, devices.place(SCORES), DATASET)
    for split, result in results.items():
        rmse, mae = reference.errors(SCORES, DENSE[split], 1, 5)
        for mode in ("official", "relevant_users"):
            means = result.mean(mode)
            np.testing.assert_allclose((means["rmse"], means["mae"]), (rmse, mae), rtol=1e-6)
        np.testing.assert_array_equal(result.rating_errors.num_ratings, (~np.isnan(DENSE[split])).sum(1))
    unclipped = dataclasses.replace(evaluator, rating_range=(-99.0, 99.0))
    found = evaluate_dataset(unclipped, devices.place(SCORES), DATASET)["test"].mean()["rmse"]
    np.testing.assert_allclose(found, reference.errors(SCORES, DENSE["test"], -99, 99)[0], rtol=1e-6)
    assert found > results["test"].mean()["rmse"] + 0.1


def test_every_rating_counts_once_and_only_of_the_users_evaluated():
    evaluator = Evaluator(score_fn, ks=(5,), batch_size=4, rating_range=(1.0, 5.0))
    users = np.array([3, 4, 20])
    found = evaluate_dataset(evaluator, jnp.asarray(SCORES), DATASET, user_ids=users)["test"].mean()["rmse"]
    np.testing.assert_allclose(found, reference.errors(SCORES[users], DENSE["test"][users], 1, 5)[0], rtol=1e-6)


def test_what_is_not_predicted_or_not_there_is_not_measured():
    plain = evaluate_dataset(Evaluator(score_fn, ks=(5,)), jnp.asarray(SCORES), DATASET)["test"]
    assert plain.rating_errors is None and "rmse" not in plain.mean()
    nothing = RatingErrors(np.zeros(3, int), np.zeros(3), np.zeros(3)).mean()
    assert np.isnan(nothing["rmse"]) and np.isnan(nothing["mae"])


def test_padding_and_masked_scores_make_no_error():
    row = sparse.csr_array((np.float32([2, 4]), np.array([1, 3]), np.array([0, 2])), shape=(1, 4))
    batch = make_row_batch(row, np.array([0]), batch_size=3)
    scores = jnp.float32([[-jnp.inf, 3, -jnp.inf, 9], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = rating_errors(scores, batch, (1.0, 5.0))
    assert [part.tolist() for part in found] == [[2, 0, 0], [2, 0, 0], [2, 0, 0]]


def test_a_ranking_finds_what_is_rated_high_and_errors_are_of_all():
    """Of candidates, lists and modes too; what was seen, or is rated low, is no hit."""
    strict = dataclasses.replace(DATASET, min_relevant_rating=4)
    evaluator = Evaluator(score_fn, ks=(5,), batch_size=8, rating_range=(1.0, 5.0))
    found, loose = (evaluate_dataset(evaluator, jnp.asarray(SCORES), data)["test"] for data in (strict, DATASET))
    high = DENSE["test"] >= 4
    np.testing.assert_array_equal(found.num_relevant, high.sum(1))
    assert found.mean()["rmse"] == loose.mean()["rmse"]
    np.testing.assert_array_equal(found.top_items, loose.top_items)
    hits = np.take_along_axis(high, found.top_items, axis=1).sum(1)
    np.testing.assert_allclose(found.per_user["recall@5"], hits / np.maximum(high.sum(1), 1), rtol=1e-6)
    assert found.mean()["recall@5"] != loose.mean()["recall@5"]
    lists = {user: items.tolist() for user, items in enumerate(found.top_items)}
    assert evaluate_lists(lists, strict, ks=(5,)).mean()["recall@5"] == pytest.approx(found.mean()["recall@5"])
    drawn = SampledCandidates(3).draw(strict, "test").toarray() > 0
    assert not np.any(drawn & ~np.isnan(DENSE["test"]) & ~high) and np.all(drawn[high])
    low = np.flatnonzero(high.sum(1) == 0)[:1]
    with pytest.raises(ValueError, match="none of the 1 evaluated users has relevant items"):
        check_relevant(strict, "relevant_users", low)


def test_errors_are_the_better_the_smaller():
    assert goodness("rmse", 0.9) > goodness("rmse", 1.0) and goodness("mae", 0.9) > goodness("mae", 1.0)
    assert goodness("recall@20", 0.2) > goodness("recall@20", 0.1)
