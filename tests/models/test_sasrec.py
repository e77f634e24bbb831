import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.models.sasrec import SASRecEncoder, future_means, windowed_attention

ROWS = np.array([0] * 9 + [1] + [3] * 4 + [-1] * 2)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("window", [1, 3, 5, 40])
def test_attention_agrees_with_plain_loops(window):
    query, key, value = RNG.normal(size=(3, len(ROWS), 2, 4))
    bias = RNG.normal(size=(2, window))
    found = windowed_attention(*(jnp.float32(part) for part in (query, key, value)), jnp.asarray(ROWS), bias)
    for place in np.flatnonzero(ROWS >= 0):
        seen = [k for k in range(place + 1) if ROWS[k] == ROWS[place] and place - k < window]
        for head in range(2):
            scores = np.array([query[place, head] @ key[k, head] / 2 + bias[head, place - k] for k in seen])
            weights = np.exp(scores - scores.max())
            expected = weights @ value[seen, head] / weights.sum()
            np.testing.assert_allclose(found[place, head], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("horizon", [0.0, 2.0])
@pytest.mark.parametrize("window", [1, 4, 40])
def test_future_means_agree_with_plain_loops(window, horizon):
    vectors = RNG.normal(size=(len(ROWS), 3))
    means, has_next = future_means(jnp.float32(vectors), jnp.asarray(ROWS), horizon, window)
    for place, row in enumerate(ROWS):
        later = [k for k in range(place + 1, len(ROWS)) if ROWS[k] == row >= 0 and k - place <= window]
        assert has_next[place] == bool(later)
        if later:
            weights = [np.exp(-(k - place - 1) / horizon) if horizon else float(k == place + 1) for k in later]
            np.testing.assert_allclose(
                means[place], np.average(vectors[later], axis=0, weights=weights), rtol=1e-4, atol=1e-5
            )
        else:
            assert not np.any(means[place])


@pytest.mark.once
def test_a_place_sees_its_rows_past_alone():
    model = SASRecEncoder(num_items=20, max_length=4, embedding_size=8, num_heads=2)
    items, rows = jnp.array([3, 7, 1, 9, 2, 20]), jnp.array([0, 0, 0, 1, 1, 1])
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(0), items, rows))
    before = model.apply(params, items, rows)
    changed = model.apply(params, items.at[1].set(11), rows)
    np.testing.assert_allclose(changed[jnp.array([0, 3, 4])], before[jnp.array([0, 3, 4])], rtol=1e-5)
    assert np.all(np.abs(changed[1:3] - before[1:3]).max(axis=1) > 1e-3)
    alone = model.apply(params, items[3:5], rows[3:5])
    np.testing.assert_allclose(alone, before[3:5], rtol=1e-4, atol=1e-6)
    assert np.all(np.isfinite(before))


def test_dropout_is_drawn_for_each_place_and_layer():
    model = SASRecEncoder(num_items=20, embedding_size=64, num_layers=1, dropout=0.5)
    items, rows = jnp.array([3, 7, 3]), jnp.array([0, 0, 1])
    params = model.init(jax.random.key(0), items, rows)
    keys = jax.random.split(jax.random.key(1), 3)
    dropped = model.apply(params, items, rows, keys)
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3  # the same item, another key
    np.testing.assert_array_equal(model.apply(params, items, rows, keys), dropped)
    same = model.apply(params, items, rows, keys[jnp.array([0, 1, 0])])
    np.testing.assert_allclose(same[2], same[0], rtol=1e-5)
