import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from diffrec_jax.data import (
    DataError,
    Dataset,
    Recency,
    RowWeighting,
    csr_from_pairs,
    find_dataset_folder,
    make_row_batch,
    read_official,
)
from diffrec_jax.devices import SINGLE_DEVICE, MeshStrategy, PmapStrategy
from diffrec_jax.evaluation import Evaluator, ScoresError, SplitTask, check_relevant, evaluate_dataset, top_k_items
from diffrec_jax.recommenders import PopularityConfig, make_popularity
from diffrec_jax.rows import to_dense


def csr(dense):
    return sparse.csr_array(np.asarray(dense, np.float32))


def dense_score_fn(table, batch, row_keys):
    """Scores by a table of the users' rows."""
    del row_keys
    return table[batch.user_ids]


def brute_force_lists(scores, seen, k):
    lists = []
    for user in range(len(scores)):
        candidates = [item for item in range(scores.shape[1]) if not seen[user, item]]
        lists.append(sorted(candidates, key=lambda item: (-scores[user, item], item))[:k])
    return lists


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.sampled_from([1, 3, 7, 30]))
def test_evaluation_agrees_with_plain_loops(seed, k):
    """Ties, users without relevant items, users who saw everything, K above the number of items."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (9, 11)).astype(np.float32)
    seen = rng.random((9, 11)) < rng.random((9, 1))
    seen[0] = True
    relevant = ~seen & (rng.random((9, 11)) < 0.3)
    relevant[1] = False
    evaluator = Evaluator(dense_score_fn, ks=(k,), batch_size=4)
    result = evaluator(jnp.asarray(scores), csr(seen), {"test": SplitTask(csr(seen), csr(relevant))})["test"]
    lists = brute_force_lists(scores, seen, k)
    for user, items in enumerate(lists):
        hits = [bool(relevant[user, item]) for item in items]
        count = relevant[user].sum()
        recall = sum(hits) / count if count else 0
        gain = sum(1 / np.log2(place + 2) for place, hit in enumerate(hits) if hit)
        ideal = sum(1 / np.log2(place + 2) for place in range(min(k, count)))
        mrr = next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0)
        np.testing.assert_allclose(result.per_user[f"recall@{k}"][user], recall, rtol=1e-5)
        np.testing.assert_allclose(result.per_user[f"ndcg@{k}"][user], gain / ideal if ideal else 0, rtol=1e-5)
        np.testing.assert_allclose(result.per_user[f"mrr@{k}"][user], mrr, rtol=1e-5)
    np.testing.assert_array_equal(result.num_relevant, relevant.sum(1))


def test_the_modes_differ_in_users_without_relevant_items():
    scores = jnp.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    nothing, relevant = csr(np.zeros((2, 3))), csr([[1, 0, 0], [0, 0, 0]])
    result = Evaluator(dense_score_fn, ks=(1,))(scores, nothing, {"test": SplitTask(nothing, relevant)})["test"]
    assert result.mean("official")["recall@1"] == 0.5
    assert result.mean("relevant_users")["recall@1"] == 1.0
    result.num_relevant[:] = 0
    with pytest.raises(ValueError, match="no user has relevant items"):
        result.mean("relevant_users")


def test_seen_items_are_never_listed_even_with_zero_weights():
    seen = sparse.csr_array((np.zeros(2, np.float32), np.array([0, 2]), np.array([0, 2])), shape=(1, 4))
    items, recommended = top_k_items(jnp.asarray([[9.0, 1.0, 8.0, 2.0]]), make_row_batch(seen, np.array([0])), 4)
    np.testing.assert_array_equal(items[0, :2], [3, 1])
    np.testing.assert_array_equal(recommended[0], [True, True, False, False])


def test_recency_weighs_the_input_and_leaves_the_mask_alone():
    """The oldest interaction weighs 0: the model does not see it, and it is not recommended all the same."""
    train = csr_from_pairs(np.array([[0, 3], [0, 1], [0, 2], [1, 0]]), 2, 6)
    valid, test = (csr_from_pairs(np.array([[0, 4 + split], [1, 2 + split]]), 2, 6) for split in range(2))
    inputs = []

    def score_fn(scoring_state, batch, row_keys):
        del scoring_state, row_keys
        jax.debug.callback(lambda rows: inputs.append(rows), to_dense(batch, 6))
        return jnp.broadcast_to(jnp.float32([1, 6, 7, 8, 3, 2])[None], (2, 6))

    evaluator = Evaluator(score_fn, ks=(1, 2), batch_size=2)
    recency = Recency("linear", w_min=0.0, w_max=1.0)
    dataset = Dataset("tiny", train, valid, test)
    results = evaluate_dataset(evaluator, None, dataset, weighting=RowWeighting(infer=recency))
    jax.effects_barrier()
    np.testing.assert_array_equal(inputs[0], [[0, 0.5, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    assert results["valid"].per_user["hit_rate@1"][0] == 1  # item 4, for 3 was seen

    evaluate_dataset(evaluator, None, dataset, weighting=RowWeighting(infer=recency), test_with_valid_input=True)
    jax.effects_barrier()
    np.testing.assert_allclose(inputs[-1][0], [0, 1 / 3, 2 / 3, 0, 1, 0], rtol=1e-6)


def test_one_scoring_serves_both_splits_unless_the_test_has_other_input():
    calls = []
    rng = np.random.default_rng(0)
    which = rng.integers(0, 4, (6, 10))
    dataset = Dataset("tiny", *(csr(which == split) for split in range(3)))

    def score_fn(table, batch, row_keys):
        calls.append(batch.item_ids.shape)
        return dense_score_fn(table, batch, row_keys)

    table = jnp.asarray(rng.random((6, 10)), jnp.float32)
    shared = evaluate_dataset(Evaluator(score_fn, ks=(3,)), table, dataset)
    assert len(calls) == 1  # traced once
    separate = evaluate_dataset(Evaluator(score_fn, ks=(3,)), table, dataset, test_with_valid_input=True)
    assert len(calls) == 3
    for split in ("valid", "test"):  # these scores do not depend on the input
        np.testing.assert_array_equal(shared[split].per_user["ndcg@3"], separate[split].per_user["ndcg@3"])


def test_a_sample_of_users_gets_what_it_gets_among_all():
    rng = np.random.default_rng(1)
    which = rng.integers(0, 4, (20, 10))
    dataset = Dataset("tiny", *(csr(which == split) for split in range(3)))
    table = jnp.asarray(rng.random((20, 10)), jnp.float32)
    evaluator = Evaluator(dense_score_fn, ks=(3,), batch_size=6)
    everyone = evaluate_dataset(evaluator, table, dataset)["test"]
    users = np.array([2, 3, 11, 17, 19])
    sample = evaluate_dataset(evaluator, table, dataset, user_ids=users)["test"]
    np.testing.assert_array_equal(sample.per_user["recall@3"], everyone.per_user["recall@3"][users])


def test_popularity_on_ml_1m_gives_the_independently_computed_figures(data_dir):
    dataset = read_official(find_dataset_folder("ml-1m", "clean", data_dir))
    popularity = make_popularity(PopularityConfig())
    results = evaluate_dataset(Evaluator(popularity.score_fn), popularity.fit(dataset.train), dataset)
    means = results["test"].mean()
    rounded = [round(means[name], 4) for name in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")]
    assert rounded == [0.0535, 0.0993, 0.0587, 0.0721]


def test_matrices_that_do_not_fit_together_are_refused():
    scores, nothing = jnp.zeros((2, 3)), csr(np.zeros((2, 3)))
    twice = sparse.csr_array((np.ones(2, np.float32), np.array([1, 1]), np.array([0, 2, 2])), shape=(2, 3))
    evaluator = Evaluator(dense_score_fn, ks=(1,))
    for task, message in (
        (SplitTask(nothing, csr(np.zeros((2, 4)))), r"test: relevant has shape \(2, 4\), the inputs have \(2, 3\)"),
        (SplitTask(csr(np.zeros((3, 3))), nothing), "test: seen has shape"),
        (SplitTask(nothing, twice), "test: relevant stores 1 entries more than once, the first in row 0, column 1"),
        (SplitTask(twice, nothing), "test: seen stores 1 entries more than once"),
        (SplitTask(nothing, nothing.tocoo()), "test: relevant is coo_array: give a scipy.sparse.csr_array"),
    ):
        with pytest.raises(DataError, match=message):
            evaluator(scores, nothing, {"test": task})
    with pytest.raises(DataError, match="inputs is ndarray"):
        evaluator(scores, np.zeros((2, 3)), {})
    for users in (np.array([], int), [2], [-1], [False, True], [0.5], [[0, 1]]):
        with pytest.raises(ValueError, match="user_ids have to be one or more rows of the 2"):
            evaluator(scores, nothing, {"test": SplitTask(nothing, nothing)}, user_ids=np.array(users))


def test_columns_are_not_read_as_rows():
    """A square CSC matrix has arrays of the same lengths as a CSR one."""
    scores, nothing = jnp.zeros((3, 3)), csr(np.zeros((3, 3)))
    with pytest.raises(DataError, match="test: relevant is csc_array"):
        relevant = sparse.csc_array(np.triu(np.ones((3, 3), np.float32)))
        Evaluator(dense_score_fn, ks=(1,))(scores, nothing, {"test": SplitTask(nothing, relevant)})


@pytest.mark.parametrize(
    "devices", [SINGLE_DEVICE, PmapStrategy(2), MeshStrategy(2, 2, 6)], ids=["one", "pmap", "mesh"]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_cannot_be_ranked_name_the_first_user(devices, bad):
    """On any devices; -inf is allowed, and rows that only fill a batch may hold anything."""
    scores, nothing = np.zeros((7, 6), np.float32), csr(np.zeros((7, 6)))

    def score_fn(table, batch, row_keys):
        return jnp.where(batch.row_mask[:, None], table[batch.user_ids], jnp.nan)

    evaluator = Evaluator(score_fn, ks=(1,), batch_size=4, devices=devices)
    tasks = {"test": SplitTask(nothing, csr(np.eye(7, 6)))}
    scores[2, 1] = -np.inf
    assert evaluator(devices.place(scores), nothing, tasks)["test"].per_user["recall@1"][0] == 1
    scores[4, 0] = scores[5, 3] = bad
    with pytest.raises(ScoresError, match="2 of 3 users .* the first is user 4"):
        evaluator(devices.place(scores), nothing, tasks)


def test_a_mode_that_leaves_nobody_is_refused_before_any_work():
    which = np.array([[0, 1, 2], [0, 0, 9], [0, 1, 9]])
    dataset = Dataset("tiny", *(csr(which == split) for split in range(3)))
    check_relevant(dataset, "relevant_users")
    with pytest.raises(ValueError, match="mode 'relevant' is unknown: choose one of official, relevant_users"):
        check_relevant(dataset, "relevant")
    check_relevant(dataset, "official", np.array([1]))
    for users, split in (([1], "valid"), ([1, 2], "test")):
        with pytest.raises(ValueError, match=f"none of the {len(users)} evaluated users has relevant items in {split}"):
            check_relevant(dataset, "relevant_users", np.array(users))
    for mode in ("relevant_users", "official"):
        with pytest.raises(ValueError, match="user_ids have to be one or more rows of the 3"):
            check_relevant(dataset, mode, np.array([3]))
