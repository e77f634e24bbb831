"""What an evaluation found: averages, intervals, and each user's metrics."""

from dataclasses import dataclass

import numpy as np

from diffrec_jax.evaluation.ranking import AveragingMode, SplitResult
from diffrec_jax.evaluation.rating_errors import RATING_METRICS
from diffrec_jax.evaluation.significance import mean_interval

FULL_RANKING = "full ranking"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, by split (valid, test)."""

    splits: dict[str, SplitResult]
    mode: AveragingMode
    protocol: str = FULL_RANKING
    """What was ranked: all unseen items, or sampled candidates; figures of different protocols cannot be compared."""

    def mean(self, split: str = "test") -> dict[str, float]:
        """Averages over users by metric (``recall@20``)."""
        return self.splits[split].mean(self.mode)

    def per_user(self, metric: str, split: str = "test") -> np.ndarray:
        """A metric of each user that is averaged over."""
        result = self.splits[split]
        chosen = result.num_relevant >= (0 if self.mode == "official" else 1)
        return result.per_user[metric][chosen]

    def interval(self, metric: str, split: str = "test") -> tuple[float, float]:
        """95% interval of the mean of a ranking metric over users, within its range of 0 to 1."""
        low, high = mean_interval(self.per_user(metric, split))
        return max(low, 0.0), min(high, 1.0)

    def __str__(self) -> str:
        """Recall and NDCG with their intervals, and errors of ratings, a line each.

        Another protocol than full ranking is named first.
        """
        lines = []
        for split, result in self.splits.items():
            for metric, mean in result.mean(self.mode).items():
                if metric.startswith(("recall@", "ndcg@")):
                    low, high = self.interval(metric, split)
                    lines.append(f"{split} {metric}: {mean:.4f} [{low:.4f}, {high:.4f}]")
                elif metric in RATING_METRICS:
                    lines.append(f"{split} {metric}: {mean:.4f}")
        return "\n".join(([] if self.protocol == FULL_RANKING else [f"protocol: {self.protocol}"]) + lines)
