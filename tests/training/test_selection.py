import numpy as np
import pytest

from diffrec_jax.training.selection import (
    NOTHING_SELECTED,
    Selection,
    best_of,
    comes_back_from_a_dip,
    describe_early_stop,
    select,
)

NONE_YET = NOTHING_SELECTED


def test_only_a_larger_finite_value_is_selected():
    first = select(NONE_YET, 0.1, 10, 1.0)
    assert (float(first.best_value), int(first.best_step)) == (float(np.float32(0.1)), 10)
    assert select(first, 0.1, 20, 2.0) is first  # the same value again is no improvement
    assert select(first, float("nan"), 20, 2.0) is first
    assert select(first, float("inf"), 20, 2.0) is first
    assert int(select(first, 0.10001, 20, 2.0).best_step) == 20  # a fifth digit counts


def test_the_better_selection_counts_and_of_equal_ones_the_earlier():
    early, late = (Selection(np.float32(0.5), np.int32(step), np.float32(step)) for step in (1, 2))
    assert best_of(early, late) is early
    assert best_of(early, late._replace(best_value=np.float32(0.6))).best_step == 2
    assert best_of(NONE_YET, late) is late


@pytest.mark.parametrize(
    ("values", "comes_back"),
    [
        ([0.055, 0.036, 0.035, 0.044, 0.0438], True),
        ([0.055, 0.036, 0.035, 0.036], False),  # hardly
        ([0.113, 0.110, 0.108, 0.111], False),  # no dip, but what evaluations differ by
        ([0.01, 0.055, 0.04, 0.03], False),
        ([-1.0, -1.5, -1.4, -1.2], True),  # errors, the larger the better
        ([0.03, 0.04, 0.05], False),
        ([0.05], False),
        ([], False),
        ([float("nan"), 0.01, 0.02], False),
    ],
)
def test_a_curve_that_comes_back_from_a_dip_is_told_from_noise(values, comes_back):
    assert comes_back_from_a_dip(values) is comes_back


def test_the_end_of_a_run_says_whether_more_patience_may_help():
    flat = describe_early_stop(25.0, 20, "recall@20", [0.055, 0.054, 0.053])
    assert flat == "stopped after epoch 25: no new best for 20 epochs (--patience=20)"
    coming_back = describe_early_stop(25.0, 20, "recall@20", [0.055, 0.036, 0.044])
    assert coming_back.startswith(f"{flat}; but recall@20") and "more --patience" in coming_back
