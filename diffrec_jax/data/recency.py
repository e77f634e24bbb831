"""Recency weights: how much each interaction of a row counts, by its place in the user's time order.

They change the values of a row, never which items it holds: what was seen does not depend on them.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse

from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.matrices import DataError

RecencyKind = Literal["none", "linear", "exp", "days"]
SECONDS_A_DAY = 86_400.0
LATEST_SECONDS = 1e11
"""The year 5138: beyond, times are in another unit."""


@dataclass(frozen=True)
class Recency:
    """Weights of a row's M interactions, oldest first (m = 1..M).

    ``none``: 1. ``linear``: w_min + (m - 1) / (M - 1) (w_max - w_min), and w_max where M = 1. ``exp``:
    w_max exp(-(M - m) / scale), so that the newest counts w_max. ``days``: w_max exp(-d / scale), d days before the
    newest of them, by the interactions' times. With ``share`` below 1 the same over the oldest
    ceil(share M) interactions, and 0 for the newer ones: trained on such rows with whole rows as targets, a model
    learns to go on from a user's past.

    Reference: arXiv:2304.04971, T-DiffRec (linear).

    Raises:
      ValueError: a weight is negative or not finite, w_min exceeds w_max, or the scale is not above 0.
    """

    kind: RecencyKind = "none"
    w_min: float = 1.0
    w_max: float = 1.0
    scale: float = 1.0
    """Interactions, or days, after which a weight falls by a factor of e."""
    share: float = 1.0
    """Of a row's interactions, from the oldest, that have a weight at all; at least one has."""

    def __post_init__(self) -> None:
        """Checks every value."""
        if self.kind not in get_args(RecencyKind):
            raise ValueError(f"recency {self.kind!r} is unknown: choose one of {', '.join(get_args(RecencyKind))}")
        if not 0 <= self.w_min <= self.w_max < float("inf"):
            raise ValueError(f"recency weights need 0 <= w_min <= w_max, got {self.w_min:g} and {self.w_max:g}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"the scale of exponential recency must be above 0, got {self.scale:g}")
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of a row that is weighed must be above 0 and at most 1, got {self.share:g}")

    def weights(self, matrix: sparse.csr_array, times: np.ndarray | None = None) -> np.ndarray:
        """A weight for each stored entry of a matrix whose rows are in time order, [nnz] float32.

        Raises:
          DataError: they are by days, and there are no times [nnz].
        """
        lengths = np.diff(matrix.indptr)
        length = np.ceil(self.share * np.repeat(lengths, lengths) - 1e-9)  # 0.7 * 10 may be a little more than 7
        place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)  # m - 1
        if self.kind != "days":
            return self.at_places(place, length).astype(np.float32)
        if times is None:
            raise DataError("recency in days needs the interactions' times: the data have none (--time_col, time=)")
        if matrix.nnz and times.max() > LATEST_SECONDS:
            raise DataError(
                f"recency in days needs times in seconds since 1970, and these go up to {times.max():,.0f}: divide "
                "milliseconds by 1,000"
            )
        last = np.repeat(matrix.indptr[:-1], lengths) + length.astype(np.int64) - 1
        days = np.maximum(times[last] - times, 0) / SECONDS_A_DAY if matrix.nnz else times
        return np.where(place < length, self.w_max * np.exp(-days / self.scale), 0.0).astype(np.float32)

    def at_places(self, place: Any, length: Any, numpy: Any = np) -> Any:
        """Weights of interactions at places m - 1 of rows of which ``length`` have a weight, in the shape of both.

        Not of recency in days, which no place decides. ``numpy`` may be ``jax.numpy``, for arrays within a compiled
        function.
        """
        if self.kind == "linear":
            share = numpy.where(length > 1, place / numpy.maximum(length - 1, 1), 1.0)
            values = self.w_min + share * (self.w_max - self.w_min)
        elif self.kind == "exp":
            values = self.w_max * numpy.exp(-numpy.maximum(length - 1 - place, 0) / self.scale)
        else:
            values = numpy.ones(place.shape)
        return numpy.where(place < length, values, 0.0)

    def weigh(self, matrix: sparse.csr_array, times: np.ndarray | None = None) -> sparse.csr_array:
        """The matrix with its values times these weights; entries of weight 0 stay stored."""
        if self == NO_RECENCY:
            return matrix
        values = self.weights(matrix, times) * matrix.data
        return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)


NO_RECENCY = Recency()
RECENCY_FORMS = (
    "none, linear:W_MIN:W_MAX (linear:0.1:1), exp:SCALE or exp:SCALE:W_MAX (exp:20, in interactions), days:SCALE or "
    "days:SCALE:W_MAX (days:30, by times), each with @SHARE (linear:0:1@0.8) for the oldest share of a row alone"
)


def parse_recency(text: str) -> Recency:
    """A Recency from ``none``, ``linear:0.1:1``, ``exp:20`` or ``exp:20:3``, each with or without ``@0.8``, a share.

    Raises:
      ValueError: the text is none of these, or its numbers are out of range.
    """
    if not isinstance(text, str):
        raise ValueError(f"recency has to be a text, got {text!r}: write {RECENCY_FORMS}")
    weights, at, share_text = text.strip().partition("@")
    kind, *arguments = weights.split(":")
    try:
        numbers, share = [float(argument) for argument in arguments], float(share_text) if at else 1.0
    except ValueError:
        numbers, share = None, 1.0
    match kind, numbers:
        case "none", []:
            return Recency(share=share)
        case "linear", [w_min, w_max]:
            return Recency("linear", w_min=w_min, w_max=w_max, share=share)
        case (("exp" | "days"), [scale]):
            return Recency(kind, scale=scale, share=share)
        case (("exp" | "days"), [scale, w_max]):
            return Recency(kind, w_min=0.0, w_max=w_max, scale=scale, share=share)
    raise ValueError(f"recency {text!r} is not understood: write {RECENCY_FORMS}")


@dataclass(frozen=True)
class RowWeighting:
    """What rows hold, and how it is weighed: in those trained on, those to be predicted, and those scored from."""

    train: Recency = NO_RECENCY
    target: Recency | None = None
    """None: the training row itself, as in the paper."""
    infer: Recency = NO_RECENCY
    of_ratings: bool = False
    """Whether rows hold the dataset's ratings, not its own values."""

    def rows(self, dataset: Dataset, split: str, recency: Recency) -> sparse.csr_array:
        """The rows of a split (or of ``train_and_valid``) as a model sees them, [U, I].

        Raises:
          DataError: they are to hold ratings, or are weighed by days, and there are none.
        """
        matrix = dataset.rated(split) if self.of_ratings else getattr(dataset, split)
        return recency.weigh(matrix, dataset.times_of(split))

    def largest_target(self, dataset: Dataset) -> float:
        """What a row to be predicted holds at most, if it holds the dataset's own values."""
        largest = float(dataset.train.data.max(initial=0.0)) if dataset.weighted else 1.0
        return largest * (self.train if self.target is None else self.target).w_max

    @property
    def weighs(self) -> bool:
        """Whether any row has another weight than 1."""
        return any(recency not in (None, NO_RECENCY) for recency in (self.train, self.target, self.infer))


NO_WEIGHTING = RowWeighting()
