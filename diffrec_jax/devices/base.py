"""Where functions run and values live: what evaluation and training ask of it, and the plainest answer, one device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.top_k import top_k
from diffrec_jax.typing import Array


@dataclass(frozen=True)
class DeviceStrategy:
    """``jax.jit`` on the first device. What runs on several is another class with the same methods."""

    @property
    def num_devices(self) -> int:
        """All of them, of all processes."""
        return 1

    @property
    def description(self) -> str:
        """How several devices are used, for people."""
        return ""

    @property
    def num_row_shards(self) -> int:
        """Parts that the rows of a batch are split into; a batch size must be a multiple of it."""
        return 1

    @property
    def num_state_copies(self) -> int:
        """Whole states that the devices of this process hold together."""
        return 1

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that a step has to reduce over by itself; None where the compiler sees the whole batch."""
        return None

    def for_item_groups(self, item_groups: np.ndarray) -> "DeviceStrategy":
        """The same devices, for a model that has arrays of their own for items in groups [I]."""
        del item_groups
        return self

    def compile(self, function: Callable, *, in_place: bool = False, gives_rows: bool = False) -> Callable:
        """A compiled function of placed values and batches.

        Args:
          function: pure; what it gives is the same whatever rows a device has, unless it gives rows.
          in_place: it gives its first argument anew, alone or before other values, and may take its memory. It gets
            this one as it is stored: ``unpad`` gives the true shapes.
          gives_rows: its values have a leading axis of the batch's rows, for ``fetch_rows``.
        """
        return jax.jit(function, donate_argnums=(0,) if in_place else ())

    def unpad(self, tree: Any, like: Any) -> Any:
        """Stored values in the true shapes, those of ``like``, within a function that is compiled ``in_place``."""
        del like
        return tree

    def make(self, function: Callable) -> Callable:
        """A compiled function of placed values alone, without batches, or of nothing; its values are placed."""
        return self.compile(function)

    def make_batch(
        self,
        matrix: sparse.csr_array,
        user_ids: np.ndarray,
        *,
        batch_size: int,
        targets: np.ndarray | None = None,
        num_parts: int = 1,
        tight: bool = False,
    ) -> RowBatch:
        """``make_row_batch``, ready for a compiled function; with ``num_parts`` > 1 fields have that leading axis."""
        return make_row_batch(
            matrix, user_ids, batch_size=batch_size, targets=targets, num_shards=num_parts, tight=tight
        )

    def place(self, tree: Any) -> Any:
        """Host values, the same on every process, as a compiled function takes them."""
        return jax.device_put(tree)

    def fetch(self, tree: Any) -> Any:
        """Placed values as NumPy arrays of their true shapes; small ones, for they come whole to every process."""
        return jax.device_get(tree)

    def fetch_rows(self, tree: Any) -> Any:
        """Values with a leading axis of the batch's rows, as NumPy arrays of the whole batch on every process."""
        return jax.device_get(tree)

    def top_k(self, scores: Array, k: int) -> tuple[Array, Array]:
        """``jax.lax.top_k`` over the last axis of scores [B, I], within a compiled function."""
        return top_k(scores, k)

    def to_checkpoint(self, tree: Any) -> Any:
        """Placed values as a checkpoint takes them."""
        return tree

    def checkpoint_target(self, abstract: Any) -> Any:
        """The target that a checkpoint is read into, from ShapeDtypeStructs of the true shapes."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract)

    def from_checkpoint(self, tree: Any) -> Any:
        """What was read into ``checkpoint_target``, placed."""
        return tree


SINGLE_DEVICE = DeviceStrategy()
