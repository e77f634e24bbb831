import jax
import numpy as np
import pytest

from diffrec_jax.top_k import BLOCK, FEWEST_BLOCKS_PER_RESULT, top_k

K = 3
WIDE = FEWEST_BLOCKS_PER_RESULT * K * BLOCK


def rows(kind, width):
    rng = np.random.default_rng(width)
    if kind == "distinct":
        return rng.permuted(np.arange(6.0 * width).reshape(6, width), axis=1)
    if kind == "tied":
        return rng.integers(0, 3, (6, width)).astype(float)
    if kind == "all equal":
        return np.ones((6, width))
    scores = np.full((6, width), -np.inf)  # fewer than K are left
    scores[:, rng.choice(width, K - 1, replace=False)] = 1.0
    return scores


@pytest.mark.parametrize("kind", ["distinct", "tied", "all equal", "masked"])
@pytest.mark.parametrize("width", [K, WIDE - 1, WIDE, WIDE + 1, WIDE + BLOCK - 1])
def test_values_places_and_the_order_of_equals_are_those_of_lax(kind, width):
    scores = rows(kind, width).astype(np.float32)
    values, places = jax.jit(top_k, static_argnums=1)(scores, K)
    expected_values, expected_places = jax.lax.top_k(scores, K)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(places, expected_places)


def test_a_wide_row_is_not_sorted_whole():
    sorted_widths = [
        equation.invars[0].aval.shape[1]
        for equation in jax.make_jaxpr(lambda scores: top_k(scores, K))(np.zeros((2, 4 * WIDE), np.float32)).eqns
        if equation.primitive.name == "top_k"
    ]
    assert sorted_widths == [4 * WIDE // BLOCK, K * BLOCK]


def test_the_best_may_lie_after_the_last_whole_block():
    scores = np.zeros((1, WIDE + 5), np.float32)
    scores[0, [7, WIDE + 4]] = 1.0, 2.0
    assert top_k(scores, K)[1].tolist() == [[WIDE + 4, 7, 0]]
