import numpy as np
import pytest
from scipy import stats

from diffrec_jax.evaluation import compare_users, holm
from diffrec_jax.evaluation.significance import mean_interval, wilcoxon


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(num_seeds):
    """Of models that differ by .1: with new users and new seeds each time, 95% of 2,000 intervals hold it."""
    rng = np.random.default_rng(num_seeds)
    held = []
    for _ in range(2000):
        seeds = 0.1 + rng.normal(0, 0.02, num_seeds) * (num_seeds > 1), rng.normal(0, 0.01, num_seeds) * (num_seeds > 1)
        users = rng.gamma(2.0, 0.05, 80) - 0.1  # skewed, of mean 0
        low, high = mean_interval(users + seeds[0].mean() - seeds[1].mean(), *seeds)
        held.append(low <= 0.1 <= high)
    assert abs(np.mean(held) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 2000) + 0.01  # the users are few, and skewed


def test_the_interval_is_students_and_welchs():
    """Of users alone, one sample; of seeds alone, two samples with variances of their own."""
    rng = np.random.default_rng(1)
    values, others = rng.normal(0.02, 0.3, 40), rng.normal(0, 0.1, 7)
    np.testing.assert_allclose(mean_interval(values), stats.ttest_1samp(values, 0).confidence_interval(0.95))
    expected = stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.5)
    found = mean_interval(np.full(9, values.mean() - others.mean()), values, others, confidence=0.5)
    np.testing.assert_allclose(found, expected)
    assert mean_interval(values, [0.3], [0.1]) == mean_interval(values)  # one run each says nothing of others
    assert mean_interval(np.array([0.25])) == (0.25, 0.25)


def test_wilcoxon_of_a_case_computed_by_hand():
    """Signed ranks of 1..5 without ties: all positive has probability 2 / 2^5."""
    np.testing.assert_allclose(wilcoxon(np.array([0.0, 1, 2, 3, 4, 5])), (2 / 32, 1.0))
    np.testing.assert_allclose(wilcoxon(np.array([-1.0, 2, -3]))[1], (2 - 1 - 3) / 6)
    assert wilcoxon(np.zeros(10)) == (1.0, 0.0)
    values = np.random.default_rng(0).normal(0.1, 1, 200)
    p, share = wilcoxon(values)
    assert p == pytest.approx(stats.wilcoxon(values).pvalue, rel=1e-3) and wilcoxon(-values) == (p, -share)


def test_rounding_of_float32_makes_no_difference_and_breaks_no_tie():
    """Means over seeds of equal metrics differ in the last digit."""
    rng = np.random.default_rng(3)
    exact = rng.integers(-2, 4, 300) / 20
    values = exact + rng.uniform(-4e-8, 4e-8, 300)
    assert wilcoxon(values) == wilcoxon(exact)
    assert wilcoxon(exact)[0] == pytest.approx(stats.wilcoxon(exact[exact != 0].round(6)).pvalue)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.01, 0.005], [0.04, 0.02, 0.015]),
        ([0.9, 0.6], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    np.testing.assert_allclose(holm(p_values), adjusted)


def test_a_comparison_is_signed_and_needs_the_same_users():
    rng = np.random.default_rng(0)
    ours = rng.random(400).astype(np.float32)
    found = compare_users(ours, ours - np.float32(0.1) * (rng.random(400) < 0.5))
    assert 0 < found.low < found.mean_difference < found.high < 0.1
    assert found.p_value < 1e-6 and found.rank_difference == 1.0
    wider = compare_users(ours, ours - np.float32(0.1) * (ours > 0.5), [0.5, 0.52], [0.45, 0.44])
    alone = compare_users(ours, ours - np.float32(0.1) * (ours > 0.5))
    assert wider.low < alone.low and alone.high < wider.high and wider.p_value == alone.p_value
    same = compare_users(ours, ours)
    assert (same.mean_difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    for wrong in (ours[:-1], ours[None]):
        with pytest.raises(ValueError, match="same users"):
            compare_users(ours, wrong)
