import numpy as np

from diffrec_jax.training.state import Selection, select

NONE_YET = Selection(np.float32(-np.inf), np.int32(0), np.float32(0))


def test_only_a_larger_finite_value_is_selected():
    first = select(NONE_YET, 0.1, 10, 1.0)
    assert (float(first.best_value), int(first.best_step)) == (float(np.float32(0.1)), 10)
    assert select(first, 0.1, 20, 2.0) is first  # the same value again is no improvement
    assert select(first, float("nan"), 20, 2.0) is first
    assert select(first, float("inf"), 20, 2.0) is first
    assert int(select(first, 0.10001, 20, 2.0).best_step) == 20  # a fifth digit counts
