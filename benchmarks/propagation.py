"""How should LightGCN sum over the graph: in chunks of index arrays, by plain segment sums, densely, or by SciPy?

One propagation of vectors of size 64, from items to users and from users to items, over the training split. JAX has
what the library does (``rows.embed``) and other ways to do it on the device; SciPy multiplies CSR matrices on the host.

python -m benchmarks.propagation --shape=ml-1m
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.harness import Benchmark, DisagreementError, Measurement, Row, Shape, Work, run, time_interleaved
from diffrec_jax.data import Dataset, make_row_batch, normalised_interactions
from diffrec_jax.rows import embed

EMBEDDING_SIZE = 64
MAX_DENSE_BYTES = 2**31


def _matrices(dataset: Dataset) -> tuple[sparse.csr_array, sparse.csr_array]:
    by_user = normalised_interactions(dataset.train)
    return by_user, sparse.csr_array(by_user.T)


def _vectors(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Of items, for the users' sums, and of users."""
    rng = np.random.default_rng(0)
    counts = (dataset.num_items, dataset.num_users)
    items, users = (rng.normal(size=(count, EMBEDDING_SIZE)).astype(np.float32) for count in counts)
    return items, users


def _on_device(products: list[Callable[[jax.Array], jax.Array]], dataset: Dataset) -> Work:
    tables = [jnp.asarray(table) for table in _vectors(dataset)]
    both = jax.jit(lambda tables: [product(table) for product, table in zip(products, tables)])
    return lambda: jax.block_until_ready(both(tables))


def chunks(dataset: Dataset) -> Work:
    """As the library does it."""
    batches = [make_row_batch(matrix, np.arange(matrix.shape[0])) for matrix in _matrices(dataset)]
    return _on_device([lambda table, batch=batch: embed(batch, table) for batch in batches], dataset)


def segment_sums(dataset: Dataset) -> Work:
    """All gathered rows at once, summed by jax.ops.segment_sum."""

    def product(matrix: sparse.csr_array) -> Callable[[jax.Array], jax.Array]:
        rows = jnp.asarray(np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)))
        columns, values, num_rows = jnp.asarray(matrix.indices), jnp.asarray(matrix.data), matrix.shape[0]
        return lambda table: jax.ops.segment_sum(
            table[columns] * values[:, None], rows, num_rows, indices_are_sorted=True
        )

    return _on_device([product(matrix) for matrix in _matrices(dataset)], dataset)


def dense(dataset: Dataset) -> Work:
    """A matrix product with all zeros in it."""
    matrix = jnp.asarray(_matrices(dataset)[0].toarray())
    return _on_device([lambda table: matrix @ table, lambda table: matrix.T @ table], dataset)


def scipy_products(dataset: Dataset) -> Work:
    """On the host."""
    pairs = list(zip(_matrices(dataset), _vectors(dataset)))
    return lambda: [matrix @ table for matrix, table in pairs]


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """One propagation of either side."""
    del shape
    return chunks(dataset) if side == "ours" else scipy_products(dataset)


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Checks that all give the same, and times them in turn."""
    del shape
    ways = {"chunks (the library's)": chunks, "segment_sum": segment_sums}
    if 4 * dataset.num_users * dataset.num_items <= MAX_DENSE_BYTES:
        ways["dense"] = dense
    works = {name: make(dataset) for name, make in ways.items()} | {"scipy": scipy_products(dataset)}
    expected = works["scipy"]()
    for name, work in works.items():
        for found, right in zip(work(), expected):
            if np.abs(np.asarray(found) - right).max() > 1e-4:
                raise DisagreementError(f"{name} gives other sums than SciPy")
    seconds = time_interleaved(works, repeats)
    rows = [
        Row(f"{name}, beside SciPy", seconds[name], seconds["scipy"], has_memory=name.startswith("chunks"))
        for name in ways
    ]
    return Measurement(rows=rows, notes=["all ways give the same sums to 1e-4"])


BENCHMARK = Benchmark("propagation", make_side, measure, repeats=10, sides=("JAX", "SciPy"))

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
