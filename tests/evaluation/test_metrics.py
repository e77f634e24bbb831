import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from diffrec_jax.evaluation import METRICS, parse_metric

HITS = np.array([False, True, False, True, False])
LOG = np.log2
BY_HAND = {
    ("precision", 2): 1 / 2,
    ("precision", 5): 2 / 5,
    ("recall", 2): 1 / 3,
    ("recall", 5): 2 / 3,
    ("capped_recall", 2): 1 / 2,
    ("capped_recall", 5): 2 / 3,
    ("ndcg", 2): (1 / LOG(3)) / (1 + 1 / LOG(3)),
    ("ndcg", 5): (1 / LOG(3) + 1 / LOG(5)) / (1 + 1 / LOG(3) + 1 / 2),
    ("mrr", 1): 0,
    ("mrr", 5): 1 / 2,
    ("map", 2): (1 / 2) / 2,
    ("map", 5): (1 / 2 + 2 / 4) / 3,
    ("hit_rate", 1): 0,
    ("hit_rate", 2): 1,
}


@pytest.mark.parametrize(("name", "k"), BY_HAND)
def test_a_list_computed_by_hand(name, k):
    """Places 2 and 4 of five are hits, of three relevant items."""
    value = METRICS[name](HITS, np.int32(3), k)
    np.testing.assert_allclose(value, BY_HAND[name, k], rtol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_without_relevant_items_everything_is_zero(name):
    assert METRICS[name](np.zeros(5, bool), np.int32(0), 5) == 0


@pytest.mark.parametrize("name", ["capped_recall", "ndcg", "mrr", "map", "hit_rate", "precision"])
def test_a_perfect_list_gets_one(name):
    np.testing.assert_allclose(METRICS[name](np.ones(5, bool), np.int32(9), 5), 1, rtol=1e-6)


def brute_force(hits, num_relevant, k):
    """All metrics of one list by plain loops."""
    found, gain, precision_sum, first = 0, 0.0, 0.0, None
    for place, hit in enumerate(hits[:k]):
        if hit:
            found += 1
            gain += 1 / np.log2(place + 2)
            precision_sum += found / (place + 1)
            first = place if first is None else first
    ideal = sum(1 / np.log2(place + 2) for place in range(min(k, num_relevant)))
    return {
        "precision": found / k,
        "recall": found / num_relevant if num_relevant else 0,
        "capped_recall": found / min(k, num_relevant) if num_relevant else 0,
        "ndcg": gain / ideal if ideal else 0,
        "mrr": 0 if first is None else 1 / (first + 1),
        "map": precision_sum / min(k, num_relevant) if num_relevant else 0,
        "hit_rate": float(found > 0),
    }


@settings(max_examples=100, deadline=None)
@given(hits=st.lists(st.booleans(), min_size=1, max_size=12), more=st.integers(0, 9), k=st.integers(1, 20))
def test_metrics_agree_with_plain_loops(hits, more, k):
    """Lists shorter than k included."""
    num_relevant = sum(hits) + more
    expected = brute_force(hits, num_relevant, k)
    for name, metric in METRICS.items():
        np.testing.assert_allclose(metric(np.array(hits), np.int32(num_relevant), k), expected[name], rtol=1e-5)


def test_metric_names_are_checked():
    assert parse_metric("ndcg@20", (10, 20)) == ("ndcg", 20)
    for wrong in ("ndcg", "ndcg@5", "auc@10", "recall@x"):
        with pytest.raises(ValueError, match="is not evaluated: choose"):
            parse_metric(wrong, (10, 20))
