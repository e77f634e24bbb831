import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.evaluation.beyond_accuracy import (
    beyond_accuracy,
    catalogue_coverage,
    exposure,
    gini,
    mean_popularity,
    novelty,
)

TOP = np.array([[0, 1], [0, 2], [0, -1]])
COUNTS = np.array([4, 2, 1, 0, 0])
NUM_USERS = 8


def test_a_case_computed_by_hand():
    """Item 0 three times, items 1 and 2 once, of five; item 2 is had by one user of eight."""
    shown = exposure(TOP, 5)
    np.testing.assert_array_equal(shown, [3, 1, 1, 0, 0])
    assert catalogue_coverage(shown) == 3 / 5
    # Ascending 0 0 1 1 3 times -4 -2 0 2 4, over 5 items and 5 recommendations.
    np.testing.assert_allclose(gini(shown), (2 * 1 + 4 * 3) / 25)
    np.testing.assert_allclose(mean_popularity(shown, COUNTS, NUM_USERS), (3 * 4 + 2 + 1) / (5 * 8))
    np.testing.assert_allclose(novelty(shown, COUNTS, NUM_USERS), (3 * 1 + 2 + 3) / 5)
    found = beyond_accuracy(TOP, COUNTS, NUM_USERS, 1)
    assert found == {"coverage@1": 0.2, "gini@1": 0.8, "popularity@1": 0.5, "novelty@1": 1.0}


def test_an_item_without_users_is_as_surprising_as_one_with_one():
    assert novelty(np.array([0, 0, 0, 1, 0]), COUNTS, NUM_USERS) == 3.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_the_gini_index_is_the_mean_absolute_difference(counts):
    """|e_i - e_j| averaged over all pairs, over twice the mean; alike for any order and scale."""
    shown = np.array(counts)
    index = gini(shown)
    if shown.sum():
        expected = np.abs(shown[:, None] - shown[None]).mean() / (2 * shown.mean())
        np.testing.assert_allclose(index, expected, atol=1e-12)
        np.testing.assert_allclose(gini(3 * shown[::-1]), index, atol=1e-12)
    assert 0 <= index < 1


def test_nothing_recommended_is_no_error():
    assert beyond_accuracy(np.full((2, 3), -1), COUNTS, NUM_USERS, 3) == {
        "coverage@3": 0.0,
        "gini@3": 0.0,
        "popularity@3": 0.0,
        "novelty@3": 0.0,
    }
