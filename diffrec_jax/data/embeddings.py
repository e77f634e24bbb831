"""Item embeddings, the input of the clustering: read from a file, or factors of the training split."""

from pathlib import Path

import numpy as np
from scipy import linalg, sparse

from diffrec_jax.data.matrices import DataError, item_counts
from diffrec_jax.files import UNREADABLE
from diffrec_jax.seeds import sklearn_seed

MOST_EXACT = 6000
"""Users or items, the fewer of them, up to which factors are exact."""


def read_item_embeddings(path: str | Path, num_items: int, *, item_ids: np.ndarray | None = None) -> np.ndarray:
    """An array [I, D] from a .npy file, as float32.

    Args:
      path: of the file.
      num_items: I.
      item_ids: the original ids [I] of a dataset that has gaps in them: of a file with a row for each id from 0 on, the
        rows of these are taken.

    Raises:
      DataError: the file is missing, is no array of finite numbers, or is of another number of items.
    """
    try:
        embeddings = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"item embeddings {path} do not exist: give a .npy file of shape [items, size], or svd"
        ) from None
    except UNREADABLE as error:
        raise DataError(
            f"item embeddings {path} cannot be read as a plain NumPy array ({error}): "
            "save floats [items, size] with np.save"
        ) from None
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype.kind not in "fiu":
        kind = getattr(embeddings, "dtype", type(embeddings).__name__)
        raise DataError(f"item embeddings {path} hold {kind}, not numbers: save floats [items, size]")
    counts_ids = item_ids is not None and item_ids.dtype.kind == "i" and item_ids.min() >= 0
    num_ids = int(item_ids.max()) + 1 if item_ids is not None and counts_ids else num_items
    if item_ids is not None and counts_ids and embeddings.ndim == 2 and len(embeddings) == num_ids:
        embeddings = embeddings[item_ids]
    if embeddings.ndim != 2 or embeddings.shape[0] != num_items:
        of_ids = "" if not counts_ids else f" or, with a row for each id from 0 on, [{num_ids}, size]"
        raise DataError(
            f"item embeddings {path} have shape {list(embeddings.shape)}, the dataset has {num_items} items: "
            f"give one of shape [{num_items}, size]{of_ids}, made for this dataset and setting"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is said below
        embeddings = embeddings.astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise DataError(f"item embeddings {path} hold numbers that are not finite in float32: make them again")
    return embeddings


def inverse_root_degrees(train: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """1 / sqrt of the number of stored entries of each user [U] and item [I], 1 where there is none."""
    degrees = np.diff(train.indptr), item_counts(train)
    users, items = (1.0 / np.sqrt(np.maximum(counts, 1)) for counts in degrees)
    return users, items


def normalised_interactions(train: sparse.csr_array) -> sparse.csr_array:
    """D_u^-1/2 R D_i^-1/2 of the stored entries of R [U, I], whatever their values, float32, in R's order.

    The bipartite graph's normalised adjacency: what LightGCN smooths over and GF-CF filters.
    """
    of_users, of_items = inverse_root_degrees(train)
    values = np.repeat(of_users, np.diff(train.indptr)) * of_items[train.indices]
    return sparse.csr_array((values.astype(np.float32), train.indices, train.indptr), shape=train.shape)


def leading_column_factors(matrix: sparse.csr_array, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The ``min(size, U, I)`` largest singular values of a matrix [U, I], and their right vectors [I, size].

    From the eigenvectors of its Gram matrix, in float64, where that is small; else by a randomised SVD with seeded
    start: singular values lie close together, and take many iterations to tell apart.

    Reference: arXiv:0909.4061.
    """
    num_rows, num_columns = matrix.shape  # type: ignore[misc]
    state, rank = sklearn_seed(seed), min(size, num_rows, num_columns)
    if min(num_rows, num_columns) <= MOST_EXACT:
        return _exact_factors(sparse.csr_array(matrix, dtype=np.float64), rank)
    from sklearn.utils.extmath import randomized_svd  # takes a second to import

    beside = max(10, rank // 2)
    found = randomized_svd(matrix, rank, n_oversamples=beside, n_iter=12, random_state=state)  # type: ignore[arg-type]
    _, singular_values, vectors = found  # type: ignore[misc]
    return singular_values, vectors.T


def _exact_factors(matrix: sparse.csr_array, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values [rank] and right vectors [I, rank] of a matrix [U, I], by the smaller of its Gram matrices.

    Of equal and empty rows some values are 0; their vectors are any that are orthogonal to the others.
    """
    has_few_items = matrix.shape[1] <= matrix.shape[0]  # type: ignore[index]
    gram = (matrix.T @ matrix if has_few_items else matrix @ matrix.T).toarray()
    largest = (len(gram) - rank, len(gram) - 1)
    values, vectors = linalg.eigh(gram, subset_by_index=largest, overwrite_a=True, check_finite=False)
    singular_values, vectors = np.sqrt(np.maximum(values[::-1], 0.0)), vectors[:, ::-1]
    is_null = singular_values <= 1e-7 * singular_values[0]  # of a Gram matrix in float64, what is below is rounding
    singular_values[is_null] = 0.0
    if not has_few_items:
        vectors = (matrix.T @ vectors) / np.where(is_null, 1.0, singular_values)
        vectors[:, is_null] = np.random.default_rng(0).normal(size=(len(vectors), np.count_nonzero(is_null)))
        vectors, upper = np.linalg.qr(vectors)
        vectors *= np.where(np.diag(upper) < 0, -1.0, 1.0)
    return singular_values.astype(np.float32), vectors.astype(np.float32)


def leading_item_factors(train: sparse.csr_array, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The ``min(size, U, I)`` largest singular values of the normalised interactions, and their vectors [I, size].

    Seconds at Amazon-book size.
    """
    return leading_column_factors(normalised_interactions(train), size, seed=seed)


def svd_item_embeddings(train: sparse.csr_array, size: int = 64, *, seed: int = 0) -> np.ndarray:
    """Leading right singular vectors of the normalised interactions, times their singular values, [I, D] float32.

    Close items have users in common. D is min(size, U, I).
    """
    singular_values, item_vectors = leading_item_factors(train, size, seed=seed)
    return (item_vectors * singular_values[None]).astype(np.float32)
