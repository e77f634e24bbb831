"""Whether one model is better than another: paired over users."""

from dataclasses import dataclass

import numpy as np

CHUNK_SIZE = 2**22
"""Resampled values at once."""
DIGITS = 6
"""Of differences that are ranked: metrics are kept in float32, and what is equal differs in the seventh."""


@dataclass(frozen=True)
class PairedComparison:
    """A model's metric minus another's, averaged over users."""

    mean_difference: float
    low: float
    high: float
    """Ends of the confidence interval of the mean."""
    p_value: float
    """Two-sided, that neither model is better."""
    rank_difference: float
    """What that is about, from -1 to 1: of the ranks of the users' differences, the share above 0 minus that below."""


def bootstrap_interval(
    differences: np.ndarray, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of differences [U] when users are drawn anew with replacement.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    rng, num_users = np.random.default_rng(seed), len(differences)
    at_once = max(1, CHUNK_SIZE // num_users)
    means = np.concatenate(
        [
            differences[rng.integers(0, num_users, (min(at_once, num_resamples - start), num_users))].mean(axis=1)
            for start in range(0, num_resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def wilcoxon(differences: np.ndarray) -> tuple[float, float]:
    """Two-sided p-value of Wilcoxon's signed-rank test, and the matched-pairs rank-biserial correlation.

    Users without a difference are left out; 1 and 0 if all are.

    References: Wilcoxon, Biometrics Bulletin 1(6), 1945; Kerby, Comprehensive Psychology 3, 2014.
    """
    differences = np.round(differences, DIGITS)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0, 0.0
    from scipy import stats  # takes half a second to import

    ranks = stats.rankdata(np.abs(differences))
    return float(stats.wilcoxon(differences).pvalue), float(np.sum(np.sign(differences) * ranks) / np.sum(ranks))


def compare_users(ours: np.ndarray, others: np.ndarray) -> PairedComparison:
    """Compares a metric of the same users [U] under two models.

    Raises:
      ValueError: the two are of different users, or of none.
    """
    if ours.shape != others.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"metrics of the same users are needed, got shapes {ours.shape} and {others.shape}")
    differences = ours.astype(np.float64) - others
    return PairedComparison(float(differences.mean()), *bootstrap_interval(differences), *wilcoxon(differences))


def holm(p_values: list[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down: those below alpha have a family-wise error of alpha.

    Reference: Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
