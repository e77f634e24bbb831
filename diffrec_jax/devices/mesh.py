"""Devices in a grid: rows of a batch are split over one axis, whatever has an axis of items over the other."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import sparse

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.devices.base import DeviceStrategy
from diffrec_jax.products import whole_products
from diffrec_jax.top_k import top_k
from diffrec_jax.typing import Array

DATA, ITEMS = "data", "items"


@dataclass(frozen=True)
class MeshStrategy(DeviceStrategy):
    """One program over a grid of devices: rows split over ``data``, items over ``items``.

    Of every array the first axis that has an entry for each item, or for each of a group, is split over the devices'
    items axis, padded with zeros to a multiple of it; functions see true shapes, but for what they update in place. The
    other arrays are copied.
    """

    num_data_shards: int
    num_item_shards: int
    num_items: int
    group_sizes: tuple[int, ...] = ()
    """Of the item groups, for models that have arrays of their own for each."""

    @property
    def num_devices(self) -> int:
        """Of the whole grid."""
        return self.num_data_shards * self.num_item_shards

    @property
    def description(self) -> str:
        """For people."""
        return f" by mesh {self.num_data_shards}x{self.num_item_shards}"

    @property
    def num_row_shards(self) -> int:
        """Devices along ``data``."""
        return self.num_data_shards

    @property
    def num_state_copies(self) -> int:
        """One for each part of the rows; of several processes, each holds its share."""
        return -(-self.num_data_shards // jax.process_count())

    @property
    def grid(self) -> jax.sharding.Mesh:
        """The devices, of all processes."""
        shape = (self.num_data_shards, self.num_item_shards)
        devices = jax.devices()[: shape[0] * shape[1]]
        return jax.make_mesh(shape, (DATA, ITEMS), axis_types=(AxisType.Auto,) * 2, devices=devices)

    def for_item_groups(self, item_groups: np.ndarray) -> "MeshStrategy":
        """Splits the groups' own arrays too."""
        return dataclasses.replace(self, group_sizes=tuple(np.bincount(item_groups).tolist()))

    @functools.cached_property
    def _padded_sizes(self) -> dict[int, int]:
        """Of each size of an axis that is split; no two are padded to the same, so that the padding can be told."""
        padded, share_size = {}, 0
        for size in sorted({*self.group_sizes, self.num_items}):
            share_size = max(-(-size // self.num_item_shards), share_size + 1)
            padded[size] = share_size * self.num_item_shards
        return padded

    def _true_size(self, padded_size: int) -> int:
        return next(size for size, padded in self._padded_sizes.items() if padded == padded_size)

    def _items_axis(self, leaf: Any) -> int | None:
        return next((axis for axis, size in enumerate(np.shape(leaf)) if size in self._padded_sizes), None)

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.grid, PartitionSpec(*axes))

    def _split(self, axis: int | None) -> NamedSharding:
        return self._sharding() if axis is None else self._sharding(*[None] * axis, ITEMS)

    def _padding(self, leaf: Any, axis: int) -> list[tuple[int, int]]:
        sizes = enumerate(np.shape(leaf))
        return [(0, self._padded_sizes[size] - size if place == axis else 0) for place, size in sizes]

    def _constrain(self, leaf: Any, axis: int | None) -> Any:
        return jax.lax.with_sharding_constraint(leaf, self._split(axis))

    def _unpad(self, leaf: Any, axis: int | None) -> Any:
        if axis is None:
            return leaf
        return self._constrain(jax.lax.slice_in_dim(leaf, 0, self._true_size(leaf.shape[axis]), axis=axis), axis)

    def _pad(self, leaf: Any) -> Any:
        axis = self._items_axis(leaf)
        return self._constrain(leaf if axis is None else jnp.pad(leaf, self._padding(leaf, axis)), axis)

    def _pad_like(self, leaf: Any, stored: Any, axis: int | None) -> Any:
        missing = [(0, whole - own) for own, whole in zip(leaf.shape, stored.shape, strict=True)]
        return self._constrain(jnp.pad(leaf, missing) if any(after for _, after in missing) else leaf, axis)

    def unpad(self, tree: Any, like: Any) -> Any:
        """The padding cut off; its gradient pads with zeros."""
        return jax.tree.map(lambda leaf, true: self._unpad(leaf, self._items_axis(true)), tree, like)

    def compile(self, function: Callable, *, in_place: bool = False, gives_rows: bool = False) -> Callable:
        """Compiles for the whole grid; which arrays are split, their placement says."""
        del gives_rows  # the compiler knows
        function = whole_products()(function)

        def padded_function(axes: tuple[int | None, ...], *arguments: Any) -> Any:
            leaves, structure = jax.tree.flatten(arguments)
            cut = [self._unpad(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]
            return jax.tree.map(self._pad, function(*jax.tree.unflatten(structure, cut)))

        def update(axes: tuple[int | None, ...], *arguments: Any) -> Any:
            leaves, structure = jax.tree.flatten(function(*arguments))
            stored = jax.tree.leaves(arguments[0])
            anew, others = leaves[: len(stored)], leaves[len(stored) :]
            kept = map(self._pad_like, anew, stored, axes[: len(stored)])
            return jax.tree.unflatten(structure, [*kept, *map(self._pad, others)])

        # Cutting and padding all that is updated would copy it: zeros go through an optimizer as they are.
        compiled = jax.jit(
            update if in_place else padded_function, static_argnums=0, donate_argnums=(1,) if in_place else ()
        )

        def call(*arguments: Any) -> Any:
            return compiled(tuple(_split_axis(leaf) for leaf in jax.tree.leaves(arguments)), *arguments)

        return call

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
        """The whole batch; each process fills the rows of its own devices."""
        num_shards, grid = self.num_row_shards, self.grid
        index = jax.process_index()
        own = [place for place, devices in enumerate(grid.devices) if any(d.process_index == index for d in devices)]
        made = {
            (part, shard): make_row_batch(
                matrix,
                user_ids,
                batch_size=batch_size,
                num_shards=num_shards * num_parts,
                own_shards=range(part * num_shards + shard, part * num_shards + shard + 1),
                targets=targets,
                tight=tight,
            )
            for part in range(num_parts)
            for shard in own
        }
        shard_size = batch_size // (num_shards * num_parts)
        with_parts = num_parts > 1
        sharding = self._sharding(*[None] * with_parts, DATA)

        def joined(name: str) -> jax.Array:
            def values(part: int, shard: int) -> np.ndarray:
                found = getattr(made[part, shard], name).reshape(-1)
                return found + shard * shard_size if name == "rows" else found

            width = values(0, own[0]).size

            def share(place: Any) -> np.ndarray:
                shards = range(num_shards)[slice((place[-1].start or 0) // width, _ceil(place[-1].stop, width))]
                parts = [np.concatenate([values(part, shard) for shard in shards]) for part in range(num_parts)]
                return np.stack(parts) if with_parts else parts[0]

            shape = (*[num_parts] * with_parts, width * num_shards)
            return jax.make_array_from_callback(shape, sharding, share)

        first = next(iter(made.values()))
        return RowBatch(*(None if getattr(first, name) is None else joined(name) for name in RowBatch._fields))

    def place(self, tree: Any) -> Any:
        """Every leaf split or copied over the grid."""

        def put(leaf: Any) -> jax.Array:
            axis, leaf = self._items_axis(leaf), np.asarray(leaf)
            padded = leaf if axis is None else np.pad(leaf, self._padding(leaf, axis))
            return jax.make_array_from_callback(padded.shape, self._split(axis), lambda place: padded[place])

        return jax.tree.map(put, tree)

    def fetch(self, tree: Any) -> Any:
        """Each leaf, its shares joined and its padding cut off."""

        def get(leaf: Any) -> np.ndarray:
            axis = _split_axis(leaf)
            reaches_all = getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated
            whole = np.asarray(leaf if reaches_all else multihost_utils.process_allgather(leaf, tiled=True))
            return whole if axis is None else whole[(*[slice(None)] * axis, slice(self._true_size(whole.shape[axis])))]

        return jax.tree.map(get, tree)

    def fetch_rows(self, tree: Any) -> Any:
        """They are copied to every device."""
        return self.fetch(tree)

    def top_k(self, scores: Array, k: int) -> tuple[Array, Array]:
        """The k best of each share of the items, then the k best of those; of equal scores the lower id first."""
        padded_items = self._padded_sizes[self.num_items]
        scores = jnp.pad(scores, [(0, 0), (0, padded_items - self.num_items)], constant_values=-jnp.inf)
        share_size = padded_items // self.num_item_shards

        def of_share(share: Array) -> tuple[Array, Array]:
            values, items = top_k(share, min(k, share_size))
            items = items + jax.lax.axis_index(ITEMS) * share_size
            values, items = (jax.lax.all_gather(part, ITEMS, axis=1, tiled=True) for part in (values, items))
            values, places = jax.lax.top_k(values, k)
            return values, jnp.take_along_axis(items, places, axis=1)

        rows = PartitionSpec(DATA, None)
        return jax.shard_map(
            of_share,
            mesh=self.grid,
            in_specs=PartitionSpec(DATA, ITEMS),
            out_specs=(rows, rows),
            check_vma=False,  # what all items' shares agree on after the gathering is not seen by the check
        )(scores)

    def checkpoint_target(self, abstract: Any) -> Any:
        """The padded shapes, split over the grid."""

        def like(leaf: Any) -> jax.ShapeDtypeStruct:
            axis = self._items_axis(leaf)
            sizes = enumerate(leaf.shape)
            shape = tuple(self._padded_sizes[size] if place == axis else size for place, size in sizes)
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=self._split(axis))

        return jax.tree.map(like, abstract)


def _split_axis(leaf: Any) -> int | None:
    """The axis of a placed array that is split over items.

    Where one device has all items, no axis is, whatever the sharding says: it may name any axis then.
    """
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.shape[ITEMS] == 1 or ITEMS not in sharding.spec:
        return None
    return tuple(sharding.spec).index(ITEMS)


def _ceil(stop: int | None, width: int) -> int | None:
    return None if stop is None else -(-stop // width)
