"""A linear model of what comes next, in closed form: every prefix of a row predicts the items that follow it.

What a linear sequence model can do without any gradient: the opponent of sequence models, and where they may start.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.data.embeddings import leading_item_factors
from diffrec_jax.data.similarity import BLOCK_BYTES, Neighbors, strongest_of_rows
from diffrec_jax.recommenders.base import FittedRecommender
from diffrec_jax.recommenders.item_item import score_neighbors
from diffrec_jax.recommenders.positive_definite import solve_in_place, work_bytes
from diffrec_jax.rows import embed, num_entries, places
from diffrec_jax.settings import check_settings, seed_setting, setting
from diffrec_jax.typing import Array, RowKeys

PAIRS_AT_ONCE = 2**21
"""Of entries of rows, while the sparse equations are summed."""


@dataclass(frozen=True)
class WindowRidgeConfig:
    """Ridge regression over windows; moderate values."""

    scales: tuple[int, ...] = setting(
        (1, 5, 30), "Recency scales s of the input, side by side: an item of age a, in interactions, weighs exp(-a/s)."
    )
    horizon: float = setting(3.0, "H: the k-th next item is predicted with weight exp(-(k-1)/H).", above=0)
    l2: float = setting(300.0, "L2 regularisation of the weights.", above=0)
    stride: int = setting(1, "n: learns of every n-th prefix of a row, counted from its end.", at_least=1)
    max_length: int = setting(1000, "Newest items of a row that are learnt of.", at_least=2)
    rank: int = setting(
        0,
        "R, for many items: the input passes through R factors of the items; 0: it does not, and a fit takes "
        "8 S (S + 2) bytes for each pair of items, S the number of scales.",
        at_least=0,
    )
    num_neighbors: int = setting(
        0,
        "K, for many items and short rows: an item is predicted from those K alone that come before it most, and of "
        "each item the K strongest weights are kept; 0: from all items.",
        at_least=0,
    )
    seed: int = seed_setting(1, "Seed of the SVD that makes the factors of many users and items; of few it is exact.")

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        if self.rank and self.num_neighbors:
            raise ValueError("rank and num_neighbors are two ways to save memory: set one of them to 0")

    @property
    def uses_seed(self) -> bool:
        """Whether the seed changes anything: it is that of the factors."""
        return self.rank > 0


class WindowRidgeState(NamedTuple):
    """Scores are the sum over scales s of x_s F W_s, x_s the row weighted by the age of its items."""

    weights: np.ndarray | Array
    """W [S, R, I], or [S, I, I] without factors, or [S, I, K] of neighbours."""
    factors: np.ndarray | Array | None = None
    """F [I, R]; None: the identity."""
    neighbors: np.ndarray | Array | None = None
    """[S, I, K]: the items that the K weights of an item lead to; None: they lead to all."""


class PairTables(NamedTuple):
    """Sums over the windows of a row for two of its items, which only their places decide; L is the longest row.

    The item at place p weighs a^(t-p) in the window that ends at place t, with a = exp(-1/s).
    """

    decays: np.ndarray
    """[S, L]: a^d."""
    both: np.ndarray
    """[S, S, L + 1]: sum of (ab)^(t-p) over the windows with t >= p, by their distance from p to the last; of no window
    at L, which is the place -1."""
    ahead: np.ndarray
    """[S, stride, L]: sum of a^(t-p) exp(-(k-1-t)/H) over the windows with p <= t < k, by p's distance to the last
    window, modulo the stride, and by k - p."""


def make_pair_tables(config: WindowRidgeConfig, length: int) -> PairTables:
    """For rows of up to a length, in float64."""
    rates, stride = np.exp(-1.0 / np.array(config.scales, np.float64)), config.stride
    products, fade = rates[:, None] * rates[None], np.exp(-1.0 / config.horizon)
    both = np.zeros((*products.shape, length + 1))
    for distance in range(length):
        both[..., distance] = (distance > 0) * products * both[..., distance - 1] + (distance % stride == 0)
    ahead = np.zeros((len(rates), stride, length))
    for steps in range(1, length):
        ends = (np.arange(stride) - steps + 1) % stride == 0  # a window ends one place before
        ahead[..., steps] = fade * ahead[..., steps - 1] + ends * rates[:, None] ** (steps - 1)
    return PairTables(rates[:, None] ** np.arange(length), both, ahead)


def newest_of_rows(train: sparse.csr_array, max_length: int) -> sparse.csr_array:
    """Each row's newest items, in float64."""
    lengths = np.diff(train.indptr)
    places = np.arange(train.nnz) - np.repeat(train.indptr[:-1], lengths)
    stays = places >= np.repeat(lengths - max_length, lengths)
    indptr = np.concatenate([[0], np.cumsum(np.minimum(lengths, max_length))])
    return sparse.csr_array((train.data[stays].astype(np.float64), train.indices[stays], indptr), shape=train.shape)


def _whole_equations(config: WindowRidgeConfig, train: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Phi'Phi [SI, SI], its upper triangle, and Phi'Y [SI, I], over all windows.

    No window is ever made: what two items of a row add depends on their places alone. Item by item, so that what is
    added to stays in the cache.
    """
    num_items, scales = train.shape[1], range(len(config.scales))
    lengths = np.diff(train.indptr)
    decays, both, ahead = make_pair_tables(config, int(lengths.max(initial=1)))
    places = np.arange(train.nnz) - np.repeat(train.indptr[:-1], lengths)
    users = np.repeat(np.arange(train.shape[0]), lengths)
    by_item = np.argsort(train.indices, kind="stable")
    ends = np.cumsum(np.bincount(train.indices, minlength=num_items))
    gram = np.zeros((len(scales) * num_items,) * 2)
    right = np.zeros((len(scales) * num_items, num_items))
    for item in range(num_items):
        entries = by_item[ends[item - 1] if item else 0 : ends[item]]
        counts = lengths[users[entries]]
        starts = np.repeat(train.indptr[users[entries]] - np.cumsum(counts) + counts, counts)
        others = starts + np.arange(len(starts))
        columns, weights = train.indices[others], train.data[others] * np.repeat(train.data[entries], counts)
        steps = places[others] - np.repeat(places[entries], counts)
        to_last = np.repeat(counts - 2, counts) - np.maximum(places[others], places[others] - steps)
        gaps, is_later = np.abs(steps), steps >= 0
        for one in scales:
            row = one * num_items + item
            for other in scales[one:]:
                decay = np.where(is_later, decays[one, gaps], decays[other, gaps])
                found = np.bincount(columns, decay * both[one, other, to_last] * weights, minlength=num_items)
                gram[row, other * num_items : (other + 1) * num_items] = found
            phase = (np.repeat(counts - 2 - places[entries], counts)) % config.stride
            found = ahead[one, phase, gaps] * (steps > 0) * weights
            right[row] = np.bincount(columns, found, minlength=num_items)
    return gram, right


def _sparse_equations(
    config: WindowRidgeConfig, train: sparse.csr_array
) -> tuple[sparse.csr_array, list[sparse.csr_array]]:
    """Phi'Phi [SI, SI] and, of each scale, the rows of Phi'Y [I, I], with the pairs of items alone that rows hold."""
    num_items, scales = train.shape[1], range(len(config.scales))
    lengths = np.diff(train.indptr)
    decays, both, ahead = make_pair_tables(config, int(lengths.max(initial=1)))
    gram = sparse.csr_array((len(scales) * num_items,) * 2)
    right = [sparse.csr_array((num_items, num_items)) for _ in scales]
    pairs = np.cumsum(lengths.astype(np.int64) ** 2)
    ends = np.searchsorted(pairs, np.arange(PAIRS_AT_ONCE, pairs[-1] + PAIRS_AT_ONCE, PAIRS_AT_ONCE), side="right")
    for start, end in itertools.pairwise([0, *np.unique(np.append(ends, len(lengths)))]):
        counts = np.repeat(lengths[start:end], lengths[start:end])  # of each entry, those of its row
        first = np.repeat(np.arange(train.indptr[start], train.indptr[end]), counts)
        starts = np.repeat(train.indptr[start:end], lengths[start:end])
        place = np.arange(train.indptr[start], train.indptr[end]) - starts
        second = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts - starts, counts)
        one, two = np.repeat(place, counts), second - np.repeat(starts, counts)
        length, steps = np.repeat(counts, counts), two - one
        gaps, to_last = np.abs(steps), length - 2 - np.maximum(one, two)
        weights = train.data[first] * train.data[second]
        where = train.indices[first], train.indices[second]

        def summed(values: np.ndarray, where: Any = where) -> sparse.csr_array:
            kept = values != 0
            return sparse.coo_array(
                (values[kept], tuple(part[kept] for part in where)), shape=(num_items, num_items)
            ).tocsr()

        gram = gram + sparse.block_array(
            [
                [summed(np.where(steps >= 0, decays[s, gaps], decays[t, gaps]) * both[s, t, to_last] * weights)
                 for t in scales]
                for s in scales
            ],
            format="csr",
        )  # fmt: skip
        for s in scales:
            right[s] = right[s] + summed(ahead[s, (length - 2 - one) % config.stride, gaps] * (steps > 0) * weights)
    return gram, right


def fit_neighbors(config: WindowRidgeConfig, train: sparse.csr_array) -> WindowRidgeState:
    """Each item's column of W from a system of its own, over the items that come before it most.

    Where rows are short few items come before another, so that hardly anything is left out, and what would be S I
    unknowns are a few hundred.

    Args:
      config: num_neighbors above 0.
      train: training split [U, I], its rows in time order.
    """
    num_scales, num_items = len(config.scales), train.shape[1]
    gram, right = _sparse_equations(config, newest_of_rows(train, config.max_length))
    found, columns = [], [part.tocsc() for part in right]
    before: Any = sum(columns[1:], columns[0]).tocsc()
    number = np.full(gram.shape[0], -1)  # of an unknown in the system of the item at hand
    for item in range(num_items):
        own = slice(before.indptr[item], before.indptr[item + 1])
        strongest = np.argsort(-before.data[own], kind="stable")[: config.num_neighbors]
        unknowns = (np.arange(num_scales)[:, None] * num_items + np.sort(before.indices[own][strongest])).ravel()
        size = len(unknowns)
        number[unknowns] = np.arange(size)
        counts = gram.indptr[unknowns + 1] - gram.indptr[unknowns]
        entries = np.arange(counts.sum()) + np.repeat(gram.indptr[unknowns] - np.cumsum(counts) + counts, counts)
        others = number[gram.indices[entries]]
        inside = others >= 0
        system, target = np.zeros((size, size), order="F"), np.zeros((size, 1), order="F")
        system[np.repeat(np.arange(size), counts)[inside], others[inside]] = gram.data[entries][inside]
        system[np.diag_indices(size)] += config.l2
        for scale, column in enumerate(columns):
            sources = column.indices[column.indptr[item] : column.indptr[item + 1]] + scale * num_items
            values = column.data[column.indptr[item] : column.indptr[item + 1]]
            inside = number[sources] >= 0
            target[number[sources][inside], 0] = values[inside]
        number[unknowns] = -1
        if size:
            solve_in_place(system, target)
        found.append((unknowns, target[:, 0]))
    indptr = np.cumsum([0, *(len(unknowns) for unknowns, _ in found)])
    unknowns, values = (np.concatenate(parts) for parts in zip(*found))
    solved = sparse.csc_array((values, unknowns, indptr), shape=(gram.shape[0], num_items)).tocsr()
    kept = strongest_of_rows(solved, config.num_neighbors)
    shape = (num_scales, num_items, -1)
    return WindowRidgeState(kept.weights.reshape(shape), neighbors=kept.item_ids.reshape(shape))


class Windows(NamedTuple):
    """Of rows of one length L: W prefixes, and how much each of the row's items counts in them."""

    inputs: np.ndarray
    """[S, W, L]: exp(-age / s) of the items up to the prefix's last, 0 of the others."""
    targets: np.ndarray
    """[W, L]: exp(-(k - 1) / H) of the k-th item after the prefix, 0 of those in it."""


def make_windows(config: WindowRidgeConfig, length: int) -> Windows:
    """The windows of rows of a length of at least 2, in float64."""
    last = np.arange(length - 2, -1, -config.stride)[::-1, None]  # place of each prefix's last item
    ahead = np.arange(length)[None] - last
    ages = np.maximum(-ahead, 0)
    inputs = [np.where(ahead <= 0, np.exp(-ages / scale), 0.0) for scale in config.scales]
    targets = np.where(ahead > 0, np.exp(-(np.maximum(ahead, 1) - 1) / config.horizon), 0.0)
    return Windows(np.stack(inputs), targets)


def _reduced_equations(
    config: WindowRidgeConfig, train: sparse.csr_array, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same for inputs that pass through factors [I, R]: [SR, SR] and [SR, I]."""
    (num_items, rank), num_scales = factors.shape, len(config.scales)
    lengths = np.diff(train.indptr)
    gram = np.zeros((num_scales * rank,) * 2)
    right = np.zeros((num_items, num_scales * rank))
    for length in np.unique(lengths[lengths >= 2]):
        windows, starts = make_windows(config, length), train.indptr[:-1][lengths == length]
        size = max(1, BLOCK_BYTES // (8 * length * rank * num_scales))
        for start in range(0, len(starts), size):
            entries = starts[start : start + size, None] + np.arange(length)
            own, weights = train.indices[entries], train.data[entries][:, :, None]
            embedded = factors[own] * weights  # [n, L, R]
            phi = np.concatenate([inputs @ embedded for inputs in windows.inputs], axis=2)  # [n, W, SR]
            of_items = (windows.targets.T @ phi * weights).reshape(own.size, -1)
            flat = phi.reshape(-1, num_scales * rank)
            gram += flat.T @ flat
            ones = np.ones(own.size), own.ravel(), np.arange(own.size + 1)
            right += sparse.csr_array(ones, shape=(own.size, num_items)).T @ of_items
    return gram, right.T


def fit_window_ridge(config: WindowRidgeConfig, train: sparse.csr_array) -> WindowRidgeState:
    """W = (Phi'Phi + l2 I)^-1 Phi'Y over all prefixes of all rows.

    A row of Phi holds a prefix at every recency scale, a row of Y the items after it, each weighted by its distance.
    """
    if config.num_neighbors:
        return fit_neighbors(config, train)
    factors = leading_item_factors(train, config.rank, seed=config.seed)[1] if config.rank else None
    rows = newest_of_rows(train, config.max_length)
    if factors is None:
        gram, right = _whole_equations(config, rows)
    else:
        gram, right = _reduced_equations(config, rows, factors.astype(np.float64))
    gram[np.diag_indices(len(gram))] += config.l2
    right = np.asfortranarray(right)
    try:
        solve_in_place(gram.T, right)  # in Fortran's order our upper triangle is the lower one
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(
            f"the Gram matrix of the windows is not positive definite with l2 = {config.l2}"
        ) from error
    weights = np.ascontiguousarray(right, np.float32).reshape(len(config.scales), -1, train.shape[1])
    return WindowRidgeState(weights, None if factors is None else factors.astype(np.float32))


def make_window_ridge(config: WindowRidgeConfig) -> FittedRecommender:
    """Ridge regression from a row's past, at several recency scales, to its future.

    Weights of interactions multiply inputs and targets.
    """
    num_scales = len(config.scales)

    def score_fn(state: WindowRidgeState, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        num_items = state.weights.shape[1 if state.neighbors is not None else 2]
        ages = num_entries(batch, num_items)[batch.rows] - 1 - places(batch)
        scores = jnp.zeros((batch.user_ids.shape[0], num_items))
        for number, (scale, weights) in enumerate(zip(config.scales, jnp.asarray(state.weights))):
            aged = batch._replace(weights=batch.weights * jnp.exp(-jnp.maximum(ages, 0) / scale))
            if state.neighbors is not None:
                scores = scores + score_neighbors(Neighbors(state.neighbors[number], weights), aged)
            elif state.factors is None:
                scores = scores + embed(aged, weights)
            else:
                scores = scores + embed(aged, jnp.asarray(state.factors)) @ weights
        return scores

    def fit_bytes(train: sparse.csr_array) -> int:
        num_items = train.shape[1]
        if config.num_neighbors:
            lengths = np.minimum(np.diff(train.indptr), config.max_length).astype(np.int64)
            pairs = min(int(lengths @ lengths), num_items**2)
            # The sparse equations while a part is added to them, a part's pairs, and the weights at every stage.
            kept = min(config.num_neighbors * num_items, pairs)
            return 36 * num_scales**2 * pairs + 200 * PAIRS_AT_ONCE + 48 * num_scales * kept
        width = num_scales * (config.rank or num_items)
        # Both sides in float64, the weights in float32 and their copy on the device.
        return 8 * width**2 + 16 * width * num_items + 4 * BLOCK_BYTES + work_bytes(width)

    return FittedRecommender(fit=lambda train: fit_window_ridge(config, train), score_fn=score_fn, fit_bytes=fit_bytes)
