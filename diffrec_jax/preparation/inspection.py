"""What a dataset looks like before anything is trained on it: counts, distributions, and what may mislead."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from diffrec_jax.data import Dataset, item_counts
from diffrec_jax.data.interactions import SPLITS

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Inspection:
    """Facts of a dataset."""

    name: str
    counts: dict[str, Any]
    """By name, in the order to show them."""
    warnings: tuple[str, ...]
    popularity: np.ndarray
    """Users of each item in train, most first, [I]."""
    history_lengths: np.ndarray
    """Interactions of each user in train, [U]."""


def inspect(dataset: Dataset) -> Inspection:
    """Facts and warnings of a dataset that is split."""
    lengths = {split: np.diff(getattr(dataset, split).indptr) for split in SPLITS}
    popularity = np.sort(item_counts(dataset.train))[::-1]
    total = sum(getattr(dataset, split).nnz for split in SPLITS)
    counts: dict[str, Any] = {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": total,
        **{split: getattr(dataset, split).nnz for split in SPLITS},
        "density": total / (dataset.num_users * dataset.num_items),
        "train, a user: least, 25%, median, 75%, 90%, most": _quantiles(lengths["train"]),
        "train, an item: the same": _quantiles(popularity),
        "train, share of the most popular tenth of items": _share_of_head(popularity),
    }
    warnings = list(dataset.warnings)
    if dataset.held_out_users is not None:
        counts["users held out"] = len(dataset.held_out_users)
    for split in ("valid", "test"):
        without = int(np.sum(lengths[split] == 0))
        if without and dataset.held_out_users is None:
            share = without / dataset.num_users
            warnings.append(
                f"{without:,} users ({share:.1%}) have nothing in {split}: in the official mode they count as 0"
            )
    new = np.setdiff1d(dataset.test.indices, dataset.train_and_valid.indices)
    if len(new):
        in_them = int(np.isin(dataset.test.indices, new).sum())
        warnings.append(
            f"{len(new):,} items are in test alone ({in_them / dataset.test.nnz:.1%} of its interactions): no model "
            "without item features finds them"
        )
    if dataset.times is not None:
        times = np.concatenate([dataset.times[split] for split in SPLITS])
        counts["times"] = f"{_time_text(times.min())} to {_time_text(times.max())}"
        warnings += _leakage(dataset, dataset.times)
    return Inspection(dataset.name, counts, tuple(warnings), popularity, lengths["train"])


def _quantiles(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in np.quantile(values, QUANTILES, method="nearest"))


def _share_of_head(popularity: np.ndarray) -> float:
    return float(popularity[: max(1, len(popularity) // 10)].sum() / max(1, popularity.sum()))


def _time_text(time: float) -> str:
    """A date where a time looks like seconds since 1970 (1973 to 2286), else the number."""
    if 1e8 <= time < 1e10:
        return datetime.fromtimestamp(float(time), UTC).date().isoformat()
    return f"{time:,.15g}"


def _leakage(dataset: Dataset, times: Mapping[str, np.ndarray]) -> list[str]:
    """A sentence where items of the test are in other users' later training interactions."""
    newest = np.full(dataset.num_items, -np.inf)
    np.maximum.at(newest, dataset.train.indices, times["train"])
    earlier = float(np.mean(times["test"] < newest[dataset.test.indices]))
    if earlier == 0:
        return []
    return [
        f"{earlier:.1%} of the test interactions are older than a training interaction with the same item: models "
        "learn of items from what came later (not with --split=global_time)"
    ]
