"""Datasets from logs of interactions."""

from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse

from diffrec_jax.data.interactions import Dataset, as_column, number_ids
from diffrec_jax.data.matrices import DataError, csr_from_pairs
from diffrec_jax.data.splits import SORTED_BY_ITEMS, is_sorted_by_items, item_order, random_order

Repeats = Literal["first", "last", "sum", "error"]


def _columns(data: Any, columns: dict[str, Any]) -> dict[str, np.ndarray]:
    """The named columns of a frame, or the arrays themselves where there is none."""
    names = {kind: column for kind, column in columns.items() if isinstance(column, str)}
    if data is None:
        for kind, column in names.items():
            raise DataError(
                f"{kind}={column!r} names a column, but there is no data frame: give it, or {kind} as array"
            )
        return {kind: as_column(column) for kind, column in columns.items()}
    for kind in columns.keys() - names.keys():
        raise DataError(
            f"{kind} is no name of a column, and there is a data frame: name a column, or give all as arrays"
        )
    try:
        import narwhals as nw
    except ImportError as error:
        raise DataError("a data frame needs narwhals: pip install 'diffrec-jax[data]', or give arrays") from error
    try:
        frame = nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"{type(data).__name__} is no data frame that Narwhals knows (pandas, polars, pyarrow, ...): give one, a "
            "SciPy sparse matrix, or the columns as arrays"
        ) from error
    missing = [name for name in names.values() if name not in frame.collect_schema().names()]
    if missing:
        raise DataError(f"there is no column {missing[0]!r}: the frame has {', '.join(frame.collect_schema().names())}")
    frame = frame.select(*dict.fromkeys(names.values()))
    frame = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
    for name in names.values():
        count = frame[name].null_count()
        if count:
            raise DataError(f"column {name!r} has {count:,} missing values: drop those rows, or fill them")
    return {kind: frame[name].to_numpy() for kind, name in names.items()}


def _of_matrix(matrix: Any, others: dict[str, Any]) -> dict[str, np.ndarray]:
    """Users and items of the stored entries, in their order.

    Raises:
      DataError: there are other columns, too.
    """
    for kind in others:
        raise DataError(
            f"{kind} beside a sparse matrix, which gives its stored entries alone: give columns, of m = matrix.tocoo() "
            "user=m.row, item=m.col and, where its values are weights, weight=m.data"
        )
    entries = matrix if matrix.format == "coo" else sparse.csr_array(matrix).tocoo()
    return {"user": entries.row, "item": entries.col}


def _order_of_log(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The order by user of a log without times, and a warning where it is none of time."""
    order = np.argsort(users, kind="stable")
    if is_sorted_by_items(*item_order(users[order], items[order])):
        return random_order(users, items), [SORTED_BY_ITEMS]
    return order, []


def from_interactions(
    data: Any = None,
    *,
    user: Any = "user",
    item: Any = "item",
    time: Any = None,
    weight: Any = None,
    rating: Any = None,
    repeats: Repeats = "first",
    name: str = "interactions",
) -> Dataset:
    """A dataset of everything in a log, all of it in ``train``: ``split_by_time`` parts it.

    Ids may be integers or strings; they are kept. A user's interactions are put into the order of time, those of the
    same time, and all where there is no time, into the order of the log; or into a random one, with a warning, where
    the log is sorted by items.

    Args:
      data: a data frame that Narwhals knows (pandas, polars, pyarrow, ...), or a sparse matrix [users, items] whose
        stored entries are the interactions, whatever their values; None where the columns are given as arrays.
      user: name of the column of users, or the array.
      item: likewise of items.
      time: likewise of times, numbers or dates; None where there are none. The dataset keeps them, dates as seconds
        since 1970.
      weight: likewise of weights above 0 (counts, confidence): models see and learn them in place of 1.
      rating: likewise of ratings, numbers that models may learn to predict (``row_values``).
      repeats: which interaction of a user with the same item stays: the first or the last in time. ``sum``: the first,
        with the sum of the weights (without weights, their number) as its weight. ``error`` refuses.
      name: of the dataset.

    Raises:
      DataError: a column is missing, of another length, has missing values, or holds neither integers nor strings;
        there is no interaction; or a pair repeats and ``repeats`` is ``error``.
    """
    if repeats not in get_args(Repeats):
        raise DataError(f"repeats {repeats!r} is unknown: choose one of {', '.join(get_args(Repeats))}")
    named = {"time": time, "weight": weight, "rating": rating}
    optional = {kind: column for kind, column in named.items() if column is not None}
    if sparse.issparse(data):
        ids = {"user": user, "item": item}
        found = _of_matrix(data, {kind: own for kind, own in ids.items() if not _is_text(own, kind)} | optional)
    else:
        found = _columns(data, {"user": user, "item": item} | optional)
    lengths = {kind: len(column) for kind, column in found.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length:,} of {kind}" for kind, length in lengths.items())
        raise DataError(f"{name}: the columns differ in length ({told})")
    if not lengths["user"]:
        raise DataError(f"{name} holds no interaction")
    user_ids, users = number_ids(found["user"], f"{name}: users")
    item_ids, items = number_ids(found["item"], f"{name}: items")
    said: list[str] = []
    if time is None:
        order, said = _order_of_log(users, items)
    else:
        seconds = as_seconds(found["time"], name)
        order = np.lexsort((seconds, users))  # stable: of the same time, the order of the log
    pairs = np.stack([users, items], axis=1)[order]
    kept, group = _without_repeats(pairs, repeats, name)
    weighted = weight is not None or repeats == "sum"
    weights = _numbers(found.get("weight", np.ones(len(pairs))), "weights", name)[order]
    if repeats == "sum":
        weights = np.bincount(group, weights, minlength=len(kept))
    else:
        weights = weights[kept]
    columns: dict[str, Any] = {}
    if time is not None:
        columns["times"] = {"train": seconds[order][kept]}
    if rating is not None:
        columns["ratings"] = {"train": _numbers(found["rating"], "ratings", name)[order][kept]}
    shape = len(user_ids), len(item_ids)
    empty = csr_from_pairs(np.zeros((0, 2), np.int64), *shape)
    train = csr_from_pairs(pairs[kept], *shape)  # pairs are in the order of users: so are the weights
    train = sparse.csr_array((weights.astype(np.float32), train.indices, train.indptr), shape=shape)
    what = "their weights are added up" if repeats == "sum" else f"the {repeats} of each is kept"
    if len(kept) < len(pairs):
        said.append(f"{len(pairs) - len(kept):,} interactions repeat a pair of user and item: {what}")
    return Dataset(
        name=name,
        train=train,
        valid=empty,
        test=empty,
        reading_warnings=tuple(said),
        user_ids=user_ids,
        item_ids=item_ids,
        weighted=weighted,
        **columns,
    )


def _is_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def as_seconds(times: np.ndarray, name: str) -> np.ndarray:
    """Times [n] as float64: dates as seconds since 1970 (without a zone: UTC), numbers as they are.

    Raises:
      DataError: they are neither, or some are missing.
    """
    if times.dtype.kind == "O" and all(isinstance(time, date) for time in times):
        times = np.array([_seconds_of(time) for time in times], np.float64)
    if times.dtype.kind not in "iufM":
        raise DataError(f"{name}: times are {times.dtype}: give numbers or dates")
    missing = np.isnat(times) if times.dtype.kind == "M" else np.isnan(times) if times.dtype.kind == "f" else ()
    if np.any(missing):
        raise DataError(f"{name}: {np.sum(missing):,} times are missing, the first in row {np.argmax(missing)}")
    if times.dtype.kind == "M":
        return times.astype("datetime64[us]").astype(np.int64) / 1e6
    return times.astype(np.float64)


def _seconds_of(time: date) -> float:
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _numbers(column: np.ndarray, what: str, name: str) -> np.ndarray:
    """A column [n] as float64.

    Raises:
      DataError: it holds no numbers.
    """
    if column.dtype.kind not in "iufb":
        raise DataError(f"{name}: {what} are {column.dtype}: give numbers")
    return column.astype(np.float64)


def _without_repeats(pairs: np.ndarray, repeats: Repeats, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pairs [n, 2] that stay, ascending: of equal ones the first or last; and, of each pair, its
    replacement's number among them."""
    codes = pairs[:, 0].astype(np.int64) * (pairs[:, 1].max() + 1) + pairs[:, 1]
    ordered = codes[::-1] if repeats == "last" else codes
    _, first, group = np.unique(ordered, return_index=True, return_inverse=True)
    if repeats == "error" and len(first) < len(pairs):
        raise DataError(f"{name}: {len(pairs) - len(first):,} interactions repeat a pair of user and item")
    kept = len(pairs) - 1 - first if repeats == "last" else first
    order = np.argsort(kept)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return kept[order], rank[group]
