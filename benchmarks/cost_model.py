"""What a training step of DiffRec costs: operations, draws, bytes and communication, and the seconds they take.

docs/scaling.md derives the counts; ``benchmarks.throughput`` prints the prediction beside what it measures.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.recommenders.diffusing import row_normals

FLOAT_BYTES = 4
BLOCK_PASSES = 8
"""Reads and writes of a block [batch, items] outside products and draws: x_0, x_t, prediction, error, gradient."""
ADAM_PASSES = 9
"""Reads and writes of every parameter: gradient written and read, parameter and two moments read and written, and the
gradient's and the parameter's part in the products' own traffic."""


@dataclass(frozen=True)
class Job:
    """A training step. ``hidden`` is the width of the first and last layer, those with an axis of items."""

    batch: int
    items: int
    hidden: int
    middle: int = 0
    """Weights between the hidden layers."""
    data_shards: int = 1
    item_shards: int = 1
    draws: bool = True
    """Whether noise and dropout are drawn for every item, not by a sketch."""
    product_share: float = 1.0
    """Of the five products, what sketched noise or the error by Gram matrices leaves; blocks are counted in full."""

    @property
    def num_params(self) -> int:
        """Weights of all layers; biases and the time embedding left out."""
        return 2 * self.items * self.hidden + self.middle

    @property
    def flops(self) -> float:
        """Matmul operations of all devices: five products over all items, three over the hidden layers."""
        return 2 * self.batch * (5 * self.product_share * self.items * self.hidden + 3 * self.middle)

    @property
    def drawn(self) -> float:
        """Normals, and as many dropout bits, of all devices."""
        return self.batch * self.items if self.draws else 0

    @property
    def device_bytes(self) -> float:
        """Memory traffic of one device: its share of the blocks, and of the parameters all but what is split."""
        blocks = BLOCK_PASSES * self.batch * self.items / (self.data_shards * self.item_shards)
        return FLOAT_BYTES * (blocks + ADAM_PASSES * self.num_params / self.item_shards)

    @property
    def fresh_bytes(self) -> float:
        """Memory that one device asks for anew at each step: gradients, their sums where rows are split, a block."""
        gradients = self.num_params / self.item_shards * (2 if self.data_shards > 1 else 1)
        return FLOAT_BYTES * (gradients + self.batch * self.items / (self.data_shards * self.item_shards))

    @property
    def link_bytes(self) -> float:
        """What one device sends: gradients reduced over the rows' shards, hidden units over the items' shards."""
        ring = 2 * (self.data_shards - 1) / self.data_shards * self.num_params / self.item_shards
        hidden = 2 * 2 * (self.item_shards - 1) / self.item_shards * self.batch / self.data_shards * self.hidden
        return FLOAT_BYTES * (ring + hidden)


@dataclass(frozen=True)
class Machine:
    """What a device does in a second."""

    flops_per_s: float
    draws_per_s: float
    """Normals, each with its dropout bit."""
    bytes_per_s: float
    link_bytes_per_s: float
    fresh_bytes_per_s: float = math.inf
    """Of memory at its first touch, beside the pass itself: an operating system clears pages, a GPU's pool does not."""
    shared_by: int = 1
    """Devices that are the same hardware, as forced CPU devices are: each has its share of the rates."""

    def seconds(self, job: Job) -> float:
        """Of a step, nothing overlapping."""
        devices, share = job.data_shards * job.item_shards, self.shared_by
        return share * (
            job.flops / devices / self.flops_per_s
            + job.drawn / devices / self.draws_per_s
            + job.device_bytes / self.bytes_per_s
            + job.fresh_bytes / self.fresh_bytes_per_s
            + job.link_bytes / self.link_bytes_per_s
        )


def _fastest(work: Callable[[], Any], repeats: int = 4) -> float:
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])  # the first one compiles


def measure_machine(make_key: Callable[[], jax.Array], job: Job) -> Machine:
    """Rates of the first device: products and draws of its share of the job, passes over a large array, old and new.

    Links have the memory's rate, until ``measure_link`` says theirs.
    """
    rows, columns = min(job.batch // job.data_shards, 400), min(job.items // job.item_shards, 32_768)
    left, right = jnp.ones((rows, columns)), jnp.ones((columns, job.hidden))
    back = jnp.ones((rows, job.hidden))
    products = jax.jit(lambda left, right, back: (left @ right, back @ right.T, left.T @ back))
    flops = 3 * 2 * rows * columns * job.hidden / _fastest(lambda: products(left, right, back))

    @jax.jit
    def draw(x_t: jax.Array) -> jax.Array:
        keys = jax.random.split(make_key(), 2 * rows).reshape(2, rows)
        return row_dropout(keys[1], x_t + row_normals(keys[0], columns), 0.5)

    draws = rows * columns / _fastest(lambda: draw(left))
    block = jnp.ones(2**26)
    scale = jax.jit(lambda block: 1.0001 * block, donate_argnums=0)

    def pass_over() -> jax.Array:
        nonlocal block
        block = scale(block)
        return block

    in_place_s = _fastest(pass_over)
    scale_anew = jax.jit(lambda block: 1.0001 * block)
    clearing_s = _fastest(lambda: scale_anew(block)) - in_place_s
    moved = 2 * FLOAT_BYTES * block.size / in_place_s
    fresh = FLOAT_BYTES * block.size / clearing_s if clearing_s > 0 else math.inf
    return Machine(flops, draws, moved, link_bytes_per_s=moved, fresh_bytes_per_s=fresh)


def measure_link(num_devices: int, size: int = 2**25) -> float:
    """Bytes a second that each device sends while all of them add up arrays of ``size`` numbers, as a ring counts."""
    devices = jax.devices()[:num_devices]
    arrays = jax.pmap(lambda value: jnp.full(size, value), devices=devices)(jnp.arange(float(num_devices)))
    add_up = jax.pmap(lambda array: jax.lax.psum(array, "devices"), axis_name="devices", devices=devices)
    return 2 * (num_devices - 1) / num_devices * FLOAT_BYTES * size / _fastest(lambda: add_up(arrays))


def job_of(batch: int, items: int, dims: tuple[int, ...], **shards: Any) -> Job:
    """The job of a DiffRec with these ``dims``."""
    sizes = [*reversed(dims), *dims[1:]]
    middle = sum(before * after for before, after in zip(sizes[:-1], sizes[1:]))
    return Job(batch=batch, items=items, hidden=dims[-1], middle=middle, **shards)


ACCELERATOR = Machine(flops_per_s=3e14, draws_per_s=1e11, bytes_per_s=3e12, link_bytes_per_s=4e11)
"""Round figures of a data-centre accelerator with bfloat16 products, not measured here."""


def main() -> None:
    """Prints what 1 and 10 million items would take on 8 such accelerators."""
    for items in (1_000_000, 10_000_000):
        for rows, shards in ((8, 1), (2, 4), (1, 8)):
            job = job_of(3200, items, (1000,), data_shards=rows, item_shards=shards)
            held = 4 * FLOAT_BYTES * job.num_params / shards / 2**30  # parameters, gradients, two moments
            block = FLOAT_BYTES * job.batch / rows * items / shards / 2**30
            seconds = ACCELERATOR.seconds(job)
            print(
                f"{items:>10,} items, {rows} x {shards}: {seconds:.3f} s a step of 3,200 users, {held:.0f} GiB of "
                f"parameters and moments a device, {block:.1f} GiB a block of rows and items"
            )


if __name__ == "__main__":
    main()
