import numpy as np
import pytest
from scipy import stats

from diffrec_jax.evaluation import compare_users, holm
from diffrec_jax.evaluation.significance import bootstrap_interval, wilcoxon


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    """300 samples of 80 users with mean 0.1: 95% of the intervals, give or take three standard errors."""
    samples = np.random.default_rng(0).gamma(2.0, 0.05, size=(300, 80))
    intervals = [bootstrap_interval(sample, num_resamples=500, seed=seed) for seed, sample in enumerate(samples)]
    covered = np.mean([low <= 0.1 <= high for low, high in intervals])
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 300) + 0.01  # the percentile interval is a little short


def test_the_interval_is_that_of_the_normal_approximation_and_does_not_depend_on_the_chunks(monkeypatch):
    differences = np.random.default_rng(1).normal(0.02, 0.3, 2000)
    interval = bootstrap_interval(differences)
    error = 1.96 * differences.std() / np.sqrt(2000)
    np.testing.assert_allclose(interval, differences.mean() + np.array([-error, error]), atol=0.05 * error)
    monkeypatch.setattr("diffrec_jax.evaluation.significance.CHUNK_SIZE", 2000 * 7)
    np.testing.assert_allclose(bootstrap_interval(differences), interval, atol=1e-12)
    narrower = bootstrap_interval(differences, confidence=0.5)
    assert interval[0] < narrower[0] < differences.mean() < narrower[1] < interval[1]


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
    same = compare_users(ours, ours)
    assert (same.mean_difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    for wrong in (ours[:-1], ours[None]):
        with pytest.raises(ValueError, match="same users"):
            compare_users(ours, wrong)
