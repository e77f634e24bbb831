import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffrec_jax.data import NO_RECENCY, DataError, Recency, csr_from_pairs, make_row_batch, parse_recency

# Rows of 3, 0, 1 and 2 interactions; the item ids are not in order, time is.
ROWS = csr_from_pairs(np.array([[0, 4], [0, 1], [0, 3], [2, 2], [3, 0], [3, 4]]), 4, 5)


def test_linear_weights_are_the_papers():
    weights = Recency("linear", w_min=0.1, w_max=0.9).weights(ROWS)
    np.testing.assert_allclose(weights, [0.1, 0.5, 0.9, 0.9, 0.1, 0.9], rtol=1e-6)


def test_exponential_weights_count_back_from_the_newest():
    weights = Recency("exp", scale=2.0).weights(ROWS)
    np.testing.assert_allclose(Recency("exp", w_max=3.0, scale=2.0).weights(ROWS), 3 * weights, rtol=1e-6)
    np.testing.assert_allclose(weights, [np.exp(-1), np.exp(-0.5), 1, 1, np.exp(-0.5), 1], rtol=1e-6)


def test_a_share_weighs_the_oldest_as_if_there_were_no_others():
    """Two of three, none of none, one of one, one of two."""
    for kind, expected in (
        (Recency("linear", w_min=0.1, w_max=0.9, share=0.5), [0.1, 0.9, 0, 0.9, 0.9, 0]),
        (Recency("exp", scale=2.0, share=0.5), [np.exp(-0.5), 1, 0, 1, 1, 0]),
        (Recency(share=0.5), [1, 1, 0, 1, 1, 0]),
    ):
        np.testing.assert_allclose(kind.weights(ROWS), expected, rtol=1e-6)
        assert kind.weigh(ROWS).nnz == ROWS.nnz
    ten = csr_from_pairs(np.stack([np.zeros(10, int), np.arange(10)], axis=1), 1, 10)
    for share in np.arange(1, 11) / 10:
        assert Recency(share=share).weights(ten).sum() == round(10 * share)


def test_weighing_changes_values_only_and_keeps_zeros_stored():
    weighted = Recency("linear", w_min=0.0, w_max=1.0).weigh(ROWS)
    assert weighted.nnz == ROWS.nnz and weighted.data[0] == 0
    np.testing.assert_array_equal(weighted.indices, ROWS.indices)
    np.testing.assert_array_equal(ROWS.data, 1)
    assert NO_RECENCY.weigh(ROWS) is ROWS


def test_a_batch_carries_weights_and_targets():
    batch = make_row_batch(
        Recency("exp", scale=2.0).weigh(ROWS), np.array([3, 0]), targets=Recency("linear", w_min=0.1).weights(ROWS)
    )
    np.testing.assert_array_equal(batch.item_ids[:5], [0, 4, 4, 1, 3])
    np.testing.assert_allclose(batch.weights[:5], [np.exp(-0.5), 1, np.exp(-1), np.exp(-0.5), 1], rtol=1e-6)
    np.testing.assert_allclose(batch.target_weights[:5], [0.1, 1, 0.1, 0.55, 1], rtol=1e-6)
    assert make_row_batch(ROWS, np.array([0])).target_weights is None


@given(st.floats(0, 1, allow_subnormal=False), st.floats(1, 10, allow_subnormal=False), st.floats(1e-3, 1e4))
def test_what_is_written_is_parsed(w_min, w_max, scale):
    assert parse_recency(f"linear:{w_min!r}:{w_max!r}") == Recency("linear", w_min=w_min, w_max=w_max)
    assert parse_recency(f" exp:{scale!r} ") == Recency("exp", scale=scale)
    assert parse_recency(f"exp:{scale!r}:2") == Recency("exp", w_min=0.0, w_max=2.0, scale=scale)
    assert parse_recency(f"exp:{scale!r}@0.25") == Recency("exp", scale=scale, share=0.25)
    assert parse_recency("none@0.8") == Recency(share=0.8)


@given(st.text(max_size=12))
def test_any_other_text_is_refused_with_the_forms(text):
    try:
        parse_recency(text)
    except ValueError as error:
        assert "recency" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear", "'linear' is not understood: write none, linear"),
        ("linear:0.1", "is not understood"),
        ("exp:x", "is not understood"),
        ("exp:0", "scale of exponential recency must be above 0, got 0"),
        ("exp:nan", "must be above 0, got nan"),
        ("linear:0.5:0.1", "need 0 <= w_min <= w_max, got 0.5 and 0.1"),
        ("linear:-1:1", "need 0 <= w_min"),
        ("none@0", "share of a row that is weighed must be above 0 and at most 1, got 0"),
        ("linear:0:1@1.5", "at most 1, got 1.5"),
        ("exp:5@", "'exp:5@' is not understood"),
        ("exp:5@x", "is not understood"),
    ],
)
def test_wrong_recency_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_recency(text)


def test_weights_by_days_are_those_of_the_times():
    """Two days before a row's newest counts exp(-2 / scale), however many interactions lie between."""
    matrix = sparse.csr_array((np.ones(5, np.float32), [3, 1, 0, 2, 1], [0, 3, 3, 5]), shape=(3, 4))
    times = np.array([0, 1, 2, 7, 7.5]) * 86_400
    found = parse_recency("days:4").weigh(matrix, times)
    np.testing.assert_allclose(found.data, np.exp(-np.array([2, 1, 0, 0.5, 0]) / 4), rtol=1e-6)
    older = parse_recency("days:4:3@0.5").weights(matrix, times)
    np.testing.assert_allclose(older, [3 * np.exp(-1 / 4), 3, 0, 3, 0], rtol=1e-6)
    with pytest.raises(DataError, match="needs the interactions' times"):
        parse_recency("days:4").weigh(matrix)
