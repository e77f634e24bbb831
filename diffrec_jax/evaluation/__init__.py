"""Metrics and the full-ranking protocol. Takes a score function; knows no recommender."""

from diffrec_jax.evaluation.beyond_accuracy import beyond_accuracy
from diffrec_jax.evaluation.metrics import METRICS, parse_metric
from diffrec_jax.evaluation.ranking import (
    DEFAULT_KS,
    AveragingMode,
    Evaluator,
    SplitResult,
    SplitTask,
    evaluate_dataset,
    top_k_items,
)

__all__ = [
    "DEFAULT_KS",
    "METRICS",
    "AveragingMode",
    "Evaluator",
    "SplitResult",
    "SplitTask",
    "beyond_accuracy",
    "evaluate_dataset",
    "parse_metric",
    "top_k_items",
]
