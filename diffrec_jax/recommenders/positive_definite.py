"""Symmetric positive definite systems of any size, in place, on the host.

Large ones are gone through in blocks: OpenBLAS, which NumPy and SciPy bring along, ends the process in a factorisation
of more than 2^15 rows by two threads (https://github.com/OpenMathLib/OpenBLAS/issues/2562).
"""

from collections.abc import Iterator

import numpy as np
from scipy import linalg

BLOCK_SIZE = 2048
WHOLE_SIZE = 2**14
"""Up to which LAPACK does all of it."""


def work_bytes(size: int) -> int:
    """What these functions take beside the matrices that they are given, of so many rows."""
    return 3 * 8 * BLOCK_SIZE * size if size > WHOLE_SIZE else 0


def _blocks(start: int, end: int) -> Iterator[slice]:
    for first in range(start, end, BLOCK_SIZE):
        yield slice(first, min(first + BLOCK_SIZE, end))


def _check_layout(*matrices: np.ndarray) -> None:
    for matrix in matrices:
        if not matrix.flags.f_contiguous or matrix.dtype != np.float64:  # LAPACK would change a copy
            raise ValueError("matrices that are changed in place have to be float64 in Fortran's order")


def _check(info: int) -> None:
    if info:
        raise np.linalg.LinAlgError("the matrix is not positive definite")


def _triangular(factor: np.ndarray, right: np.ndarray, *, transposed: bool = False) -> np.ndarray:
    return linalg.solve_triangular(factor, right, lower=True, trans=int(transposed), check_finite=False)


def cholesky_in_place(matrix: np.ndarray) -> None:
    """Puts L of L L' = A where A was: [n, n] float64 in Fortran's order. What is above the diagonal is not looked at.

    Raises:
      LinAlgError: A is not positive definite.
      ValueError: it is in another order, or of another type.
    """
    _check_layout(matrix)
    size = len(matrix)
    if size <= WHOLE_SIZE:
        _check(linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1, clean=0)[1])
        return
    for own in _blocks(0, size):
        factor, info = linalg.lapack.dpotrf(matrix[own, own], lower=1, clean=0)
        _check(info)
        matrix[own, own] = factor
        panel = _triangular(factor, matrix[own.stop :, own].T)
        matrix[own.stop :, own] = panel.T
        for columns in _blocks(own.stop, size):
            right = panel[:, columns.start - own.stop : columns.stop - own.stop]
            for rows in _blocks(columns.start, size):
                matrix[rows, columns] -= panel[:, rows.start - own.stop : rows.stop - own.stop].T @ right


def _solve_in_place(factor: np.ndarray, right: np.ndarray) -> None:
    size = len(factor)
    for rows in _blocks(0, size):
        for before in _blocks(0, rows.start):
            right[rows] -= factor[rows, before] @ right[before]
        right[rows] = _triangular(factor[rows, rows], right[rows])
    for rows in reversed(list(_blocks(0, size))):
        for after in _blocks(rows.stop, size):
            right[rows] -= factor[after, rows].T @ right[after]
        right[rows] = _triangular(factor[rows, rows], right[rows], transposed=True)


def solve_in_place(matrix: np.ndarray, right: np.ndarray) -> None:
    """Puts X of A X = B where B was, and L where A was; both float64 in Fortran's order, [n, n] and [n, m].

    Raises:
      LinAlgError: A is not positive definite.
      ValueError: one is in another order, or of another type.
    """
    _check_layout(matrix, right)
    cholesky_in_place(matrix)
    if len(matrix) <= WHOLE_SIZE:
        linalg.lapack.dpotrs(matrix, right, lower=1, overwrite_b=1)
        return
    for columns in _blocks(0, right.shape[1]):
        _solve_in_place(matrix, right[:, columns])


def invert_in_place(matrix: np.ndarray) -> None:
    """Puts the lower triangle of A^-1 where A was, as ``cholesky_in_place`` takes it; what is above means nothing.

    Raises:
      LinAlgError: A is not positive definite.
      ValueError: it is in another order, or of another type.
    """
    cholesky_in_place(matrix)
    size = len(matrix)
    if size <= WHOLE_SIZE:
        _check(linalg.lapack.dpotri(matrix, lower=1, overwrite_c=1)[1])
        return
    for own in _blocks(0, size):  # its columns of L are not needed by those after it
        columns = np.eye(size - own.start, own.stop - own.start, order="F")
        _solve_in_place(matrix[own.start :, own.start :], columns)
        matrix[own.start :, own] = columns
