import re

import jax
import numpy as np
import optax

from diffrec_jax.data import make_row_batch
from diffrec_jax.recommenders import make_diffrec
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.step import make_train_step
from tests.training.small_run import DATASET, MODEL

KEY = jax.random.key(5)


def make_step(**extra):
    recommender = make_diffrec(MODEL, DATASET.num_items)
    optimizer = optax.adamw(1e-2)
    state = init_train_state(recommender, optimizer, KEY, keep_average="ema_decay" in extra)
    return jax.jit(make_train_step(recommender, optimizer, steps_per_epoch=3, **extra)), state


def batch(*users, batch_size=8):
    return make_row_batch(DATASET.train, np.array(users), batch_size=batch_size)


def test_padding_rows_change_nothing():
    step, state = make_step()
    exact, _ = step(state, batch(1, 2, 3, batch_size=3), KEY)
    padded, _ = step(state, batch(1, 2, 3, batch_size=8), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), exact, padded)


def test_the_loss_is_summed_within_an_epoch_only():
    step, state = make_step()
    sums = []
    for _ in range(4):
        state, _ = step(state, batch(1, 2, 3), KEY)
        sums.append(float(state.loss_sum))
    assert sums[0] < sums[1] < sums[2]
    assert sums[3] < sums[2]
    assert int(state.step) == 4


def test_the_average_follows_the_parameters():
    step, state = make_step(ema_decay=0.9)
    expected = jax.tree.map(np.asarray, state.params)
    for users in ((1, 2), (3, 4), (5, 6)):
        state, _ = step(state, batch(*users), KEY)
        expected = jax.tree.map(lambda average, new: 0.9 * average + 0.1 * np.asarray(new), expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.scoring_params, expected)
    plain_step, plain = make_step()
    assert plain_step(plain, batch(1, 2), KEY)[0].averaged_params == ()


def test_the_step_compiles_once_for_all_seeds():
    step, state = make_step()
    for seed, users in enumerate(((1, 2), (3, 4), (5, 6, 7))):
        state, _ = step(state, batch(*users), jax.random.key(seed))
    assert step._cache_size() == 1


def dot_precisions(**extra):
    step, state = make_step(**extra)
    return set(re.findall(r"\bprecision=(\w+)", str(jax.make_jaxpr(step)(state, batch(1, 2, 3), KEY))))


def test_the_products_of_a_step_are_computed_as_asked():
    """What a CPU computes is float32 either way, so this looks at what is asked of the compiler."""
    assert dot_precisions(compute_dtype="bfloat16") == {"BF16_BF16_F32"}
    assert not dot_precisions() & {"BF16_BF16_F32"}


def test_what_is_not_finite_is_left_out_if_asked():
    """The state stays as it was, but for the number of the step; the other steps are those of a run without."""
    step, state = make_step(on_nonfinite="skip", ema_decay=0.9)
    plain, _ = make_step(ema_decay=0.9)
    state, report = step(state, batch(1, 2, 3), KEY)
    assert not report.skipped and np.isfinite(report.loss)
    for bad in (np.nan, np.inf, 1e30):  # the square of the last is infinite in float32
        poisoned = batch(1, 2, 3)._replace(weights=np.full_like(batch(1, 2, 3).weights, bad))
        after, report = step(state, poisoned, KEY)
        assert report.skipped
        jax.tree.map(np.testing.assert_array_equal, after._replace(step=state.step), state)
        assert after.step == state.step + 1
        assert not np.all([np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain(state, poisoned, KEY)[0])])
    expected, _ = plain(state, batch(4, 5), KEY)
    found, _ = step(state, batch(4, 5), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_a_step_that_is_left_out_begins_an_epoch_all_the_same():
    step, state = make_step(on_nonfinite="skip")
    for _ in range(3):
        state, _ = step(state, batch(1, 2, 3), KEY)
    poisoned = batch(1, 2, 3)._replace(weights=np.full_like(batch(1, 2, 3).weights, np.nan))
    state, _ = step(state, poisoned, KEY)
    assert state.loss_sum == 0
