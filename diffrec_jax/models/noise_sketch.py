"""Sketched noise: K normals a row stand for the noise on all I items, through a random hash drawn at each step.

Item i has a bucket h(i) in 0..K-1 and a sign s_i, the same for all rows of a step: its noise is s_i z_{h(i)} with the
row's z ~ N(0, I_K). Every coordinate is exactly N(0, 1), and over the hash any two are uncorrelated; those of one
bucket, a pair in K, are equal up to their sign. A product with a table then costs K rows instead of I:
noise @ W = z @ (S^T W) with S^T W summed up in one pass over W. The hash shifts each run of K items by an offset of its
own, so that this pass reads and adds whole runs.

Reference: the sign hash is that of M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams",
2002; used on the noise of a diffusion it is our own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.rows import add_outer, embed
from diffrec_jax.typing import Array, Key


class NoiseSketch(NamedTuple):
    """The hash of one step."""

    offsets: Array
    """[ceil(I / K)] int32: item i has the bucket (i + offsets[i // K]) mod K."""
    signs: Array
    """[I], -1 or 1."""


def draw_noise_sketch(key: Key, num_items: int, size: int) -> NoiseSketch:
    """A hash of ``num_items`` to ``size`` buckets.

    Raises:
      ValueError: size is not in 1..num_items.
    """
    if not 1 <= size <= num_items:
        raise ValueError(f"the size of a noise sketch must be between 1 and the {num_items} items, got {size}")
    # Hashed by threefry2x32: on CPU, XLA computes the words of a threefry4x32 key for every number anew.
    key = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")
    offsets_key, signs_key = jax.random.split(key)
    offsets = jax.random.randint(offsets_key, (-(-num_items // size),), 0, size)
    return NoiseSketch(offsets, jax.random.rademacher(signs_key, (num_items,), jnp.float32))


def buckets(sketch: NoiseSketch, item_ids: Array, size: int) -> Array:
    """h(i) of items [N]; of ids beyond the items, any bucket."""
    return (item_ids + sketch.offsets.at[item_ids // size].get(mode="clip")) % size


def expand(sketch: NoiseSketch, z: Array) -> Array:
    """The noise itself, [B, I] of z [B, K]."""
    num_items, size = sketch.signs.shape[0], z.shape[1]
    return z[:, buckets(sketch, jnp.arange(num_items), size)] * sketch.signs[None]


@jax.custom_vjp
def project_noised(table: Array, batch: RowBatch, z: Array, sketch: NoiseSketch) -> Array:
    """``(to_dense(batch) + expand(sketch, z)) @ table`` for a table [I, H], [B, H], without a block [B, I].

    Differentiable in the table only.
    """
    return _forward(table, batch, z, sketch)[0]


def _runs(sketch: NoiseSketch, size: int) -> tuple[Array, Array]:
    """Starts of the runs of K items, the last one moved back to end with the items, and each place's sign, [runs, K].

    Signs are 0 where a run overlaps the one before.
    """
    num_items, firsts = sketch.signs.shape[0], jnp.arange(len(sketch.offsets)) * size
    starts = jnp.minimum(firsts, num_items - size)
    places = starts[:, None] + jnp.arange(size)[None]
    return starts, jnp.where(places >= firsts[:, None], sketch.signs[places], 0.0)


def _run_offsets(sketch: NoiseSketch, starts: Array, size: int) -> Array:
    """Bucket of each run's first place: a run that was moved back begins in an earlier bucket."""
    return (starts + sketch.offsets) % size


def _forward(table: Array, batch: RowBatch, z: Array, sketch: NoiseSketch):
    size = z.shape[1]
    starts, signs = _runs(sketch, size)

    def add(total: Array, run: tuple[Array, Array, Array]) -> tuple[Array, None]:
        start, offset, run_signs = run
        rows = jax.lax.dynamic_slice_in_dim(table, start, size) * run_signs[:, None]
        old = jax.lax.dynamic_slice_in_dim(total, offset, size)
        return jax.lax.dynamic_update_slice_in_dim(total, old + rows, offset, 0), None

    # Twice as long, so that a run goes over the end in one piece.
    twice, _ = jax.lax.scan(
        add, jnp.zeros((2 * size, table.shape[1]), table.dtype), (starts, _run_offsets(sketch, starts, size), signs)
    )
    return embed(batch, table) + z @ (twice[:size] + twice[size:]), (batch, z, sketch, table.shape)


def _backward(saved: tuple, gradient: Array):
    batch, z, sketch, shape = saved
    size = z.shape[1]
    starts, signs = _runs(sketch, size)
    of_buckets = z.T @ gradient
    twice = jnp.concatenate([of_buckets, of_buckets])

    def put(total: Array, run: tuple[Array, Array, Array]) -> tuple[Array, None]:
        start, offset, run_signs = run
        rows = jax.lax.dynamic_slice_in_dim(twice, offset, size) * run_signs[:, None]
        old = jax.lax.dynamic_slice_in_dim(total, start, size)
        rows = jnp.where(run_signs[:, None] == 0, old, rows)
        return jax.lax.dynamic_update_slice_in_dim(total, rows, start, 0), None

    of_noise, _ = jax.lax.scan(
        put, jnp.zeros(shape, gradient.dtype), (starts, _run_offsets(sketch, starts, size), signs)
    )
    return add_outer(of_noise, batch, gradient), None, None, None


project_noised.defvjp(_forward, _backward)
