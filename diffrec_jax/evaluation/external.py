"""Metrics of scores and lists that were made elsewhere, by the same protocol and the same code as our own models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import iterate_user_ids, make_row_batch
from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.matrices import DataError
from diffrec_jax.evaluation.outcome import Evaluation
from diffrec_jax.evaluation.ranking import (
    DEFAULT_KS,
    AveragingMode,
    Evaluator,
    SplitResult,
    check_relevant,
    evaluate_dataset,
    metrics_of_hits,
)
from diffrec_jax.rows import num_entries, to_mask
from diffrec_jax.typing import Array

Scores = np.ndarray | sparse.sparray | Callable[[np.ndarray], np.ndarray]


def evaluate_scores(
    scores: Scores,
    dataset: Dataset,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    mode: AveragingMode = "official",
    batch_size: int = 400,
) -> Evaluation:
    """Ranks all unseen items by scores that another program made, for the valid and test interactions.

    Args:
      scores: [U, I], users and items numbered as in the dataset (``original_user_ids`` says which they are), or a
        function of user numbers [n] that gives [n, I]; larger is better, -inf is never recommended. float32 is the
        fastest; other types are sorted first, so that no digit is lost.
      dataset: what is seen and what is relevant.
      ks: list lengths.
      mode: whether users without relevant items count as 0 (official) or are left out (relevant_users).
      batch_size: users ranked at once.

    Raises:
      DataError: the scores are of another shape.
      ScoresError: one is NaN or +inf.
      ValueError: there is nothing to average over.
    """
    check_relevant(dataset, mode)
    ks = _checked_ks(ks)
    shape = dataset.num_users, dataset.num_items
    if not callable(scores) and scores.shape != shape:
        raise DataError(f"the scores have shape {list(scores.shape)}, {dataset.name} has users and items {list(shape)}")

    def of_users(users: np.ndarray) -> np.ndarray:
        found: Any = scores(users) if callable(scores) else scores[users]  # type: ignore[index]
        found = found.toarray() if sparse.issparse(found) else np.asarray(found)
        if found.shape != (len(users), dataset.num_items):
            expected = [len(users), dataset.num_items]
            raise DataError(f"the scores of {len(users)} users have shape {list(found.shape)}, not {expected}")
        return _as_float32(found)

    evaluator = Evaluator(lambda state, batch, keys: state, ks, batch_size)
    collected: dict[str, list[SplitResult]] = {}
    for users in iterate_user_ids(dataset.evaluated_users, batch_size):
        block = np.zeros((batch_size, dataset.num_items), np.float32)
        block[: len(users)] = of_users(users)
        for split, result in evaluate_dataset(evaluator, jnp.asarray(block), dataset, user_ids=users).items():
            collected.setdefault(split, []).append(result)
    return Evaluation({split: _joined(parts) for split, parts in collected.items()}, mode)


def _as_float32(scores: np.ndarray) -> np.ndarray:
    """Scores [n, I] as float32; of types with more digits, the finite ones of each row by their order, ties equal."""
    if scores.dtype.itemsize <= 4 and scores.dtype.kind == "f":
        return scores.astype(np.float32)
    order = np.argsort(scores, axis=1)
    ascending = np.take_along_axis(scores, order, axis=1)
    ranks = np.zeros(scores.shape, np.int64)
    ranks[:, 1:] = np.cumsum(ascending[:, 1:] > ascending[:, :-1], axis=1)
    found = np.empty(scores.shape, np.float32)
    np.put_along_axis(found, order, ranks.astype(np.float32), axis=1)
    known = np.isfinite(scores)
    return np.where(known, found, np.where(known, 0, scores).astype(np.float32))


def _checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    if not ks or min(ks) < 1:
        raise ValueError(f"ks have to be one or more list lengths of at least 1, got {list(ks)}")
    return tuple(sorted(set(ks)))


def _joined(parts: list[SplitResult]) -> SplitResult:
    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    per_user = {name: np.concatenate([part.per_user[name] for part in parts]) for name in parts[0].per_user}
    return SplitResult(join("user_ids"), join("num_relevant"), per_user, join("top_items"))


def evaluate_lists(
    lists: Mapping[Any, Sequence[Any]],
    dataset: Dataset,
    *,
    split: str = "test",
    ks: Sequence[int] = DEFAULT_KS,
    mode: AveragingMode = "official",
    allow_missing: bool = False,
) -> Evaluation:
    """Metrics of lists that another program recommended; users and items by their original ids.

    A list counts as it is: an item that the user has already takes its place and is no hit, and a list shorter than K
    has misses at its end.

    Args:
      lists: each user's items, best first.
      dataset: what is relevant.
      split: valid or test.
      ks: list lengths.
      mode: whether users without relevant items count as 0 (official) or are left out (relevant_users).
      allow_missing: takes users without a list for users with an empty one.

    Raises:
      DataError: a user or an item is unknown, a list names an item twice, or users have no list.
      ValueError: there is nothing to average over.
    """
    check_relevant(dataset, mode)
    ks = _checked_ks(ks)
    if split not in dataset.evaluated_splits:
        raise DataError(f"{dataset.name} has no {split} interactions to evaluate lists by")
    users, items = (
        {value: number for number, value in enumerate(ids.tolist())}
        for ids in (dataset.original_user_ids, dataset.original_item_ids)
    )
    unknown = [user for user in lists if user not in users]
    if unknown:
        raise DataError(f"{len(unknown):,} of {len(lists):,} users are not in {dataset.name}, the first {unknown[0]!r}")
    evaluated = dataset.original_user_ids[dataset.evaluated_users].tolist()
    missing = [user for user in evaluated if user not in lists]
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing):,} of {len(evaluated):,} users have no list, the first {missing[0]!r}: give one for each, "
            "or allow_missing=True"
        )
    length = max(ks)
    top = np.full((len(users), length), -1, np.int32)
    for user, items_of_user in lists.items():
        row = list(items_of_user)[:length]
        wrong = next((item for item in row if item not in items), None)
        if wrong is not None or len(set(row)) < len(row):
            said = "names an item twice" if wrong is None else f"names {wrong!r}, which is not in {dataset.name}"
            raise DataError(f"the list of {user!r} {said}")
        top[users[user], : len(row)] = [items[item] for item in row]
    return Evaluation({split: _of_lists(top, dataset, split, ks)}, mode)


def _of_lists(
    top: np.ndarray, dataset: Dataset, split: str, ks: tuple[int, ...], batch_size: int = 4096
) -> SplitResult:
    relevant, tables, counts = dataset.relevant(split), [], []
    for start in range(0, len(top), batch_size):
        places = np.arange(start, min(start + batch_size, len(top)))
        batch, found = make_row_batch(relevant, places), jnp.asarray(top[places])
        is_relevant: Array = to_mask(batch, dataset.num_items)  # type: ignore[arg-type]
        hits = jnp.take_along_axis(is_relevant, jnp.maximum(found, 0), axis=1) & (found >= 0)
        num_relevant = num_entries(batch, dataset.num_items)
        tables.append(metrics_of_hits(hits, num_relevant, ks))
        counts.append(num_relevant)
    per_user = {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]}
    return SplitResult(np.arange(len(top), dtype=np.int32), np.concatenate(counts), per_user, top)
