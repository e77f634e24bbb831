import numpy as np
import pytest
from scipy import sparse

import diffrec_jax as dr
from diffrec_jax.data import DataError, SyntheticSpec, make_synthetic
from diffrec_jax.evaluation import ScoresError

DATASET = make_synthetic(SyntheticSpec(num_users=50, num_items=40, num_interactions=800, num_clusters=4))


@pytest.fixture(scope="module")
def model():
    return dr.fit("itemknn", DATASET, num_neighbors=10)


@pytest.fixture(scope="module")
def scores(model):
    """Those of every item, seen ones too, by lists that are as long as there are items."""
    found = dr.recommend(model, k=40, exclude_seen=False)
    scores = np.full((50, 40), -np.inf, np.float32)
    for user, item, score in found:
        scores[user, item] = score
    return scores


def test_scores_from_elsewhere_are_measured_as_the_models_own(model, scores):
    own, found = dr.evaluate(model, DATASET, ks=(3, 10)), dr.evaluate_scores(scores, DATASET, ks=(3, 10), batch_size=7)
    by_function = dr.evaluate_scores(lambda users: scores[users], DATASET, ks=(10, 3))
    for split in ("valid", "test"):
        for other in (found, by_function):
            assert other.mean(split) == pytest.approx(own.mean(split))
        np.testing.assert_array_equal(found.splits[split].top_items, own.splits[split].top_items)


def test_lists_from_elsewhere_are_measured_as_the_models_own(model):
    own = dr.evaluate(model, DATASET, ks=(3, 10))
    top = own.splits["test"].top_items
    lists = {user: [int(item) for item in top[user] if item >= 0] for user in range(50)}
    found = dr.evaluate_lists(lists, DATASET, ks=(3, 10))
    assert found.mean() == pytest.approx(own.mean())
    relevant = dr.evaluate_lists(lists, DATASET, ks=(3,), mode="relevant_users")
    assert relevant.mean() == pytest.approx(dr.evaluate(model, DATASET, ks=(3,), mode="relevant_users").mean())
    held_out = dr.hold_out_users(dr.from_interactions(DATASET.train_and_valid.tocoo()), seed=1)
    popular = dr.fit("popularity", held_out)
    asked = held_out.original_user_ids[held_out.evaluated_users].tolist()
    of_held_out, measured = dr.recommend(popular, users=asked, k=3).lists(), {"ks": (3,), "mode": "relevant_users"}
    own_mean = dr.evaluate(popular, held_out, **measured).mean()
    assert dr.evaluate_lists(of_held_out, held_out, **measured).mean() == pytest.approx(own_mean)
    del of_held_out[asked[0]]
    with pytest.raises(DataError, match=f"1 of {len(asked)} users have no list, the first {asked[0]}"):
        dr.evaluate_lists(of_held_out, held_out, **measured)
    del lists[7]
    with pytest.raises(DataError, match="1 of 50 users have no list"):
        dr.evaluate_lists(lists, DATASET)
    assert dr.evaluate_lists(lists, DATASET, ks=(3,), allow_missing=True).splits["test"].per_user["recall@3"][7] == 0


def test_a_list_counts_as_it_is():
    """A seen item takes its place; what is missing at the end is a miss."""
    test = DATASET.test
    user = int(np.argmax(np.diff(test.indptr)))
    relevant, seen = test[[user]].indices.tolist(), DATASET.train[[user]].indices.tolist()
    found = dr.evaluate_lists({user: [seen[0], relevant[0]]}, DATASET, ks=(1, 2, 5), allow_missing=True)
    metrics = {name: float(values[user]) for name, values in found.splits["test"].per_user.items()}
    assert (metrics["precision@1"], metrics["precision@2"]) == (0, 0.5)
    assert metrics["precision@5"] == pytest.approx(0.2) and metrics["mrr@2"] == pytest.approx(0.5)


def test_scores_of_more_digits_than_float32_keep_their_order(scores):
    """As times in seconds have."""
    order = np.argsort(np.argsort(-np.where(np.isfinite(scores), scores, -1e9), axis=1), axis=1)
    expected = dr.evaluate_scores(-order.astype(np.float32), DATASET, ks=(5,)).mean()
    sparse_times = sparse.csr_array(np.where(order > 20, 0, 1_700_000_000 - order))
    for many in (1.7e9 - order, 1_700_000_000 - order, 1.7e9 + np.where(order > 20, -np.inf, -order), sparse_times):
        assert dr.evaluate_scores(many, DATASET, ks=(5,)).mean() == expected
    peaked = np.where(order == 0, 0.9, 1e-9 / (1 + order))  # of a softmax: small ones keep their digits
    assert dr.evaluate_scores(peaked, DATASET, ks=(5,)).mean() == expected


@pytest.mark.parametrize("ks", [(), (0,), (-1, 5)])
def test_list_lengths_are_checked(scores, ks):
    for call in (lambda: dr.evaluate_scores(scores, DATASET, ks=ks), lambda: dr.evaluate_lists({}, DATASET, ks=ks)):
        with pytest.raises(ValueError, match="ks have to be one or more list lengths of at least 1"):
            call()


def test_what_cannot_be_measured_is_named(scores):
    for call, message in (
        (lambda: dr.evaluate_scores(scores[:, :9], DATASET), r"have shape \[50, 9\], .* \[50, 40\]"),
        (lambda: dr.evaluate_scores(lambda users: scores[:3], DATASET), r"of 50 users have shape \[3, 40\]"),
        (lambda: dr.evaluate_lists({99: [1]}, DATASET), "1 of 1 users are not in .*, the first 99"),
        (lambda: dr.evaluate_lists({1: [1, 1]}, DATASET, allow_missing=True), "the list of 1 names an item twice"),
        (lambda: dr.evaluate_lists({1: [77]}, DATASET, allow_missing=True), "the list of 1 names 77, which is not in"),
    ):
        with pytest.raises(DataError, match=message):
            call()
    with pytest.raises(ScoresError, match="user 0"):
        dr.evaluate_scores(np.full((50, 40), np.nan, np.float32), DATASET)


def test_sampled_candidates_are_another_protocol_and_say_so(model):
    candidates = dr.SampledCandidates(num_negatives=5, seed=3)
    found = dr.evaluate(model, DATASET, ks=(3,), candidates=candidates)
    assert str(found).startswith("protocol: sampled candidates, 5 negatives a user, seed 3\n")
    assert "protocol" not in str(dr.evaluate(model, DATASET, ks=(3,)))
    drawn = {split: candidates.draw(DATASET, split).toarray() > 0 for split in ("valid", "test")}
    known = sum(getattr(DATASET, split).toarray() for split in ("train", "valid", "test")) > 0
    for split, chosen in drawn.items():
        relevant = getattr(DATASET, split).toarray() > 0
        assert np.all(chosen[relevant]) and not np.any(chosen & known & ~relevant)
        assert np.all((chosen & ~known).sum(1) == np.minimum(5, (~known).sum(1)))
        recommended = found.splits[split].top_items
        assert all(chosen[user, item] for user in range(50) for item in recommended[user] if item >= 0)
    np.testing.assert_array_equal(drawn["valid"] & ~known, drawn["test"] & ~known)
    everything = dr.evaluate(model, DATASET, ks=(3,), candidates=dr.SampledCandidates(1000))
    valid = everything.splits["valid"].top_items  # the test's items are no candidates of valid
    assert not any(DATASET.test[[user]].toarray()[0, item] for user in range(50) for item in valid[user] if item >= 0)


def test_negatives_are_drawn_uniformly():
    counts = np.zeros(40)
    known = sum(getattr(DATASET, split).toarray()[0] for split in ("train", "valid", "test")) > 0
    for seed in range(300):
        row = dr.SampledCandidates(4, seed).draw(DATASET, "test")[[0]].toarray()[0] > 0
        counts += row & ~known
    drawn = counts[~known]
    expected = 300 * 4 / len(drawn)
    assert np.sum((drawn - expected) ** 2 / expected) < 2 * len(drawn)  # chi squared, mean len - 1
