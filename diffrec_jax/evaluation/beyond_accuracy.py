"""What a model recommends to all users together: how many items, how evenly, how popular, how surprising.

``top_items`` [U, K] are item ids, best first, -1 where nothing was left to recommend; ``item_counts`` [I] how many
training users each item has.

References: coverage and Gini index, Ricci et al. (eds.), Recommender Systems Handbook, 2nd ed., chapter 8; novelty as
self-information, Zhou et al., PNAS 107(10), 2010.
"""

import numpy as np


def exposure(top_items: np.ndarray, num_items: int) -> np.ndarray:
    """How many users each item is recommended to, [I]."""
    return np.bincount(top_items[top_items >= 0], minlength=num_items)


def catalogue_coverage(exposure: np.ndarray) -> float:
    """Share of the items that are recommended to anyone."""
    return float(np.mean(exposure > 0))


def gini(exposure: np.ndarray) -> float:
    """sum_i (2 i - I - 1) e_i / (I sum e), e ascending, i from 1: 0 if all items are recommended equally often."""
    num_items, total = len(exposure), exposure.sum()
    places = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float(places @ np.sort(exposure) / (num_items * total)) if total else 0.0


def mean_popularity(exposure: np.ndarray, item_counts: np.ndarray, num_users: int) -> float:
    """Mean share of training users over everything recommended."""
    return float(exposure @ item_counts / (max(exposure.sum(), 1) * num_users))


def novelty(exposure: np.ndarray, item_counts: np.ndarray, num_users: int) -> float:
    """Mean -log2 of the share of training users, bits; an item that nobody has counts as if one user had it."""
    information = -np.log2(np.maximum(item_counts, 1) / num_users)
    return float(exposure @ information / max(exposure.sum(), 1))


def beyond_accuracy(top_items: np.ndarray, item_counts: np.ndarray, num_users: int, k: int) -> dict[str, float]:
    """All of the above for lists of k, by name (``coverage@20``)."""
    shown = exposure(top_items[:, :k], len(item_counts))
    return {
        f"coverage@{k}": catalogue_coverage(shown),
        f"gini@{k}": gini(shown),
        f"popularity@{k}": mean_popularity(shown, item_counts, num_users),
        f"novelty@{k}": novelty(shown, item_counts, num_users),
    }
