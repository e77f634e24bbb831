"""What a training step of DiffRec costs: operations, draws, bytes and communication, and the seconds they take.

docs/scaling.md derives the counts; ``benchmarks.throughput`` prints the prediction beside what it measures.
"""

import contextlib
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.products import product, whole_products
from diffrec_jax.recommenders.diffusing import row_normals

FLOAT_BYTES = 4
BLOCK_PASSES = 6
"""Reads and writes of a block [batch, items] outside products and draws: x_0 is written, it and the prediction are read
for the loss and again for its gradient, which is written."""
ADAM_PASSES = 7
"""Reads and writes of every parameter outside products: its gradient read, it and its two moments read and written."""


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
    def num_devices(self) -> int:
        """Of all shards."""
        return self.data_shards * self.item_shards

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
        blocks = BLOCK_PASSES * self.batch * self.items / self.num_devices
        return FLOAT_BYTES * (blocks + ADAM_PASSES * self.num_params / self.item_shards)

    @property
    def num_gradients(self) -> float:
        """Numbers in the gradients of one device: its own, and where rows are split their sums, which lie beside."""
        return (1 if self.data_shards == 1 else 2) * self.num_params / self.item_shards

    @property
    def fresh_bytes(self) -> float:
        """Memory that one device asks for anew at each step: gradients and a block."""
        return FLOAT_BYTES * (self.num_gradients + self.batch * self.items / self.num_devices)

    @property
    def held_bytes(self) -> float:
        """Memory that one device needs: parameters and two moments, and what gradients need with it.

        The last layer's, half of all, needs x_t and the error; the first layer's, beside the last one's, x_t alone.
        """
        parameters, block = self.num_params / self.item_shards, self.batch * self.items / self.num_devices
        own = max(parameters / 2 + 2 * block, self.num_gradients + block)
        return FLOAT_BYTES * (3 * parameters + own)

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
        return self.shared_by * (
            job.flops / job.num_devices / self.flops_per_s
            + job.drawn / job.num_devices / self.draws_per_s
            + job.device_bytes / self.bytes_per_s
            + job.fresh_bytes / self.fresh_bytes_per_s
            + job.link_bytes / self.link_bytes_per_s
        )


LARGE, SUMMED = 2**26, 2**25
"""Numbers in the array that is passed over, and in what each device sends when links are timed."""
BLOCK = 400 * 33_000
"""Numbers in a block that is large enough to have the rates of larger ones. With a power of two of columns, unlike real
datasets, thin products take up to a third longer."""


def _share(job: Job) -> tuple[int, int]:
    """Rows and items of one device in the works below: a part of large ones."""
    rows = min(job.batch // job.data_shards, 400)
    return rows, min(job.items // job.item_shards, BLOCK // rows)


def rate_works(make_key: Callable[[], jax.Array], job: Job, *, whole: bool = False) -> dict[str, Callable[[], Any]]:
    """Works whose seconds say what a device does: ``machine_of`` makes rates of them.

    The five products (``whole``, as a mesh multiplies, or by blocks) and the draws of its share of the job, a pass over
    a large array in place and one into new memory, and, with several devices, a sum over all of them.
    """
    rows, columns = _share(job)
    block, kernels = jnp.ones((rows, columns)), (jnp.ones((columns, job.hidden)), jnp.ones((columns, job.hidden)))

    @functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
    def multiply(results: Any, kernels: tuple[jax.Array, jax.Array], block: jax.Array) -> Any:
        del results  # the memory that the new ones take, which is not to be new: that has a rate of its own
        with whole_products() if whole else contextlib.nullcontext():
            predicted, gradients = jax.vjp(lambda of: product(product(block, of[0]), of[1], 1), kernels)
            return predicted, gradients(block)[0]

    @functools.partial(jax.jit, donate_argnums=0)
    def draw(block: jax.Array) -> jax.Array:
        keys = jax.random.split(make_key(), 2 * rows).reshape(2, rows)
        return row_dropout(keys[1], block + row_normals(keys[0], columns), 0.5)

    results, large = jax.tree.map(jnp.zeros_like, (block, kernels)), jnp.ones(LARGE)
    drawn = jnp.zeros_like(block)
    scale = jax.jit(lambda large: 1.0001 * large, donate_argnums=0)
    scale_anew = jax.jit(lambda large: 1.0001 * large)

    def multiply_over() -> None:
        nonlocal results
        results = jax.block_until_ready(multiply(results, kernels, block))

    def draw_over() -> None:
        nonlocal drawn
        drawn = jax.block_until_ready(draw(drawn))

    def pass_over() -> None:
        nonlocal large
        large = jax.block_until_ready(scale(large))

    works = {
        "products": multiply_over,
        "draws": draw_over,
        "pass": pass_over,
        "pass anew": lambda: jax.block_until_ready(scale_anew(large)),
    }
    devices = jax.devices()[: job.num_devices]
    if len(devices) > 1:
        numbers = jnp.arange(float(len(devices)))
        arrays = jax.pmap(lambda value: jnp.full(SUMMED, value), devices=devices)(numbers)
        add_up = jax.pmap(lambda array: jax.lax.psum(array, "devices"), axis_name="devices", devices=devices)
        works["sum"] = lambda: jax.block_until_ready(add_up(arrays))
    return works


def machine_of(seconds: Mapping[str, Sequence[float]], job: Job, shared_by: int = 1) -> Machine:
    """Rates of one device by the medians of what ``rate_works`` took; sums over devices count as a ring sends them."""
    took = {name: statistics.median(values) for name, values in seconds.items()}
    rows, columns = _share(job)
    clearing_s, sent = took["pass anew"] - took["pass"], 2 * (job.num_devices - 1) / job.num_devices * SUMMED
    return Machine(
        flops_per_s=5 * 2 * rows * columns * job.hidden / took["products"],
        draws_per_s=rows * columns / took["draws"],
        bytes_per_s=2 * FLOAT_BYTES * LARGE / took["pass"],
        link_bytes_per_s=shared_by * FLOAT_BYTES * sent / took["sum"] if "sum" in took else math.inf,
        fresh_bytes_per_s=FLOAT_BYTES * LARGE / clearing_s if clearing_s > 0 else math.inf,
        shared_by=shared_by,
    )


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
            held, block = job.held_bytes / 2**30, FLOAT_BYTES * job.batch / rows * items / shards / 2**30
            print(
                f"{items:>10,} items, {rows} x {shards}: {ACCELERATOR.seconds(job):.3f} s a step of 3,200 users, "
                f"{held:.0f} GiB a device, {block:.1f} of them for each block of rows and items"
            )


if __name__ == "__main__":
    main()
