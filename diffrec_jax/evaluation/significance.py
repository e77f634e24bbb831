"""Whether one model is better than another: paired over users."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

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


def mean_interval(values: np.ndarray, *seeds: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of values [U], for other users and, of models trained several times, other seeds.

    Student's t, with the variances of all means added up. Each of ``seeds`` has a model's mean a run; one run says
    nothing of what another would do, and adds nothing.

    References: Welch, Biometrika 34, 1947; Satterthwaite, Biometrics Bulletin 2(6), 1946.
    """
    samples = [np.asarray(sample, np.float64) for sample in (values, *seeds)]
    parts = [(sample.var(ddof=1) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    mean, variance = float(samples[0].mean()), sum(part for part, _ in parts)
    if not variance:
        return mean, mean
    degrees = variance**2 / sum(part**2 / own for part, own in parts)
    half = float(stdtrit(degrees, (1 + confidence) / 2) * np.sqrt(variance))
    return mean - half, mean + half


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


def compare_users(ours: np.ndarray, others: np.ndarray, *seeds: Sequence[float]) -> PairedComparison:
    """Compares a metric of the same users [U] under two models.

    The p-value is about users alone, with the models as they were trained; the interval is about seeds, too, where
    ``seeds`` has each model's means of its runs.

    Raises:
      ValueError: the two are of different users, or of none.
    """
    if ours.shape != others.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"metrics of the same users are needed, got shapes {ours.shape} and {others.shape}")
    differences = ours.astype(np.float64) - others
    return PairedComparison(float(differences.mean()), *mean_interval(differences, *seeds), *wilcoxon(differences))


def holm(p_values: list[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down: those below alpha have a family-wise error of alpha.

    Reference: Holm, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
