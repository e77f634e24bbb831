"""Full-ranking evaluation: score every item once, mask what was seen and take the top K once per split.

The metrics of each user are computed on the device; only they and the top K ids come back, never scores.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, iterate_user_ids
from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.matrices import DataError, check_no_repeats, check_structure
from diffrec_jax.data.recency import NO_WEIGHTING, RowWeighting
from diffrec_jax.devices import SINGLE_DEVICE, DeviceStrategy
from diffrec_jax.evaluation.candidates import SampledCandidates
from diffrec_jax.evaluation.metrics import METRICS
from diffrec_jax.evaluation.rating_errors import RatingErrors, rating_errors
from diffrec_jax.prng import make_key
from diffrec_jax.rows import mask_scores, num_entries, row_keys, to_mask
from diffrec_jax.top_k import top_k
from diffrec_jax.typing import Array, Key, ScoreFn

AveragingMode = Literal["official", "relevant_users"]
DEFAULT_KS = (10, 20, 50, 100)


class ScoresError(ValueError):
    """Scores that cannot be ranked; the message names the first user."""


class SplitTask(NamedTuple):
    """What one split asks: rank all items but the ``seen`` ones, and find the ``relevant`` ones. All are [U, I].

    What is stored counts, whatever its value; of ``rated`` the value is the rating.
    """

    seen: sparse.csr_array
    relevant: sparse.csr_array
    candidates: sparse.csr_array | None = None
    """Rank these items alone; None for all items."""
    rated: sparse.csr_array | None = None
    """Ratings that the scores are to be compared with; None for none."""


@dataclass(frozen=True)
class SplitResult:
    """What the evaluated users [U] were recommended, and how good it was."""

    user_ids: np.ndarray
    num_relevant: np.ndarray
    per_user: dict[str, np.ndarray]
    """Metrics by name (``recall@20``), [U] float32."""
    top_items: np.ndarray
    """[U, largest K] int32, best first; -1 where no unseen item is left."""
    rating_errors: RatingErrors | None = None
    """Where ratings were predicted."""

    def mean(self, mode: AveragingMode = "official") -> dict[str, float]:
        """Averages over users: ``official`` counts those without relevant items as 0, ``relevant_users`` does not.

        RMSE and MAE, where ratings were predicted, are over all held-out ratings of the users, in either mode.

        Raises:
          ValueError: no user is left to average over, or there is no such mode.
        """
        _check_mode(mode)
        chosen = np.ones(len(self.user_ids), bool) if mode == "official" else self.num_relevant > 0
        if not chosen.any():
            raise ValueError(f"no user has relevant items, so mode {mode!r} has nothing to average")
        means = {name: float(np.mean(values[chosen], dtype=np.float64)) for name, values in self.per_user.items()}
        return means | (self.rating_errors.mean() if self.rating_errors else {})


def _check_mode(mode: str) -> None:
    if mode not in get_args(AveragingMode):
        raise ValueError(f"mode {mode!r} is unknown: choose one of {', '.join(get_args(AveragingMode))}")


TopK = Callable[[Array, int], tuple[Array, Array]]


def top_k_items(scores: Array, seen: RowBatch, k: int, top_k: TopK = top_k) -> tuple[Array, Array]:
    """The k best unseen items of each row, best first; of equal scores the lower id first.

    Args:
      scores: [B, I].
      seen: items that must not be recommended.
      k: list length; at most I are returned.
      top_k: (scores, k) -> the largest values and their places, of equal values the first place first.

    Returns:
      Item ids [B, min(k, I)] int32 and whether each place holds an unseen item.
    """
    values, items = top_k(mask_scores(scores, seen), min(k, scores.shape[1]))
    return items, values > -jnp.inf


def metrics_of_hits(hits: Array, num_relevant: Array, ks: tuple[int, ...]) -> dict[str, Array]:
    """Every metric at every K, [B] each, of lists whose places [B, largest K] are hits or not."""
    return {f"{name}@{k}": METRICS[name](hits, num_relevant, k) for name in METRICS for k in ks}


class _Batches(NamedTuple):
    """The parts of a SplitTask for some users."""

    seen: RowBatch
    relevant: RowBatch
    candidates: RowBatch | None
    rated: RowBatch | None


def _split_metrics(scores: Array, batches: _Batches, ks: tuple[int, ...], top_k: TopK) -> tuple[Array, Array, Array]:
    """Metrics [B, names], number of relevant items [B], best items."""
    num_items = scores.shape[1]
    if batches.candidates is not None:
        scores = jnp.where(to_mask(batches.candidates, num_items), scores, -jnp.inf)
    items, recommended = top_k_items(scores, batches.seen, max(ks), top_k)
    hits = jnp.take_along_axis(to_mask(batches.relevant, num_items), items, axis=1) & recommended
    num_relevant = num_entries(batches.relevant, num_items)
    table = jnp.stack(list(metrics_of_hits(hits, num_relevant, ks).values()), axis=1)
    return table, num_relevant, jnp.where(recommended, items, -1)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates scoring states of one ``score_fn``, compiled once.

    Attributes:
      score_fn: scores a RowBatch.
      ks: list lengths.
      batch_size: rows scored at once, over all devices.
      devices: what it runs on.
      rating_range: the least and the largest rating, where scores are predicted ratings: those that a task has are
        compared with them, clipped to the range.
    """

    score_fn: ScoreFn
    ks: tuple[int, ...] = DEFAULT_KS
    batch_size: int = 400
    devices: DeviceStrategy = SINGLE_DEVICE
    make_key: Callable[[], Key] = lambda: make_key(0)
    rating_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Compiles lazily, once per shape."""

        def errors_of(scores: Array, rated: RowBatch | None) -> RatingErrors | None:
            return (
                None if rated is None or self.rating_range is None else rating_errors(scores, rated, self.rating_range)
            )

        def evaluate_batch(scoring_state: Any, inputs: RowBatch, splits: dict[str, _Batches]):
            scores = self.score_fn(scoring_state, inputs, row_keys(self.make_key(), inputs))
            can_be_ranked = jnp.all(scores < jnp.inf, axis=1)  # false for NaN; -inf is "never recommend"
            return can_be_ranked, {
                name: (_split_metrics(scores, batches, self.ks, self.devices.top_k), errors_of(scores, batches.rated))
                for name, batches in splits.items()
            }

        object.__setattr__(self, "_evaluate_batch", self.devices.compile(evaluate_batch, gives_rows=True))

    def __call__(
        self,
        scoring_state: Any,
        inputs: sparse.csr_array,
        tasks: Mapping[str, SplitTask],
        *,
        user_ids: np.ndarray | None = None,
        on_batch: Callable[[int], None] = lambda num_users: None,
        checked: bool = False,
    ) -> dict[str, SplitResult]:
        """Metrics of every task from one scoring of the input rows [U, I].

        Args:
          scoring_state: of the recommender, as ``devices`` places it.
          inputs: rows the model sees, with its weights.
          tasks: the splits that share these inputs.
          user_ids: users to evaluate, all by default.
          on_batch: called with the number of users of each finished batch (progress, or a check for signals).
          checked: the matrices are those of a Dataset, which has checked them.

        Raises:
          DataError: matrices of several shapes, that are no valid CSR, or that store an entry twice.
          ScoresError: a score is NaN or +inf.
          ValueError: there is no user to evaluate, or user_ids are no integers [n] that number rows.
        """
        if not checked:
            _check_tasks(inputs, tasks)
        user_ids = _checked_users(user_ids, inputs.shape[0])
        collected: dict[str, list[Any]] = {name: [] for name in tasks}
        for users in iterate_user_ids(user_ids, self.batch_size):

            def block(matrix: sparse.csr_array, users: np.ndarray = users) -> RowBatch:
                return self.devices.make_batch(matrix, users, batch_size=self.batch_size)

            splits = {
                name: _Batches(*(None if part is None else block(part) for part in task))  # type: ignore[arg-type]
                for name, task in tasks.items()
            }
            found = self._evaluate_batch(scoring_state, block(inputs), splits)  # type: ignore[attr-defined]
            can_be_ranked, values = self.devices.fetch_rows(found)
            _check_ranked(can_be_ranked[: len(users)], users)
            without_padding = operator.itemgetter(slice(len(users)))
            for name, found in values.items():
                collected[name].append(jax.tree.map(without_padding, found))
            on_batch(len(users))
        names = [f"{metric}@{k}" for metric in METRICS for k in self.ks]
        results = {}
        for name in tasks:
            found = jax.tree.map(lambda *parts: np.concatenate(parts), *collected[name])
            (table, num_relevant, top_items), errors = found
            results[name] = SplitResult(
                user_ids=user_ids,
                num_relevant=num_relevant,
                per_user={metric: table[:, column] for column, metric in enumerate(names)},
                top_items=top_items,
                rating_errors=errors,
            )
        return results


def _check_tasks(inputs: sparse.csr_array, tasks: Mapping[str, SplitTask]) -> None:
    matrices = {"inputs": inputs} | {
        f"{name}: {part}": matrix
        for name, task in tasks.items()
        for part, matrix in task._asdict().items()
        if matrix is not None
    }
    for name, matrix in matrices.items():
        check_structure(matrix, name)
        if matrix.shape != inputs.shape:
            raise DataError(f"{name} has shape {matrix.shape}, the inputs have {inputs.shape}")
        check_no_repeats(matrix, name)


def _checked_users(user_ids: np.ndarray | None, num_users: int) -> np.ndarray:
    """The users to evaluate, by default all; a mask of booleans would pass for users 0 and 1."""
    user_ids = np.arange(num_users, dtype=np.int32) if user_ids is None else np.asarray(user_ids)
    are_numbers = user_ids.ndim == 1 and len(user_ids) and user_ids.dtype.kind in "iu"
    if not are_numbers or not 0 <= user_ids.min() <= user_ids.max() < num_users:
        raise ValueError(
            f"user_ids have to be one or more rows of the {num_users} of the data, as integers [n] from 0 on"
        )
    return user_ids


def _check_ranked(can_be_ranked: np.ndarray, users: np.ndarray) -> None:
    failed = users[~can_be_ranked]
    if len(failed):
        raise ScoresError(
            f"{len(failed)} of {len(users)} users of a batch have scores that are NaN or infinite and cannot be "
            f"ranked, the first is user {failed[0]} (row of the data, from 0): the model has diverged, or its score_fn "
            "is wrong"
        )


def check_relevant(dataset: Dataset, mode: AveragingMode, user_ids: np.ndarray | None = None) -> None:
    """Raises ValueError if a mode leaves nobody to average over, of these users (default: all): before any work.

    So it does if there is no such mode, if user_ids are none, or number no rows, and if users are held out, for valid
    or for test, and the mode counts all of them for both.
    """
    _check_mode(mode)
    user_ids = _checked_users(dataset.evaluated_users if user_ids is None else user_ids, dataset.num_users)
    if mode == "official" and dataset.held_out_users is None:
        return
    if mode == "official":
        raise ValueError(
            f"{dataset.name} holds out users, some for valid, others for test, and mode official would count each as 0 "
            "in the other split: use mode relevant_users"
        )
    for split in dataset.evaluated_splits:
        counts = np.diff(dataset.relevant(split).indptr)[user_ids]
        if not counts.any():
            raise ValueError(
                f"none of the {len(counts):,} evaluated users has relevant items in {split}, so mode {mode!r} has "
                "nothing to average: evaluate more users, or use mode official"
            )


def evaluate_dataset(
    evaluator: Evaluator,
    scoring_state: Any,
    dataset: Dataset,
    *,
    weighting: RowWeighting = NO_WEIGHTING,
    test_with_valid_input: bool = False,
    user_ids: np.ndarray | None = None,
    candidates: SampledCandidates | None = None,
    on_batch: Callable[[int], None] = lambda num_users: None,
) -> dict[str, SplitResult]:
    """Validation and test by the released protocol: the model sees the training row, scored once for both splits.

    ``weighting.infer`` weighs that row; what was seen is masked whatever its weight. With ``test_with_valid_input`` the
    test is scored a second time, from training and validation items. A split without interactions has no result.
    ``candidates`` are another protocol: they alone are ranked. Without ``user_ids`` it is of the users that are held
    out or, where none are, of all. Where the evaluator has a ``rating_range``, all ratings of the split are compared
    with the scores, whatever is relevant.

    Reference: arXiv:2304.04971, section 4.1.
    """
    user_ids = dataset.evaluated_users if user_ids is None else user_ids
    run = {"user_ids": user_ids, "on_batch": on_batch, "checked": True}
    tasks = {
        split: SplitTask(
            seen=dataset.train if split == "valid" else dataset.train_and_valid,
            relevant=dataset.relevant(split),
            rated=dataset.rated(split) if evaluator.rating_range else None,
        )
        for split in dataset.evaluated_splits
    }
    if candidates is not None:
        tasks = {split: task._replace(candidates=candidates.draw(dataset, split)) for split, task in tasks.items()}
    by_input: dict[bool, dict[str, SplitTask]] = {}
    for split, task in tasks.items():
        by_input.setdefault(split == "test" and test_with_valid_input, {})[split] = task
    results = {}
    for with_valid, own in by_input.items():
        known = "train_and_valid" if with_valid else "train"
        inputs = weighting.rows(dataset, known, weighting.infer)
        results |= evaluator(scoring_state, inputs, own, **run)
    return results
