"""Errors of a linear decoder's output without the block [B, I] of it: items a block at a time, or a Gram matrix.

Each is a function of the decoder's input, with its gradient written out.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.products import column_sums
from diffrec_jax.rows import add_outer, after, embed, sum_over_entries
from diffrec_jax.typing import Array

ITEM_BLOCK = 2048
"""Items of a decoder whose logits exist at once in ``decoded_multinomial_nll``."""


def _item_blocks(num_items: int) -> tuple[int, Array]:
    """Size and starts of the blocks; the last one is moved back to end with the items."""
    size = min(ITEM_BLOCK, num_items)
    return size, jnp.minimum(jnp.arange(0, num_items, size), num_items - size)


def _block_logits(hidden: Array, table: Array, bias: Array, place: Array, start: Array, size: int) -> Array:
    """Logits [B, size] of the block that starts at ``start``; -inf for items of the block before it (``place``)."""
    rows = jax.lax.dynamic_slice_in_dim(table, start, size)
    logits = hidden @ rows.T + jax.lax.dynamic_slice_in_dim(bias, start, size)[None]
    return jnp.where((start + jnp.arange(size) >= place * size)[None], logits, -jnp.inf)


def _add_at(total: Array, start: Array, part: Array) -> Array:
    """The total with a part added to its rows from ``start`` on."""
    old = jax.lax.dynamic_slice_in_dim(total, start, len(part))
    return jax.lax.dynamic_update_slice_in_dim(total, old + part, start, 0)


class Decoder(NamedTuple):
    """A linear output layer over I items, and the rows that it is to predict."""

    hidden: Array
    """[B, H]."""
    table: Array
    """[I, H], logits are ``hidden @ table.T + bias``."""
    bias: Array
    """[I]."""
    batch: Any
    """RowBatch of these items, numbered from 0."""


@jax.custom_vjp
def decoded_multinomial_nll(decoders: list[Decoder]) -> Array:
    """``multinomial_nll`` [B] of the decoders' logits and rows, one beside the other, without the [B, I] block.

    Logits exist a block of items at a time, forwards and backwards, and are computed again for the gradient: a third
    more products for two blocks less memory. Differentiable in all but the rows; of the tables' gradients XLA makes one
    after the other.
    """
    return _decoded_forward(decoders)[0]


def _log_normaliser(hidden: Array, table: Array, bias: Array) -> Array:
    size, starts = _item_blocks(table.shape[0])

    def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        logits = _block_logits(hidden, table, bias, *block, size)
        return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1)), None

    empty = jnp.full(hidden.shape[0], -jnp.inf, hidden.dtype)
    return jax.lax.scan(add, empty, (jnp.arange(len(starts)), starts))[0]


def _decoded_forward(decoders: list[Decoder]):
    normalisers, at_entries, total_weight = [], 0.0, 0.0
    for hidden, table, bias, batch in decoders:
        normalisers.append(_log_normaliser(hidden, table, bias))
        biases = sum_over_entries(batch, batch.weights * bias.at[batch.item_ids].get(mode="fill", fill_value=0.0))
        at_entries += jnp.sum(hidden * embed(batch, table), axis=1) + biases
        total_weight += sum_over_entries(batch, batch.weights)
    normaliser = jax.nn.logsumexp(jnp.stack(normalisers), axis=0)
    return total_weight * normaliser - at_entries, (decoders, normaliser, total_weight)


def _decoded_backward(saved: tuple, gradient: Array):
    decoders, normaliser, total_weight = saved
    found = []
    for decoder in decoders:
        found.append(_decoder_gradient(decoder, normaliser, total_weight, gradient))
        gradient = after(found[-1].hidden, gradient)
    return (found,)


def _decoder_gradient(decoder: Decoder, normaliser: Array, total_weight: Array, gradient: Array) -> Decoder:
    hidden, table, bias, batch = decoder
    size, starts = _item_blocks(table.shape[0])
    # What the stored entries give; the blocks add to it.
    embedded, pull_back = jax.vjp(lambda rows: embed(batch, rows), table)
    start_table = pull_back(-gradient[:, None] * hidden)[0]
    start_bias = jnp.zeros_like(bias).at[batch.item_ids].add(-batch.weights * gradient[batch.rows], mode="drop")
    scale = gradient * total_weight

    def add(totals: tuple[Array, Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], None]:
        of_hidden, of_table, of_bias = totals
        start = block[1]
        logits = _block_logits(hidden, table, bias, *block, size)
        of_logits = scale[:, None] * jnp.exp(logits - normaliser[:, None])
        of_hidden = of_hidden + of_logits @ jax.lax.dynamic_slice_in_dim(table, start, size)
        of_table = _add_at(of_table, start, of_logits.T @ hidden)
        return (of_hidden, of_table, _add_at(of_bias, start, column_sums(of_logits))), None

    totals = (-gradient[:, None] * embedded, start_table, start_bias)
    return Decoder(*jax.lax.scan(add, totals, (jnp.arange(len(starts)), starts))[0], batch=None)


decoded_multinomial_nll.defvjp(_decoded_forward, _decoded_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def decoded_squared_error(hidden: Array, table: Array, bias: Array, batch: RowBatch, block_size: int) -> Array:
    """sum_i (p_i - x_i)^2, [B], of p = hidden @ table.T + bias, ``block_size`` items at a time, forwards and backwards.

    No block [B, I] is held: predictions are computed again for the gradient, a third more products. ``hidden`` [B, H],
    ``table`` [I, H], ``bias`` [I]; differentiable in all three.
    """
    return _error_forward(hidden, table, bias, batch, block_size)[0]


def _block_error(hidden: Array, table: Array, bias: Array, batch: RowBatch, place: Array, size: int):
    """Errors [B, size] of a block, 0 for items of the block before it, with the block's start and rows of the table."""
    num_items = table.shape[0]
    start = jnp.minimum(place * size, num_items - size)
    block_rows = jax.lax.dynamic_slice_in_dim(table, start, size)
    predictions = hidden @ block_rows.T + jax.lax.dynamic_slice_in_dim(bias, start, size)[None]
    own = jnp.where((batch.item_ids >= start) & (batch.item_ids < num_items), batch.item_ids - start, size)
    errors = predictions.at[batch.rows, own].add(-batch.weights, mode="drop")
    return jnp.where((start + jnp.arange(size) >= place * size)[None], errors, 0.0), start, block_rows


def _error_forward(hidden: Array, table: Array, bias: Array, batch: RowBatch, block_size: int):
    size = min(block_size, table.shape[0])

    def add(total: Array, place: Array) -> tuple[Array, None]:
        errors, _, _ = _block_error(hidden, table, bias, batch, place, size)
        return total + jnp.square(errors).sum(axis=1), None

    total, _ = jax.lax.scan(add, jnp.zeros(hidden.shape[0]), jnp.arange(-(-table.shape[0] // size)))
    return total, (hidden, table, bias, batch)


def _error_backward(block_size: int, saved: tuple, gradient: Array):
    hidden, table, bias, batch = saved
    size = min(block_size, table.shape[0])

    def add(totals: tuple[Array, Array, Array], place: Array) -> tuple[tuple[Array, Array, Array], None]:
        of_hidden, of_table, of_bias = totals
        errors, start, block_rows = _block_error(hidden, table, bias, batch, place, size)
        errors = 2.0 * gradient[:, None] * errors

        of_table = _add_at(of_table, start, errors.T @ hidden)
        of_bias = _add_at(of_bias, start, column_sums(errors))
        return (of_hidden + errors @ block_rows, of_table, of_bias), None

    zeros = jax.tree.map(jnp.zeros_like, (hidden, table, bias))
    totals, _ = jax.lax.scan(add, zeros, jnp.arange(-(-table.shape[0] // size)))
    return (*totals, None)


decoded_squared_error.defvjp(_error_forward, _error_backward)


@jax.custom_vjp
def gram_squared_error(hidden: Array, table: Array, bias: Array, batch: RowBatch) -> Array:
    """sum_i (p_i - x_i)^2, [B], of p = hidden @ table.T + bias, through the table's Gram matrix: without p.

    With k = [table, bias]ᵀ, h = [hidden, 1] and G = k kᵀ, it is h G hᵀ - 2 h k xᵀ + x xᵀ for each row: products of
    H x H x I operations in the place of B x H x I, and no block [B, I]. ``hidden`` [B, H], ``table`` [I, H], ``bias``
    [I]; differentiable in all three. What is small beside x xᵀ has that one's rounding, so the products that it is the
    difference of are float32 on every device.
    """
    return _gram_forward(hidden, table, bias, batch)[0]


def _gram_forward(hidden: Array, table: Array, bias: Array, batch: RowBatch):
    exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    cross, offset = exact(bias, table), exact(bias, bias)
    spread = exact(hidden, exact(table.T, table)) + cross[None]  # h G without its last column, [B, H]
    at_rows = embed(batch, table)  # k xᵀ, [B, H], again without the last column
    biases = sum_over_entries(batch, batch.weights * bias.at[batch.item_ids].get(mode="fill", fill_value=0.0))
    length = sum_over_entries(batch, jnp.square(batch.weights))
    total = jnp.sum(hidden * (spread - 2.0 * at_rows), axis=1) + exact(hidden, cross) + offset - 2.0 * biases + length
    return total, (hidden, table, bias, batch, spread - at_rows)


def _gram_backward(saved: tuple, gradient: Array):
    hidden, table, bias, batch, half_hidden_gradient = saved
    scaled = 2.0 * gradient[:, None] * hidden
    total, scale = scaled.sum(axis=0), 2.0 * gradient.sum()
    of_table = add_outer(table @ (hidden.T @ scaled) + bias[:, None] * total[None], batch, -scaled)
    of_bias = (
        (table @ total + scale * bias).at[batch.item_ids].add(-2.0 * batch.weights * gradient[batch.rows], mode="drop")
    )
    return 2.0 * gradient[:, None] * half_hidden_gradient, of_table, of_bias, None


gram_squared_error.defvjp(_gram_forward, _gram_backward)
