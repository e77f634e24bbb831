"""The variational autoencoder of L-DiffRec: an encoder per item group, and a decoder over all items.

Reference: arXiv:2304.04971, L-DiffRec, and the settings of its released experiments.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.models.decoded_errors import Decoder, decoded_multinomial_nll
from diffrec_jax.models.mlp import ACTIVATIONS, normal_kernel
from diffrec_jax.rows import embed_each
from diffrec_jax.typing import Array


def split_size(total: int, group_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A layer's width split over the groups in proportion: rounded down, at least 1, the last group takes the rest.

    Raises:
      ValueError: nothing is left for the last group.
    """
    num_items = sum(group_sizes)
    parts = [max(1, total * size // num_items) for size in group_sizes[:-1]]
    rest = total - sum(parts)
    if rest < 1:
        raise ValueError(
            f"a layer of {total} units cannot be split over {len(group_sizes)} item groups of sizes "
            f"{list(group_sizes)}: widen in_dims and out_dims, or choose fewer groups"
        )
    return (*parts, rest)


class GroupedVAE(nn.Module):
    """Encodes each group's part of a row by itself, and decodes the joined latent vector to logits of all items.

    Group c with n_c of the I items has the encoder n_c -> (its share of ``in_dims``, the last one doubled), every layer
    with the activation, also the last: it gives the mean and the log variance of its share l_c of the L = in_dims[-1]
    latent dimensions. Without ``out_dims`` one linear layer L -> I decodes all groups; with them group c has its own,
    l_c -> (its share of out_dims) -> n_c, linear at the end.

    The first layer sums kernel rows over the items that a row stores, so no [B, I] block is made. Every group has an
    output table of its own, [n_c, H_c] with a row for each item, so that the gradient of one exists at a time.
    """

    item_groups: np.ndarray
    """[I] int, in 0..C-1; every group has an item."""
    in_dims: tuple[int, ...] = (300,)
    out_dims: tuple[int, ...] = ()
    activation: str = "tanh"

    def setup(self) -> None:
        """Creates the parameters."""
        groups = np.asarray(self.item_groups)
        self.group_sizes = tuple(int(size) for size in np.bincount(groups))
        num_items = len(groups)
        order = np.argsort(groups, kind="stable")  # items, group by group
        self.place = np.empty(num_items, np.int32)
        """Of an item among all items in group order."""
        self.place[order] = np.arange(num_items)
        encoder_sizes = [split_size(size, self.group_sizes) for size in self.in_dims]
        self.latent_sizes = encoder_sizes[-1]
        encoders = []
        for group, size in enumerate(self.group_sizes):
            sizes = [size, *(part[group] for part in encoder_sizes)]
            sizes[-1] *= 2
            encoders.append(self._layers(f"encoder_{group}", sizes))
        self.encoders = encoders
        decoders, decoder_sizes = [], [split_size(size, self.group_sizes) for size in self.out_dims]
        if self.out_dims:
            for group, latent_size in enumerate(self.latent_sizes):
                sizes = [latent_size, *(part[group] for part in decoder_sizes)]
                decoders.append(self._layers(f"decoder_{group}", sizes))
        self.decoders = decoders
        self.outputs = [
            self._output(group, size, decoder_sizes[-1][group] if self.out_dims else None)
            for group, size in enumerate(self.group_sizes)
        ]

    def _layers(self, name: str, sizes: list[int]) -> list[tuple[Array, Array]]:
        return [
            (
                self.param(f"{name}_{layer}_kernel", normal_kernel(before), (before, after)),
                self.param(f"{name}_{layer}_bias", nn.initializers.zeros_init(), (after,)),
            )
            for layer, (before, after) in enumerate(zip(sizes[:-1], sizes[1:]))
        ]

    def _output(self, group: int, num_items: int, own_size: int | None) -> tuple[Array, Array]:
        """Table and bias of a group; without an ``own_size`` it is a part of the layer L -> I."""
        size = self.in_dims[-1] if own_size is None else own_size
        fan_out = len(self.place) if own_size is None else num_items
        table = self.param(f"output_{group}_table", normal_kernel(size, fan_out), (num_items, size))
        return table, self.param(f"output_{group}_bias", nn.initializers.zeros_init(), (num_items,))

    def _rows_of_groups(self, batch: RowBatch) -> list[RowBatch]:
        """The rows of each group's items, numbered from 0; the other entries are padding."""
        groups = jnp.asarray(self.item_groups).at[batch.item_ids].get(mode="fill", fill_value=-1)
        places = jnp.asarray(self.place).at[batch.item_ids].get(mode="fill", fill_value=0)
        starts = np.cumsum([0, *self.group_sizes[:-1]])
        return [
            batch._replace(
                item_ids=jnp.where(groups == group, places - start, size),
                weights=jnp.where(groups == group, batch.weights, 0.0),
            )
            for group, (start, size) in enumerate(zip(starts, self.group_sizes))
        ]

    def encode(self, batch: RowBatch) -> tuple[Array, Array]:
        """Mean and log variance of the rows' latent vectors, [B, L] each."""
        activation = ACTIVATIONS[self.activation]
        means, log_variances = [], []
        embedded = embed_each(self._rows_of_groups(batch), [layers[0][0] for layers in self.encoders])
        for hidden, ((_, bias), *others) in zip(embedded, self.encoders):
            hidden = activation(hidden + bias[None])
            for kernel, bias in others:
                hidden = activation(hidden @ kernel + bias[None])
            mean, log_variance = jnp.split(hidden, 2, axis=1)
            means.append(mean)
            log_variances.append(log_variance)
        return jnp.concatenate(means, axis=1), jnp.concatenate(log_variances, axis=1)

    def _decode_hidden(self, z: Array) -> list[Array]:
        """What each group's output table reads, [B, H_c], from latent vectors z [B, L]: z itself without out_dims."""
        if not self.decoders:
            return [z] * len(self.group_sizes)
        activation, parts = ACTIVATIONS[self.activation], []
        for part, layers in zip(jnp.split(z, np.cumsum(self.latent_sizes)[:-1], axis=1), self.decoders):
            for kernel, bias in layers:
                part = activation(part @ kernel + bias[None])
            parts.append(part)
        return parts

    def output_layer(self) -> tuple[Array, Array]:
        """The output tables of all groups as one [I, H], zeros outside a group's columns, and their biases, [I].

        H is L, or out_dims[-1]: with it, decoding is one product.
        """
        tables, biases = zip(*self.outputs)
        if self.out_dims:
            ends = np.cumsum([table.shape[1] for table in tables])
            tables = [
                jnp.pad(table, ((0, 0), (end - table.shape[1], ends[-1] - end))) for table, end in zip(tables, ends)
            ]
        return jnp.concatenate(tables)[self.place], jnp.concatenate(biases)[self.place]

    def decode(self, z: Array, output_layer: tuple[Array, Array] | None = None) -> Array:
        """Logits of all items [B, I] from latent vectors z [B, L]; ``output_layer()`` may be made once before."""
        table, bias = self.output_layer() if output_layer is None else output_layer
        hidden = self._decode_hidden(z)
        return (jnp.concatenate(hidden, axis=1) if self.out_dims else z) @ table.T + bias[None]

    def decoded_nll(self, z: Array, batch: RowBatch) -> Array:
        """``multinomial_nll(decode(z), batch)`` [B], without the [B, I] block."""
        parts = zip(self._decode_hidden(z), self.outputs, self._rows_of_groups(batch))
        return decoded_multinomial_nll([Decoder(hidden, *output, rows) for hidden, output, rows in parts])

    def __call__(self, batch: RowBatch) -> Array:
        """Logits of all items from the rows' mean latent vectors, [B, I]."""
        mean, _ = self.encode(batch)
        return self.decode(mean)
