"""Metrics and the full-ranking protocol. Takes a score function; knows no recommender."""

from diffrec_jax.evaluation.beyond_accuracy import beyond_accuracy
from diffrec_jax.evaluation.candidates import SampledCandidates
from diffrec_jax.evaluation.external import evaluate_lists, evaluate_scores
from diffrec_jax.evaluation.metrics import METRICS, parse_metric
from diffrec_jax.evaluation.outcome import FULL_RANKING, Evaluation
from diffrec_jax.evaluation.ranking import (
    DEFAULT_KS,
    AveragingMode,
    Evaluator,
    ScoresError,
    SplitResult,
    SplitTask,
    check_relevant,
    evaluate_dataset,
    top_k_items,
)
from diffrec_jax.evaluation.rating_errors import RATING_METRICS, RatingErrors, goodness
from diffrec_jax.evaluation.significance import PairedComparison, compare_users, holm

__all__ = [
    "DEFAULT_KS",
    "FULL_RANKING",
    "METRICS",
    "RATING_METRICS",
    "AveragingMode",
    "Evaluation",
    "Evaluator",
    "PairedComparison",
    "RatingErrors",
    "SampledCandidates",
    "ScoresError",
    "SplitResult",
    "SplitTask",
    "beyond_accuracy",
    "check_relevant",
    "compare_users",
    "evaluate_dataset",
    "evaluate_lists",
    "evaluate_scores",
    "goodness",
    "holm",
    "parse_metric",
    "top_k_items",
]
