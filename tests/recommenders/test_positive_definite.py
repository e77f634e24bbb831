import numpy as np
import pytest

from diffrec_jax.recommenders import positive_definite
from diffrec_jax.recommenders.positive_definite import cholesky_in_place, invert_in_place, solve_in_place

SIZES = (1, 5, 6, 7, 13, 40)


@pytest.fixture(params=[False, True], ids=["whole", "blocks"])
def in_blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(positive_definite, "BLOCK_SIZE", 6)
        monkeypatch.setattr(positive_definite, "WHOLE_SIZE", 0)


def system(size):
    """A matrix, and what functions get: its lower triangle alone, in Fortran's order."""
    half = np.random.default_rng(size).normal(size=(size, size + 3))
    whole = half @ half.T + np.eye(size)
    return whole, np.asfortranarray(np.tril(whole) + np.triu(np.full_like(whole, np.nan), 1))


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("size", SIZES)
def test_factor_solution_and_inverse_are_those_of_plain_linear_algebra(size):
    whole, given = system(size)
    factor, inverse = given.copy(order="F"), given.copy(order="F")
    cholesky_in_place(factor)
    np.testing.assert_allclose(np.tril(factor), np.linalg.cholesky(whole), rtol=1e-10, atol=1e-12)
    invert_in_place(inverse)
    np.testing.assert_allclose(np.tril(inverse), np.tril(np.linalg.inv(whole)), rtol=1e-8, atol=1e-10)
    for columns in (1, 7, 20):
        right = np.asfortranarray(np.random.default_rng(0).normal(size=(size, columns)))
        expected = np.linalg.solve(whole, right)
        solve_in_place(given.copy(order="F"), right)
        np.testing.assert_allclose(right, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("function", [cholesky_in_place, invert_in_place])
def test_a_matrix_that_is_not_positive_definite_is_refused(function):
    _, given = system(13)
    given[9, 9] = -1.0
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        function(given)


def test_what_would_change_a_copy_is_refused():
    whole, given = system(7)
    for wrong in (np.ascontiguousarray(whole), whole.astype(np.float32, order="F")):
        with pytest.raises(ValueError, match="float64 in Fortran's order"):
            cholesky_in_place(wrong)
    with pytest.raises(ValueError, match="float64 in Fortran's order"):
        solve_in_place(given, np.zeros((7, 3)))
