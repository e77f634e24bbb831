"""The best linear denoiser in closed form: rows that dropout took items from, mapped to what it took.

EASE is this without dropout. DiffRec and L-DiffRec may start from it, in a low rank: ``LinearFactors``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse

from diffrec_jax.data.similarity import BLOCK_BYTES, item_blocks
from diffrec_jax.recommenders.positive_definite import invert_in_place
from diffrec_jax.settings import check_settings, setting


@dataclass(frozen=True)
class LinearFit:
    """What decides a linear denoiser, beside the data.

    Raises:
      ValueError: a value is outside its range; the message names it.
    """

    l2: float = setting(1000.0, "L2 regularisation.", above=0)
    dropout: float = setting(0.5, "Rate at which items are taken from a row.", at_least=0, below=1)
    user_weight_power: float = setting(0.0, "A user of n items weighs (n / mean n) to this power.", at_least=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)


def user_weighted(train: sparse.csr_array, power: float) -> sparse.csr_array:
    """The rows times the root of their users' weights, which have mean 1 where all users are alike, float64 [U, I]."""
    counts = np.diff(train.indptr)
    mean = counts.sum() / max(np.count_nonzero(counts), 1)  # of users with items: others change nothing
    weights = (np.maximum(counts, 1) / max(mean, 1.0)) ** power
    values = train.data.astype(np.float64) * np.repeat(np.sqrt(weights), counts)
    return sparse.csr_array((values, train.indices, train.indptr), shape=train.shape)


def _gram(rows: sparse.csr_array, items: np.ndarray | None = None) -> np.ndarray:
    columns = rows.T.tocsr()
    if items is not None:
        columns, rows = columns[items], rows[:, items]
    gram = np.empty((columns.shape[0],) * 2, order="F")
    for block in item_blocks(len(gram)):
        gram[:, block] = (columns[block] @ rows).toarray().T  # symmetric
    return gram


def fit_linear_denoiser(train: sparse.csr_array, fit: LinearFit) -> np.ndarray:
    """B = I - P diag(P)^-1 with P = (G + l2 I + p/(1-p) diag(G))^-1 and G = X'DX, float32 [I, I], its diagonal 0.

    D weighs the users. It minimises the squared error at what dropout of rate p took, over all that it could take.
    Takes 16 I^2 bytes: the Gram matrix in float64, inverted in place, and the result, with a copy on the device.

    Reference: Steck, "Autoencoders that don't overfit towards the identity", NeurIPS 2020, eq. 10; arXiv:1905.03375,
    algorithm 1, for p = 0.
    """
    gram = _gram(user_weighted(train, fit.user_weight_power))
    num_items = len(gram)
    gram[np.diag_indices(num_items)] += fit.l2 + fit.dropout / (1 - fit.dropout) * gram.diagonal()
    try:
        invert_in_place(gram)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(f"the Gram matrix is not positive definite with l2 = {fit.l2}") from error
    weights, diagonal = np.empty((num_items, num_items), np.float32), gram.diagonal().copy()
    for block in item_blocks(num_items):  # the inverse is stored below its diagonal only
        rows = gram[block.start :, block]
        weights[block.start :, block] = -rows / diagonal[None, block]
        weights[block, block.start :] = -rows.T / diagonal[None, block.start :]
        square = gram[block, block]
        weights[block, block] = -(np.tril(square) + np.tril(square, -1).T) / diagonal[None, block]
    weights[np.diag_indices(num_items)] = 0.0
    return weights


class LinearFactors(NamedTuple):
    """A linear denoiser of low rank: each group of items is encoded by itself, all are decoded together."""

    encoders: tuple[np.ndarray, ...]
    """Of each group c [n_c, R_c], its items in ascending order."""
    decoder: np.ndarray
    """[I, R], R the sum of the R_c: the columns of group c after those of the groups before it."""


FitLinear = Callable[[np.ndarray, tuple[int, ...], LinearFit], LinearFactors]
"""(group of each item [I], R_c of each group, fit) -> factors, for who has the training split."""


def fit_linear_factors(
    train: sparse.csr_array, item_groups: np.ndarray, ranks: tuple[int, ...], fit: LinearFit
) -> LinearFactors:
    """``fit_linear_denoiser`` with the rows of each group c of items in rank R_c: B_c V_c V_c'.

    V_c are the leading eigenvectors of B_c' G_cc B_c, so that of all choices X_c B_c changes least over the users.
    Takes ``linear_factors_bytes``.

    Args:
      train: training split [U, I], its values the rows' weights.
      item_groups: the group of each item, [I] int in 0..C-1.
      ranks: R_c of each of the C groups, at most I.
      fit: of the whole matrix.

    Reference: reduced-rank regression, Izenman, Journal of Multivariate Analysis 1975, of each group.
    """
    num_items = train.shape[1]
    weights, rows = fit_linear_denoiser(train, fit), user_weighted(train, fit.user_weight_power)
    encoders, decoders = [], []
    for group, rank in enumerate(ranks):
        items = np.flatnonzero(item_groups == group)
        own = weights[items].astype(np.float64)
        spread = own.T @ (_gram(rows, items) @ own)
        _, vectors = linalg.eigh(spread, subset_by_index=(num_items - rank, num_items - 1), overwrite_a=True)
        encoders.append((own @ vectors).astype(np.float32))
        decoders.append(vectors.astype(np.float32))
    return LinearFactors(tuple(encoders), np.concatenate(decoders, axis=1))


def linear_factors_bytes(train: sparse.csr_array) -> int:
    """Memory that ``fit_linear_factors`` takes at its peak, at most, beside the split itself: known before."""
    num_items = train.shape[1]
    return 44 * num_items**2 + 4 * BLOCK_BYTES
