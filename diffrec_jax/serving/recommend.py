"""The best items of known users, and of new ones by their items."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from diffrec_jax.config import ConfigError
from diffrec_jax.data import DataError, csr_from_pairs
from diffrec_jax.data.batching import iterate_user_ids
from diffrec_jax.data.logs import as_seconds
from diffrec_jax.evaluation import ScoresError
from diffrec_jax.serving.model import Model

LEAST_ROWS = 2
"""Of a batch: on a CPU XLA scores a single row five times as slowly as two (python -m benchmarks.latency)."""


@dataclass(frozen=True)
class Recommendations:
    """Lists of U users, best first."""

    users: np.ndarray
    """Ids [U]."""
    items: np.ndarray
    """Original ids [U, k]; what stands at a place without an item means nothing."""
    scores: np.ndarray
    """[U, k] float32, NaN where a list is shorter than k."""

    def __iter__(self) -> Iterator[tuple[Any, Any, float]]:
        """(user, item, score), list after list."""
        for user, items, scores in zip(self.users.tolist(), self.items.tolist(), self.scores.tolist()):
            for item, score in zip(items, scores):
                if score == score:  # not NaN
                    yield user, item, score

    def lists(self) -> dict[Any, list[Any]]:
        """Each user's items, best first."""
        found: dict[Any, list[Any]] = {user: [] for user in self.users.tolist()}
        for user, item, _ in self:
            found[user].append(item)
        return found


def recommend(
    model: Model,
    *,
    users: Iterable[Any] | None = None,
    histories: Mapping[Any, Sequence[Any]] | None = None,
    times: Mapping[Any, Sequence[Any]] | None = None,
    weights: Mapping[Any, Sequence[float]] | None = None,
    k: int = 20,
    exclude_seen: bool = True,
    allow: Iterable[Any] | None = None,
    block: Iterable[Any] | None = None,
    min_score: float | None = None,
    batch_size: int = 400,
) -> Recommendations:
    """The k best items of known users, or of new ones by their items.

    Args:
      model: what recommends.
      users: ids of users the model knows; with neither these nor histories, all of them. They are scored from their
        training interactions.
      histories: items of users, known or not, oldest first, by any name; the model does not need to know the users.
      times: of each user's items in ``histories``, numbers or dates, where those are not in the order of time: models
        that weigh recency or read sequences look at the order.
      weights: of each user's items in ``histories``, above 0, where the model's data are weighted; by default 1.
      k: length of the lists.
      exclude_seen: leaves out what a user's row holds; without it purchases may repeat.
      allow: only these items are recommended.
      block: these items are not.
      min_score: nothing below is recommended.
      batch_size: users scored at once.

    Raises:
      DataError: an id is unknown, a user is named twice, a history is empty or names an item twice, its times or
        weights are not as many as its items, or users and histories are both given.
      ConfigError: the model has nothing for new users (one from outside, without a score_new_fn; one whose rows hold
        ratings), or k is below 1.
      ScoresError: a score is NaN or +inf.
    """
    if users is not None and histories is not None:
        raise DataError("give users or histories, not both")
    for name, given in (("times", times), ("weights", weights)):
        if given is not None and histories is None:
            raise DataError(f"{name} are of histories: give those too")
    if k < 1 or batch_size < 1:
        raise ConfigError(f"k and batch_size must be at least 1, got {k} and {batch_size}")
    items = model.dataset.original_item_ids
    allowed = (
        np.ones(len(items), bool) if allow is None else np.isin(np.arange(len(items)), _places(allow, model, "item"))
    )
    if block is not None:
        allowed[_places(block, model, "item")] = False
    if histories is not None:
        weighting = model.config.recency.make()
        if weighting.of_ratings:
            raise ConfigError("histories have no ratings, and this model's rows hold them: recommend by users")
        if weighting.infer.kind == "days" and times is None:
            raise DataError("this model weighs items by days: give the times of the histories (times=)")
        names, rows, row_times = _history_rows(model, histories, times, weights)
        row_ids = np.arange(len(names), dtype=np.int32)
        inputs = weighting.infer.weigh(rows, row_times)
    else:
        rows, inputs, known = model.dataset.train, model.known_rows, model.dataset.original_user_ids
        row_ids = np.arange(len(known)) if users is None else _places(users, model, "user")
        if len(np.unique(row_ids)) < len(row_ids):
            raise DataError("a user is asked for twice: name each once")
        names = known[row_ids]
    nothing = csr_from_pairs(np.zeros((0, 2), np.int64), *rows.shape)  # type: ignore[misc]
    seen = rows if exclude_seen else nothing
    devices, k = model.devices, min(k, len(items))
    size = -(-min(batch_size, max(len(row_ids), LEAST_ROWS)) // devices.num_row_shards) * devices.num_row_shards
    scores, places, placed = [], [], devices.place(allowed)
    with model.precision():
        for part in iterate_user_ids(row_ids, size):
            batches = (devices.make_batch(matrix, part, batch_size=size) for matrix in (inputs, seen))
            found = devices.fetch_rows(model.rank(k, histories is not None)(model.scoring_state, *batches, placed))
            can_be_ranked, values, best = (array[: len(part)] for array in found)
            if not can_be_ranked.all():
                raise ScoresError(
                    f"the scores of user {names[len(scores) * size]!r} or one after it are NaN or infinite"
                )
            scores.append(values)
            places.append(best)
    values = np.concatenate(scores) if scores else np.zeros((0, k), np.float32)
    keeps = values > (-np.inf if min_score is None else np.nextafter(np.float32(min_score), np.float32(-np.inf)))
    best = np.concatenate(places) if places else np.zeros((0, k), np.int32)
    return Recommendations(names, items[best], np.where(keeps, values, np.nan))


def _places(ids: Iterable[Any], model: Model, kind: str) -> np.ndarray:
    """The numbers of users or items by their original ids, [n].

    Raises:
      DataError: one is unknown.
    """
    asked, numbers = list(ids), model.numbers[kind]
    missing = [value for value in asked if value not in numbers]
    if missing:
        example = next(iter(numbers))
        raise DataError(
            f"{len(missing):,} of {len(asked):,} {kind}s are not known, the first {missing[0]!r}: the model's ids are "
            f"{'integers' if isinstance(example, int) else 'strings'} such as {example!r}"
        )
    return np.array([numbers[value] for value in asked], np.int64)


def check_new_users(model: Model) -> None:
    """Raises ConfigError if the model has nothing for users that it was not trained on."""
    if model.family.needs_known_users and model.functions.score_new_fn is None:
        raise ConfigError(
            f"{model.family.title} knows only the users it was trained on: recommend by users, or take a model that "
            "reads rows"
        )


def _history_rows(
    model: Model,
    histories: Mapping[Any, Sequence[Any]],
    times: Mapping[Any, Sequence[Any]] | None,
    weights: Mapping[Any, Sequence[float]] | None,
) -> tuple[np.ndarray, sparse.csr_array, np.ndarray | None]:
    """Names, rows [n, I] and, where they are given, times [nnz] of users given by their items, oldest first.

    Of equal times, items are in the order that was given.
    """
    check_new_users(model)
    if weights is not None and not model.dataset.weighted:
        raise DataError("the model's data have no weights: leave those of the histories out")
    pairs, all_times, all_weights = [], [], []
    for row, (name, history) in enumerate(histories.items()):
        places = _places(history, model, "item")
        if not len(places) or len(set(places.tolist())) < len(places):
            raise DataError(f"the history of {name!r} is empty or names an item twice: give each of its items once")
        order, own_times, own = np.arange(len(places)), None, np.ones(len(places))
        if times is not None:
            given = _one_for_each(times.get(name, ()), len(places), f"times of {name!r}", "numbers or dates")
            own_times = as_seconds(given, f"the history of {name!r}")
            order = np.argsort(own_times, kind="stable")
        if weights is not None:
            own = _one_for_each(weights.get(name, ()), len(places), f"weights of {name!r}", "numbers above 0")
            if own.dtype.kind not in "iuf" or not np.all((own > 0) & (own < np.inf)):
                raise DataError(f"the weights of {name!r} have to be numbers above 0")
        pairs.append(np.stack([np.full(len(places), row), places[order]], axis=1))
        all_weights.append(own[order])
        all_times += [] if own_times is None else [own_times[order]]
    if not pairs:
        raise DataError("there are no histories: give at least one")
    rows = csr_from_pairs(np.concatenate(pairs), len(pairs), model.dataset.num_items)
    rows.data[:] = np.concatenate(all_weights)
    return _as_names(histories), rows, None if times is None else np.concatenate(all_times)


def _one_for_each(values: Sequence[Any], count: int, what: str, kinds: str) -> np.ndarray:
    if len(values) != count:
        raise DataError(f"the {what} have to be {count} {kinds}, one for each of its items")
    return np.asarray(values)


def _as_names(names: Iterable[Any]) -> np.ndarray:
    """Names of users [n]: integers, strings or, where they are anything else or several types, as they are."""
    given = [name.item() if isinstance(name, np.generic) else name for name in names]
    if {type(name) for name in given} in ({str}, {int}):
        return np.array(given)
    found = np.empty(len(given), object)
    found[:] = given
    return found
