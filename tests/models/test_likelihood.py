import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import csr_from_pairs, make_row_batch
from diffrec_jax.models import (
    Decoder,
    decoded_errors,
    decoded_multinomial_nll,
    decoded_squared_error,
    gaussian_kl,
    gram_squared_error,
    multinomial_nll,
)
from diffrec_jax.models.likelihood import squared_error
from diffrec_jax.rows import to_dense
from tests.reference import assert_close
from tests.reference import l_diffrec_numpy as reference

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)


def test_kl_agrees_with_reference_and_is_zero_for_the_standard_normal():
    mean, log_variance = RNG.normal(size=(2, 5, 7))
    assert_close(gaussian_kl(jnp.float32(mean), jnp.float32(log_variance)), reference.gaussian_kl(mean, log_variance))
    np.testing.assert_array_equal(gaussian_kl(jnp.zeros((3, 4)), jnp.zeros((3, 4))), 0)


def test_nll_and_its_gradient_agree_with_the_dense_ones():
    """Weighted rows, an empty one, and a batch with padding."""
    matrix = csr_from_pairs(np.array([[0, 3], [0, 1], [2, 5], [2, 0], [2, 4]]), 3, 6)
    matrix.data[:] = [0.5, 1.0, 2.0, 0.0, 1.5]
    batch = make_row_batch(matrix, np.arange(3), batch_size=4)
    logits = RNG.normal(scale=20, size=(4, 6))
    x = np.asarray(to_dense(batch, 6), np.float64)
    assert_close(multinomial_nll(jnp.float32(logits), batch), reference.multinomial_nll(logits, x))

    def dense(logits):
        return -jnp.sum(jnp.float32(x) * jax.nn.log_softmax(logits), axis=1)

    gradient, expected = (
        jax.grad(lambda values, fn=fn: jnp.sum(fn(values)))(jnp.float32(logits))
        for fn in (lambda values: multinomial_nll(values, batch), dense)
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_squared_errors_at_what_the_input_shows_may_weigh_less(weight):
    matrix = csr_from_pairs(np.array([[0, 3], [0, 1], [2, 5], [2, 0], [2, 4]]), 3, 6)
    matrix.data[:] = [0.5, 1.0, 2.0, 0.0, 1.5]
    batch = make_row_batch(matrix, np.arange(3), batch_size=4)
    shown = batch._replace(weights=batch.weights * np.resize([0, 2], len(batch.weights)))
    predictions = RNG.normal(size=(4, 6))
    x, is_shown = np.asarray(to_dense(batch, 6), np.float64), np.asarray(to_dense(shown, 6)) != 0
    assert is_shown.any() and (~is_shown & (x != 0)).any()
    expected = (np.where(is_shown, weight, 1) * np.square(predictions - x) / 2).sum(axis=1)
    assert_close(squared_error(jnp.float32(predictions), batch, shown=shown, shown_weight=weight), expected)


@pytest.mark.parametrize("block", [1, 4, 5, 6, 100])
@pytest.mark.parametrize("sizes", [(6,), (2, 4), (1, 2, 3)], ids=["one part", "two parts", "three parts"])
def test_decoding_in_blocks_gives_the_nll_and_gradients_of_the_whole_block(block, sizes, monkeypatch):
    """Blocks that divide the items of a part and blocks that do not; weighted rows, an empty one, padding."""
    monkeypatch.setattr(decoded_errors, "ITEM_BLOCK", block)
    matrix = csr_from_pairs(np.array([[0, 3], [0, 1], [2, 5], [2, 0], [2, 4]]), 3, 6)
    matrix.data[:] = [0.5, 1.0, 2.0, 0.0, 1.5]
    batch = make_row_batch(matrix, np.arange(3), batch_size=4)
    own_items = np.split(np.arange(6), np.cumsum(sizes)[:-1])
    rows_of_parts = [make_row_batch(matrix[:, items], np.arange(3), batch_size=4) for items in own_items]
    hidden = [jnp.float32(RNG.normal(scale=2, size=(4, 2 + part))) for part in range(len(sizes))]
    tables = [jnp.float32(RNG.normal(scale=2, size=(size, 2 + part))) for part, size in enumerate(sizes)]
    biases = [jnp.float32(RNG.normal(scale=2, size=size)) for size in sizes]
    row_weights = jnp.float32(RNG.normal(size=4))

    def blocked(*layers):
        return decoded_multinomial_nll([Decoder(*layer) for layer in zip(*layers, rows_of_parts)])

    def whole(*layers):
        logits = [hidden @ table.T + bias[None] for hidden, table, bias in zip(*layers)]
        return multinomial_nll(jnp.concatenate(logits, axis=1), batch)

    layers = (hidden, tables, biases)
    np.testing.assert_allclose(blocked(*layers), whole(*layers), rtol=1e-5, atol=1e-6)
    found, expected = (
        jax.grad(lambda *given, fn=fn: jnp.sum(row_weights * fn(*given)), argnums=(0, 1, 2))(*layers)
        for fn in (blocked, whole)
    )
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [gram_squared_error, *(functools.partial(decoded_squared_error, block_size=size) for size in (1, 4, 5, 6, 9))],
)
def test_every_form_of_the_squared_error_is_that_of_the_whole_block(form):
    matrix = csr_from_pairs(np.array([[0, 3], [0, 1], [2, 5], [2, 0], [2, 4]]), 3, 6)
    matrix.data[:] = [0.5, 1.0, 2.0, 0.0, 1.5]
    batch = make_row_batch(matrix, np.arange(3), batch_size=4)
    arguments = [jnp.float32(RNG.normal(size=shape)) for shape in ((4, 3), (6, 3), (6,))]
    row_weights = jnp.float32(RNG.normal(size=4))

    def in_form(hidden, table, bias):
        return form(hidden, table, bias, batch)

    def whole(hidden, table, bias):
        return jnp.sum(jnp.square(hidden @ table.T + bias[None] - to_dense(batch, 6)), axis=1)

    np.testing.assert_allclose(in_form(*arguments), whole(*arguments), rtol=1e-5)
    found, expected = (
        jax.grad(lambda *given, fn=fn: jnp.sum(row_weights * fn(*given)), argnums=(0, 1, 2))(*arguments)
        for fn in (in_form, whole)
    )
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
